package client

import (
	"context"
	"iter"
	"net/http"
	"net/url"
	"strconv"

	"github.com/covehq/cove"
	"github.com/covehq/cove/internal/httpapi"
)

// Network returns what the sandbox may reach, and what that has come to.
func (s *Sandbox) Network(ctx context.Context) (cove.NetworkStatus, error) {
	var status cove.NetworkStatus
	err := s.client.call(ctx, s.request("network", http.MethodGet, "/network"), &status)
	return status, err
}

// SetNetwork changes what the sandbox may reach. It holds for new connections when
// SetNetwork returns; those that it does not allow are closed.
func (s *Sandbox) SetNetwork(ctx context.Context, update cove.NetworkUpdate) (cove.NetworkStatus, error) {
	var status cove.NetworkStatus
	r := s.request("set network", http.MethodPatch, "/network")
	r.in = update
	err := s.client.call(ctx, r, &status)
	return status, err
}

// NetworkEvents returns the decisions about what the sandbox wanted to reach that are
// kept, after the one with that number. lost says that some after it are not kept.
func (s *Sandbox) NetworkEvents(ctx context.Context, after uint64) (events []cove.NetworkEvent, lost bool, err error) {
	var reply httpapi.NetworkEvents
	r := s.request("network log", http.MethodGet, "/network/log")
	r.query = afterEvent(after)
	err = s.client.call(ctx, r, &reply)
	return reply.Events, reply.Lost, err
}

// FollowNetwork yields those decisions as they are made, beginning after the one with that
// number, until ctx or the sandbox ends, with an error as the last thing that it yields.
func (s *Sandbox) FollowNetwork(ctx context.Context, after uint64) iter.Seq2[cove.NetworkEvent, error] {
	r := s.request("network log", http.MethodGet, "/network/log")
	r.query = afterEvent(after)
	return follow[cove.NetworkEvent](ctx, s.client, r, false)
}

func afterEvent(after uint64) url.Values {
	return url.Values{"after": {strconv.FormatUint(after, 10)}}
}

// NetworkPresets returns the names for rules that there are, and what each means on the
// daemon's machine.
func (c *Client) NetworkPresets(ctx context.Context) ([]cove.NetworkPreset, error) {
	var reply httpapi.NetworkPresets
	err := c.call(ctx, request{op: "network presets", method: http.MethodGet, path: "/v1/network/presets"}, &reply)
	return reply.Presets, err
}

// SetSecret stores a secret, or changes the one of that name: that of the key's owner, or for
// an admin everybody's. Sandboxes that use it get the new value for what they send from then
// on.
func (c *Client) SetSecret(ctx context.Context, name string, in cove.SecretInput) (cove.Secret, error) {
	var secret cove.Secret
	err := c.call(ctx, request{op: "set secret", method: http.MethodPut, path: secretPath(name), in: in}, &secret)
	return secret, err
}

// Secret returns a stored secret, without its value: that of the key's owner, else
// everybody's.
func (c *Client) Secret(ctx context.Context, name string) (cove.Secret, error) {
	return c.SecretOf(ctx, "", name)
}

// SecretOf returns a secret of an owner, for an admin.
func (c *Client) SecretOf(ctx context.Context, owner, name string) (cove.Secret, error) {
	var secret cove.Secret
	err := c.call(ctx, request{op: "secret", method: http.MethodGet, path: secretPath(name), query: ownerQuery(owner)}, &secret)
	return secret, err
}

// Secrets returns the stored secrets by name, without their values: everybody's and those of
// the key's owner, or for an admin all.
func (c *Client) Secrets(ctx context.Context) ([]cove.Secret, error) {
	var reply httpapi.Secrets
	err := c.call(ctx, request{op: "list secrets", method: http.MethodGet, path: "/v1/secrets"}, &reply)
	return reply.Secrets, err
}

// RemoveSecret removes a secret that SetSecret stored. Removing one that is not there is an
// error that is cove.NotFound, and one that is everybody's cove.Forbidden but for an admin.
func (c *Client) RemoveSecret(ctx context.Context, name string) error {
	return c.RemoveSecretOf(ctx, "", name)
}

// RemoveSecretOf removes a secret of an owner, for an admin.
func (c *Client) RemoveSecretOf(ctx context.Context, owner, name string) error {
	return c.call(ctx, request{op: "remove secret", method: http.MethodDelete, path: secretPath(name), query: ownerQuery(owner)}, nil)
}

func ownerQuery(owner string) url.Values {
	if owner == "" {
		return nil
	}
	return url.Values{"owner": {owner}}
}

func secretPath(name string) string {
	if name == "" || name == "." || name == ".." {
		name = "-" // as sandboxPath does
	}
	return "/v1/secrets/" + url.PathEscape(name)
}
