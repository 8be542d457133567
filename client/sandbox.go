package client

import (
	"context"
	"net/http"
	"net/url"

	"github.com/covehq/cove"
	"github.com/covehq/cove/internal/httpapi"
)

// Sandbox is a handle on one sandbox. The embedded view is what the server said last:
// Refresh and Update renew it. Its methods may be called concurrently, except those two.
type Sandbox struct {
	cove.Sandbox
	// Reused says that Create, with CreateOptions.Reuse, found the sandbox and did not
	// make it.
	Reused bool
	client *Client
}

// CreateOptions modifies Create.
type CreateOptions struct {
	// IdempotencyKey makes repeating a Create safe: the same key and spec give the same
	// sandbox, however often they are sent.
	IdempotencyKey string
	// Reuse takes the living sandbox that has the spec's name, where there is one, if it
	// was created with the same spec; cove.Conflict says what differs.
	Reuse bool
}

// Filter chooses sandboxes. The zero value chooses all.
type Filter struct {
	Labels map[string]string // all of these
	State  cove.State        // and in this state
}

// Create makes a sandbox and returns when it can be used.
func (c *Client) Create(ctx context.Context, spec cove.Spec, o CreateOptions) (*Sandbox, error) {
	var status int
	r := request{op: "create", method: http.MethodPost, path: "/v1/sandboxes", in: spec, status: &status}
	if o.Reuse {
		r.query = url.Values{"if_exists": {"return"}}
	}
	if o.IdempotencyKey != "" {
		r.header = http.Header{httpapi.HeaderIdempotencyKey: {o.IdempotencyKey}}
	}
	made, err := c.sandbox(ctx, r)
	if err != nil {
		return nil, err
	}
	made.Reused = o.Reuse && status == http.StatusOK
	return made, nil
}

// Get returns the sandbox with this id or name.
func (c *Client) Get(ctx context.Context, idOrName string) (*Sandbox, error) {
	return c.sandbox(ctx, request{op: "find sandbox", method: http.MethodGet, path: sandboxPath(idOrName)})
}

// Handle returns a handle on a sandbox without asking the server whether there is one.
// Its view has the id alone.
func (c *Client) Handle(idOrName string) *Sandbox {
	return &Sandbox{Sandbox: cove.Sandbox{ID: idOrName}, client: c}
}

// List returns the sandboxes that match, oldest first.
func (c *Client) List(ctx context.Context, filter Filter) ([]cove.Sandbox, error) {
	query := url.Values{}
	for key, value := range filter.Labels {
		query.Add("label", key+"="+value)
	}
	if filter.State != "" {
		query.Set("state", string(filter.State))
	}
	var reply httpapi.Sandboxes
	err := c.call(ctx, request{op: "list sandboxes", method: http.MethodGet, path: "/v1/sandboxes", query: query}, &reply)
	return reply.Sandboxes, err
}

// Refresh asks the server for the current view.
func (s *Sandbox) Refresh(ctx context.Context) error {
	return s.renew(ctx, s.request("find sandbox", http.MethodGet, ""))
}

// Update changes lifetimes and labels.
func (s *Sandbox) Update(ctx context.Context, update cove.SandboxUpdate) error {
	r := s.request("update", http.MethodPatch, "")
	r.in = update
	return s.renew(ctx, r)
}

// renew replaces the whole view: what the reply leaves out is not what it was before.
func (s *Sandbox) renew(ctx context.Context, r request) error {
	var view cove.Sandbox
	if err := s.client.call(ctx, r, &view); err != nil {
		return err
	}
	s.Sandbox = view
	return nil
}

// Remove destroys the sandbox and returns when nothing of it is left. Removing one that
// is gone succeeds.
func (s *Sandbox) Remove(ctx context.Context) error {
	return s.client.call(ctx, s.request("remove", http.MethodDelete, ""), nil)
}

func (c *Client) sandbox(ctx context.Context, r request) (*Sandbox, error) {
	s := &Sandbox{client: c}
	if err := c.call(ctx, r, &s.Sandbox); err != nil {
		return nil, err
	}
	return s, nil
}

func sandboxPath(idOrName string) string {
	if idOrName == "" || idOrName == "." || idOrName == ".." {
		// Such a path segment would be lost on the way; no sandbox is called so.
		idOrName = "-"
	}
	return "/v1/sandboxes/" + url.PathEscape(idOrName)
}

// request starts a request below the sandbox; path is escaped already.
func (s *Sandbox) request(op, method, path string) request {
	return request{op: op, method: method, path: sandboxPath(s.ID) + path}
}
