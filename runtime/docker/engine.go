package docker

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/docker/cli/cli/config"
	endpoints "github.com/docker/cli/cli/context/docker"
	contexts "github.com/docker/cli/cli/context/store"
	"github.com/moby/moby/client"
	"golang.org/x/sys/unix"

	"github.com/covehq/cove"
)

const (
	// pingTimeout bounds the question whether the engine answers.
	pingTimeout = 5 * time.Second
	// callTimeout bounds every call to the engine, which waits for a runtime in most of them.
	callTimeout = 30 * time.Second
	// pullTimeout bounds the fetching of an image.
	pullTimeout = time.Hour
	// largestReply bounds what the engine answers to one call.
	largestReply = 64 << 20
)

// startHint is what to do about an engine that can't be reached.
const startHint = "install Docker and start it (systemctl start docker), or set DOCKER_HOST or DOCKER_CONTEXT to an engine that runs"

// engine is the connection to one. It is made at the first call.
type engine struct {
	host string // as Options.Host

	mu      sync.Mutex
	clients *clients
}

// clients are one engine's. The library bounds no reply, and takes no transport that does
// and has streams too: so there is one client for each.
type clients struct {
	*client.Client                // for all that is answered
	streams        *client.Client // for connections that become a process's streams
}

// connect returns the clients. Nothing is asked of the engine yet.
func (e *engine) connect() (*clients, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.clients != nil {
		return e.clients, nil
	}
	options, err := e.endpoint()
	if err == nil {
		e.clients, err = newClients(options)
	}
	if err != nil {
		return nil, cove.Errorf(cove.Unavailable, "docker", "", "the engine's address is not usable: "+err.Error(), "see DOCKER_HOST, DOCKER_CONTEXT and docker context ls")
	}
	return e.clients, nil
}

func newClients(options []client.Opt) (*clients, error) {
	streams, err := client.New(append(options, client.WithAPIVersionFromEnv())...)
	if err != nil {
		return nil, err
	}
	dial := streams.Dialer() // to the engine, and through TLS where that is asked for
	transport := bounded{&http.Transport{
		DialContext:  func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx) },
		MaxIdleConns: 6, IdleConnTimeout: 30 * time.Second,
	}}
	answers, err := client.New(client.WithHost(streams.DaemonHost()), client.WithAPIVersionFromEnv(),
		client.WithHTTPClient(&http.Client{Transport: transport, CheckRedirect: client.CheckRedirect}))
	if err != nil {
		return nil, err
	}
	return &clients{answers, streams}, nil
}

// bounded is a transport that bounds what is read of a reply.
type bounded struct{ http.RoundTripper }

// RoundTrip implements http.RoundTripper.
func (b bounded) RoundTrip(r *http.Request) (*http.Response, error) {
	response, err := b.RoundTripper.RoundTrip(r)
	if err == nil {
		response.Body = http.MaxBytesReader(nil, response.Body, largestReply)
	}
	return response, err
}

// endpoint returns how to reach the engine that the docker command would reach.
func (e *engine) endpoint() ([]client.Opt, error) {
	if host := cmp.Or(e.host, os.Getenv(client.EnvOverrideHost)); host != "" {
		endpoint := endpoints.Endpoint{EndpointMeta: endpoints.EndpointMeta{Host: host}}
		options, err := endpoint.ClientOpts()
		if strings.HasPrefix(host, "tcp://") { // before the address, which puts its dialer into it
			options = append([]client.Opt{withTLS()}, options...)
		}
		return options, err
	}
	name := os.Getenv("DOCKER_CONTEXT")
	if name == "" {
		file, err := config.Load(config.Dir())
		if err != nil {
			return nil, err
		}
		name = file.CurrentContext
	}
	if name == "" || name == "default" {
		return []client.Opt{client.WithHost(client.DefaultDockerHost)}, nil
	}
	store := contexts.New(config.ContextStoreDir(), contexts.NewConfig(
		func() any { return &struct{}{} },
		contexts.EndpointTypeGetter(endpoints.DockerEndpoint, func() any { return &endpoints.EndpointMeta{} }),
	))
	metadata, err := store.GetMetadata(name)
	if err != nil {
		return nil, err
	}
	meta, err := endpoints.EndpointFromContext(metadata)
	if err != nil {
		return nil, err
	}
	endpoint, err := endpoints.WithTLSData(store, name, meta)
	if err != nil {
		return nil, err
	}
	return endpoint.ClientOpts()
}

// withTLS sets what DOCKER_TLS_VERIFY and DOCKER_CERT_PATH say. As for the docker command,
// the first without the second means the certificates in the directory of its configuration.
func withTLS() client.Opt {
	if os.Getenv(client.EnvTLSVerify) == "" || os.Getenv(client.EnvOverrideCertPath) != "" {
		return client.WithTLSClientConfigFromEnv()
	}
	dir := config.Dir()
	return client.WithTLSClientConfig(filepath.Join(dir, "ca.pem"), filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem"))
}

// call does one thing with the engine, within callTimeout.
func (e *engine) call(ctx context.Context, fn func(context.Context, *client.Client) error) error {
	return e.callWithin(ctx, callTimeout, fn)
}

// ping reports whether the engine answers at all: a call that makes something should not be
// the one that finds out.
func (e *engine) ping(ctx context.Context) error {
	return e.callWithin(ctx, pingTimeout, func(ctx context.Context, c *client.Client) error {
		_, err := c.Ping(ctx, client.PingOptions{})
		return err
	})
}

// finish is call for what the engine finishes also when nobody waits any more: it waits for
// the answer, so that the caller knows what there is.
func (e *engine) finish(ctx context.Context, fn func(context.Context, *client.Client) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return e.call(context.WithoutCancel(ctx), fn)
}

// callWithin is call with another bound.
func (e *engine) callWithin(ctx context.Context, within time.Duration, fn func(context.Context, *client.Client) error) error {
	c, err := e.connect()
	if err != nil {
		return err
	}
	return ask(ctx, within, c.Client, fn)
}

// hijack is call for what returns the streams of a process, and reads nothing else.
func (e *engine) hijack(ctx context.Context, fn func(context.Context, *client.Client) error) error {
	c, err := e.connect()
	if err != nil {
		return err
	}
	return ask(ctx, callTimeout, c.streams, fn)
}

// ask does one thing with a client. An engine that is not there, or does not answer in time,
// is an error that is cove.Unavailable; other errors are of package errdefs.
func ask(ctx context.Context, within time.Duration, c *client.Client, fn func(context.Context, *client.Client) error) error {
	bounded, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	err := fn(bounded, c)
	var long *http.MaxBytesError // whose own words are a server's
	switch {
	case err == nil:
		return nil
	case errors.As(err, &long):
		return fmt.Errorf("the engine's reply is longer than %s", cove.Bytes(long.Limit))
	case ctx.Err() != nil:
		return ctx.Err()
	case bounded.Err() != nil:
		return cove.Errorf(cove.Unavailable, "docker", c.DaemonHost(), fmt.Sprintf("the engine did not answer within %v", within),
			"see whether it is stopped or overloaded (systemctl status docker), and restart it")
	case silent(err):
		return cove.Errorf(cove.Unavailable, "docker", c.DaemonHost(), "the engine does not answer: "+short(err), reachHint(err))
	}
	return &briefError{err}
}

// silent reports whether an error is of the connection and not of the engine's.
func silent(err error) bool {
	var network net.Error
	return client.IsErrConnectionFailed(err) || errdefs.IsUnavailable(err) || errors.As(err, &network) ||
		errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, unix.ECONNRESET) || errors.Is(err, unix.EPIPE) ||
		strings.Contains(err.Error(), wantsTLS)
}

// wantsTLS is in what a server of Go's answers to whoever comes without TLS.
const wantsTLS = "HTTP request to an HTTPS server"

// reachHint says what to do about an engine that can't be reached.
func reachHint(err error) string {
	text := err.Error()
	for _, word := range []string{wantsTLS, "tls: ", "x509: ", "HTTP response to HTTPS client"} {
		if strings.Contains(text, word) {
			return "set DOCKER_TLS_VERIFY=1, and DOCKER_CERT_PATH to the directory with ca.pem, cert.pem and key.pem for this engine, or use a Docker context that has them"
		}
	}
	if strings.Contains(text, "command [ssh") {
		return "see that ssh HOST docker system dial-stdio works without a password, for the user that the daemon runs as"
	}
	return startHint
}

// briefError shortens an error whose text a runtime program made.
type briefError struct{ error }

// Error returns the end of the text, where the cause is.
func (b *briefError) Error() string { return short(b.error) }

// Unwrap returns the whole error.
func (b *briefError) Unwrap() error { return b.error }

func short(err error) string {
	const longest = 600
	text := strings.TrimPrefix(strings.ToValidUTF8(err.Error(), "?"), "Error response from daemon: ")
	if len(text) > longest {
		text = "…" + strings.ToValidUTF8(text[len(text)-longest:], "")
	}
	return text
}

// peer returns the process behind the engine's socket, 0 where that is none of this
// machine's that we can see.
func (e *engine) peer(ctx context.Context) int {
	c, err := e.connect()
	if err != nil {
		return 0
	}
	path, ok := strings.CutPrefix(c.DaemonHost(), "unix://")
	if !ok {
		return 0
	}
	dialer := net.Dialer{Timeout: pingTimeout}
	conn, err := dialer.DialContext(ctx, "unix", path)
	if err != nil {
		return 0
	}
	defer conn.Close()
	raw, err := conn.(*net.UnixConn).SyscallConn()
	if err != nil {
		return 0
	}
	pid := 0
	_ = raw.Control(func(fd uintptr) {
		if peer, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); err == nil {
			pid = int(peer.Pid)
		}
	})
	return pid
}
