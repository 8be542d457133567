package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/covehq/cove"
)

// maxSocketPath is what fits into a sockaddr_un with its final zero, see unix(7).
const maxSocketPath = 107

// answerTimeout is how long a daemon may take to say that it is there.
const answerTimeout = 10 * time.Second

// Listen opens the daemon's socket, for its owner only. The caller holds the lock of
// Own, so a socket that is already there is a dead daemon's, and is replaced; one that
// still answers, or anything else in its place, is left alone and refused.
func (d Dirs) Listen(ctx context.Context) (net.Listener, error) {
	path := d.Socket()
	if err := clearStale(ctx, path); err != nil {
		return nil, err
	}
	listener, err := new(net.ListenConfig).Listen(ctx, "unix", path)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	// The directory is 0700, so nobody came in before this.
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(err, listener.Close())
	}
	return listener, nil
}

func clearStale(ctx context.Context, path string) error {
	if len(path) > maxSocketPath {
		return tooLong(path)
	}
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if info.Mode().Type() != fs.ModeSocket {
		return cove.Errorf(cove.Conflict, "listen", path, "something that is not a socket is in the way", "move it away")
	}
	conn, err := new(net.Dialer).DialContext(ctx, "unix", path)
	if err == nil {
		return errors.Join(conn.Close(), cove.Errorf(cove.Conflict, "listen", path, "somebody else answers on this socket", "stop it, or set COVE_STATE_DIR"))
	}
	if !errors.Is(err, unix.ECONNREFUSED) {
		return fmt.Errorf("look who answers on %s: %w", path, err)
	}
	return os.Remove(path)
}

// Answers reports whether a daemon lives behind the socket. It asks over HTTP, because
// the connections of a daemon that is leaving are accepted by the kernel and then
// dropped. A daemon that accepts and stays silent is an error.
func (d Dirs) Answers(ctx context.Context) (bool, error) {
	path := d.Socket()
	if len(path) > maxSocketPath {
		return false, tooLong(path)
	}
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	err := ask(ctx, path)
	switch {
	case err == nil:
		return true, nil
	case ctx.Err() != nil:
		return false, &cove.Error{Code: cove.Unavailable, Op: "reach the daemon", ID: path, Err: ctx.Err(), Hint: "look into " + d.Log() + ", or stop the process in " + d.State + "/cove.lock"}
	case errors.Is(err, unix.EACCES):
		return false, &cove.Error{Code: cove.Forbidden, Op: "reach the daemon", ID: path, Err: err, Hint: "its socket is its owner's alone: use your own, without --host, or become that user"}
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ECONNREFUSED), errors.Is(err, unix.ECONNRESET), errors.Is(err, unix.EPIPE), errors.Is(err, io.EOF):
		return false, nil
	}
	return false, &cove.Error{Code: cove.Unavailable, Op: "reach the daemon", ID: path, Err: err, Hint: "look into " + d.Log()}
}

// ask returns nil when anything is replied to a request. An http.Client would do more,
// and hide how a connection ends.
func ask(ctx context.Context, path string) error {
	conn, err := new(net.Dialer).DialContext(ctx, "unix", path)
	if err != nil {
		return err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	if _, err := io.WriteString(conn, "GET /healthz HTTP/1.1\r\nHost: cove\r\nConnection: close\r\n\r\n"); err != nil {
		return err
	}
	_, err = conn.Read(make([]byte, 1))
	return err
}

func tooLong(path string) error {
	return cove.Errorf(cove.Invalid, "use socket", path, fmt.Sprintf("its path is longer than the %d bytes that the kernel takes", maxSocketPath), "set COVE_STATE_DIR to a shorter path")
}
