package containerd

import (
	"context"
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
	"time"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/status"

	"github.com/covehq/cove"
)

const (
	// pingTimeout bounds the question whether the engine answers.
	pingTimeout = 3 * time.Second
	// callTimeout bounds every call to the engine, which waits for a shim in most of them.
	callTimeout = 20 * time.Second
	// reconnect is the longest pause between two attempts to connect.
	reconnect = time.Second
	// largestReply bounds what the engine answers.
	largestReply = 16 << 20
)

// startHint is what to do about an engine that can't be reached.
const startHint = "install containerd and start it (systemctl start containerd), or set CONTAINERD_ADDRESS to its socket"

// engine is the connection to containerd. It is made at the first call, and again whenever
// containerd has been restarted.
type engine struct {
	address string

	mu     sync.Mutex
	client *containerd.Client
}

func newEngine(address string) *engine { return &engine{address: address} }

// connect returns the client. It does not wait for a connection.
func (e *engine) connect() (*containerd.Client, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.client != nil {
		return e.client, nil
	}
	client, err := containerd.New(e.address, containerd.WithTimeout(reconnect),
		containerd.WithExtraDialOpts([]grpc.DialOption{grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(largestReply))}))
	if err != nil {
		return nil, err
	}
	e.client = client
	return client, nil
}

// call does one thing with the engine in Cove's namespace, within callTimeout.
func (e *engine) call(ctx context.Context, fn func(context.Context, *containerd.Client) error) error {
	return e.callWithin(ctx, callTimeout, fn)
}

// callWithin is call with another bound. An engine that is not there, or does not answer in
// time, is an error that is cove.Unavailable; other errors are of package errdefs.
func (e *engine) callWithin(ctx context.Context, within time.Duration, fn func(context.Context, *containerd.Client) error) error {
	client, err := e.connect()
	if err != nil {
		return e.silent(err)
	}
	bounded, cancel := context.WithTimeout(namespaces.WithNamespace(ctx, namespace), within)
	defer cancel()
	if err = e.settle(bounded, client); err == nil {
		err = fn(bounded, client)
	}
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return ctx.Err()
	case bounded.Err() != nil:
		return cove.Errorf(cove.Unavailable, "containerd", e.address, fmt.Sprintf("containerd did not answer within %v", within),
			"see whether it is stopped or overloaded (systemctl status containerd), and restart it")
	}
	if status.Code(err) == codes.Unavailable || errdefs.IsUnavailable(err) {
		return e.silent(err)
	}
	if _, ok := status.FromError(err); ok {
		err = errgrpc.ToNative(err)
	}
	return brief(err)
}

// settle returns when there is a connection. After a restart of the engine the client would
// otherwise sit out its pause between two attempts, and call that an answer.
func (e *engine) settle(ctx context.Context, client *containerd.Client) error {
	conn, ok := client.Conn().(*grpc.ClientConn)
	if !ok || conn.GetState() == connectivity.Ready {
		return nil
	}
	conn.ResetConnectBackoff()
	ctx, cancel := context.WithTimeout(ctx, pingTimeout)
	defer cancel()
	for state := conn.GetState(); state != connectivity.Ready; state = conn.GetState() {
		if _, err := e.pid(ctx); err != nil { // nobody listens
			return status.Error(codes.Unavailable, err.Error())
		}
		conn.Connect()
		if !conn.WaitForStateChange(ctx, state) {
			return status.Error(codes.Unavailable, fmt.Sprintf("no connection within %v", pingTimeout))
		}
	}
	return nil
}

func (e *engine) silent(err error) error {
	return cove.Errorf(cove.Unavailable, "containerd", e.address, "containerd does not answer: "+short(err), startHint)
}

// brief shortens an error whose text a shim or a runtime program made.
func brief(err error) error {
	if text := err.Error(); len(text) > longestText {
		return &briefError{err}
	}
	return err
}

const longestText = 600

type briefError struct{ error }

// Error returns the end of the text, where the cause is.
func (b *briefError) Error() string { return short(b.error) }

// Unwrap returns the whole error.
func (b *briefError) Unwrap() error { return b.error }

func short(err error) string {
	text := strings.ToValidUTF8(err.Error(), "?")
	if len(text) > longestText {
		text = "…" + strings.ToValidUTF8(text[len(text)-longestText:], "")
	}
	return text
}

// ping reports whether the engine answers at all: a call that makes something should not be
// the one that finds out.
func (e *engine) ping(ctx context.Context) error {
	_, err := e.version(ctx)
	return err
}

// version returns the engine's release, as in 1.6.20~ds1.
func (e *engine) version(ctx context.Context) (string, error) {
	var release string
	err := e.callWithin(ctx, pingTimeout, func(ctx context.Context, client *containerd.Client) error {
		version, err := client.Version(ctx)
		release = version.Version
		return err
	})
	return strings.ToValidUTF8(release[:min(len(release), 64)], "?"), err
}

// pid returns the engine's process, from the socket: it tells a restarted engine from the
// one before, and where its programs are. It is 0 for one in another PID namespace.
func (e *engine) pid(ctx context.Context) (int, error) {
	dialer := net.Dialer{Timeout: pingTimeout}
	conn, err := dialer.DialContext(ctx, "unix", e.address)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	raw, err := conn.(*net.UnixConn).SyscallConn()
	if err != nil {
		return 0, err
	}
	var peer *unix.Ucred
	var failed error
	if err := raw.Control(func(fd uintptr) { peer, failed = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); err != nil {
		return 0, err
	}
	if failed != nil {
		return 0, os.NewSyscallError("SO_PEERCRED", failed)
	}
	return int(peer.Pid), nil
}

// path returns the PATH of the engine's process: where it looks for shims, and they for
// runtime programs.
func (e *engine) path(ctx context.Context) string {
	const usual = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	pid, err := e.pid(ctx)
	if err != nil || pid == 0 {
		return usual
	}
	environment, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
	if err != nil {
		return usual
	}
	for variable := range strings.SplitSeq(string(environment), "\x00") {
		if path, ok := strings.CutPrefix(variable, "PATH="); ok && path != "" {
			return path
		}
	}
	return usual
}

// installed reports whether there is an engine, or was one since the machine started.
func (e *engine) installed() bool {
	_, err := os.Lstat(e.address)
	return err == nil
}
