package client

import (
	"context"
	"net/http"
	"net/url"

	"github.com/covehq/cove"
	"github.com/covehq/cove/internal/httpapi"
)

// Keys returns the daemon's keys by name, without themselves.
func (c *Client) Keys(ctx context.Context) ([]cove.Key, error) {
	var reply httpapi.Keys
	err := c.call(ctx, request{op: "list keys", method: http.MethodGet, path: "/v1/keys"}, &reply)
	return reply.Keys, err
}

// CreateKey makes a key. What it returns has the key itself, which the daemon does not
// keep.
func (c *Client) CreateKey(ctx context.Context, in cove.KeyInput) (cove.NewKey, error) {
	var made cove.NewKey
	err := c.call(ctx, request{op: "create key", method: http.MethodPost, path: "/v1/keys", in: in}, &made)
	return made, err
}

// RemoveKey revokes the key of that name or id. What is open with it ends.
func (c *Client) RemoveKey(ctx context.Context, nameOrID string) error {
	return c.call(ctx, request{op: "remove key", method: http.MethodDelete, path: "/v1/keys/" + url.PathEscape(nameOrID)}, nil)
}
