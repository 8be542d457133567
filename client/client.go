// Package client provides Cove to Go programs: sandboxes, commands, files and ports of a
// daemon, over its HTTP API.
//
//	c, err := client.New(client.Options{})
//	sandbox, err := c.Create(ctx, cove.Spec{}, client.CreateOptions{})
//	defer sandbox.Remove(context.Background())
//	out, err := sandbox.Command("python3", "-c", "print(6*7)").Output()
//
// Every error is a *cove.Error with the code that the server gave, cove.Unavailable when
// no server answered, or one that wraps the context's error.
package client

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/covehq/cove"
	"github.com/covehq/cove/internal/httpapi"
)

// Options says which daemon to speak to. The zero value means this machine's.
type Options struct {
	// URL is unix:///path/of/socket, http://host:port or https://host:port, the latter
	// two optionally with a path prefix. Default DefaultURL().
	URL string
	// APIKey is sent to a daemon on the network. Default COVE_API_KEY. A unix socket needs
	// none, and none is sent to it.
	APIKey string
	// HTTP is used instead of a client of our own. For a unix URL it must dial the
	// socket itself.
	HTTP *http.Client
}

// Client speaks to one daemon. It is safe for concurrent use and reuses connections.
type Client struct {
	base   *url.URL
	socket string
	key    string
	http   *http.Client
}

// DefaultURL returns where this user's daemon listens, as the cove program finds it:
// COVE_URL, else the socket in COVE_STATE_DIR, in /run/cove for root, in
// $XDG_RUNTIME_DIR/cove, or in the directory run of where this user's data is.
func DefaultURL() string {
	if address := os.Getenv("COVE_URL"); address != "" {
		return address
	}
	return "unix://" + filepath.Join(stateDir(os.Geteuid(), os.Getenv), "cove.sock")
}

func stateDir(uid int, getenv func(string) string) string {
	if dir := getenv("COVE_STATE_DIR"); dir != "" {
		if absolute, err := filepath.Abs(dir); err == nil {
			return absolute
		}
	}
	if uid == 0 {
		return "/run/cove"
	}
	if dir := getenv("XDG_RUNTIME_DIR"); filepath.IsAbs(dir) {
		return filepath.Join(dir, "cove")
	}
	data := getenv("COVE_DATA_DIR")
	if data == "" && filepath.IsAbs(getenv("XDG_DATA_HOME")) {
		data = filepath.Join(getenv("XDG_DATA_HOME"), "cove")
	}
	if data == "" {
		data = filepath.Join(getenv("HOME"), ".local", "share", "cove")
	}
	return filepath.Join(data, "run")
}

// New returns a client. It does not connect.
func New(o Options) (*Client, error) {
	if o.URL == "" {
		o.URL = DefaultURL()
	}
	base, err := url.Parse(o.URL)
	if err != nil {
		return nil, invalidURL(o.URL, err.Error())
	}
	c := &Client{base: base, key: cmp.Or(o.APIKey, os.Getenv("COVE_API_KEY")), http: o.HTTP}
	switch {
	case base.Scheme == "unix" && base.Host == "" && base.Path != "":
		c.socket, c.key = base.Path, ""
		// The host part is never resolved; the server accepts any on a unix socket.
		c.base = &url.URL{Scheme: "http", Host: "cove"}
	case (base.Scheme == "http" || base.Scheme == "https") && base.Host != "":
		base.Path = strings.TrimRight(base.Path, "/")
	default:
		return nil, invalidURL(o.URL, "neither a unix socket nor a web address")
	}
	if c.http == nil {
		c.http = &http.Client{Transport: c.transport()}
	}
	copied := *c.http
	copied.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	c.http = &copied
	return c, nil
}

func invalidURL(text, problem string) error {
	return cove.Errorf(cove.Invalid, "connect", text, problem, "use unix:///path/of/socket, http://host:port or https://host:port")
}

// Close closes connections that are idle. Streams go on.
func (c *Client) Close() error {
	c.http.CloseIdleConnections()
	return nil
}

// URL returns the address of an API path, for use with HTTP.
func (c *Client) URL(path string) string { return c.base.String() + path }

// HTTP returns the HTTP client that reaches the daemon, also through a unix socket. It
// does not follow redirects and adds no key.
func (c *Client) HTTP() *http.Client { return c.http }

func (c *Client) transport() *http.Transport {
	dialer := &net.Dialer{Timeout: 10 * time.Second}
	t := &http.Transport{
		DialContext:           dialer.DialContext,
		TLSHandshakeTimeout:   10 * time.Second,
		ExpectContinueTimeout: 2 * time.Second,
		MaxIdleConnsPerHost:   32,
		IdleConnTimeout:       60 * time.Second,
		ReadBufferSize:        64 << 10,
		WriteBufferSize:       64 << 10,
		// Compressing what crosses a socket of the same machine costs more than it saves,
		// and a download should arrive as it is.
		DisableCompression: true,
	}
	if c.socket != "" {
		t.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return dialer.DialContext(ctx, "unix", c.socket)
		}
	} else {
		t.Proxy = http.ProxyFromEnvironment
	}
	return t
}

// fail returns the error of a request that got no reply.
func (c *Client) fail(ctx context.Context, op string, err error) error {
	if ctx.Err() != nil {
		return cove.Wrap(ctx.Err(), op, "")
	}
	var urlError *url.Error
	if errors.As(err, &urlError) {
		err = urlError.Err
	}
	where := c.base.String()
	if c.socket != "" {
		where = c.socket
	}
	return &cove.Error{
		Code: cove.Unavailable, Op: op,
		Err:  fmt.Errorf("the daemon at %s did not answer: %w", where, err),
		Hint: "check that it runs (cove serve) and that the address is right",
	}
}

// Healthy returns nil when the daemon answers.
func (c *Client) Healthy(ctx context.Context) error {
	return c.call(ctx, request{op: "health", method: http.MethodGet, path: "/healthz"}, nil)
}

// Version returns what the daemon is.
func (c *Client) Version(ctx context.Context) (cove.Build, error) {
	var build cove.Build
	err := c.call(ctx, request{op: "version", method: http.MethodGet, path: "/v1/version"}, &build)
	return build, err
}

// Runtimes returns what the daemon's host can, and can't, isolate with.
func (c *Client) Runtimes(ctx context.Context) ([]cove.Runtime, error) {
	var reply httpapi.Runtimes
	err := c.call(ctx, request{op: "list runtimes", method: http.MethodGet, path: "/v1/runtimes"}, &reply)
	return reply.Runtimes, err
}
