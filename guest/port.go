package guest

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/covehq/cove"
	"github.com/covehq/cove/guest/wire"
)

// dialPatience bounds the connecting to a port inside.
const dialPatience = 10 * time.Second

// serveDial turns the request's connection into one to a TCP port on loopback, or to a
// unix socket.
func (a *Agent) serveDial(w http.ResponseWriter, r *http.Request) error {
	if r.ProtoMajor != 1 || !strings.EqualFold(r.Header.Get("Upgrade"), wire.StreamProtocol) {
		return cove.Errorf(cove.Invalid, "dial", "", "the request does not upgrade its connection", "send it as HTTP/1.1 with Upgrade: "+wire.StreamProtocol)
	}
	ctx, cancel := context.WithTimeout(r.Context(), dialPatience)
	defer cancel()
	target, err := dialTarget(ctx, r.URL.Query().Get("port"), r.URL.Query().Get("path"))
	if err != nil {
		return err
	}
	defer target.Close()
	conn, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return err
	}
	defer conn.Close()
	if !a.own(target) || !a.own(conn) {
		return nil
	}
	defer a.disown(target)
	defer a.disown(conn)
	answer := "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: " + wire.StreamProtocol + "\r\n\r\n"
	_ = conn.SetDeadline(time.Time{})
	if _, err := io.WriteString(conn, answer); err == nil {
		a.join(conn, buffered.Reader, target)
	}
	return nil
}

// dialTarget connects to a port, or to a socket's path.
func dialTarget(ctx context.Context, port, path string) (net.Conn, error) {
	var dialer net.Dialer
	if port == "" {
		if path == "" || len(path) > 107 || strings.ContainsRune(path, 0) {
			return nil, cove.Errorf(cove.Invalid, "dial", "", fmt.Sprintf("%q is no path of a socket", path), "give a port, or a path of 1 to 107 bytes")
		}
		c, err := dialer.DialContext(ctx, "unix", path)
		return c, dialError(err, "socket "+path)
	}
	number, err := strconv.ParseUint(port, 10, 16)
	if err != nil || number == 0 {
		return nil, cove.Errorf(cove.Invalid, "dial", "", fmt.Sprintf("%q is no port", port), "use a number from 1 to 65535")
	}
	c, err := dialer.DialContext(ctx, "tcp", net.JoinHostPort("127.0.0.1", port))
	if errors.Is(err, syscall.ECONNREFUSED) {
		if six, err := dialer.DialContext(ctx, "tcp", net.JoinHostPort("::1", port)); err == nil {
			return six, nil
		}
	}
	return c, dialError(err, "port "+port)
}

func dialError(err error, target string) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, syscall.ECONNREFUSED):
		err = fmt.Errorf("nothing listens on %s", target)
	case errors.Is(err, syscall.ENOENT):
		return cove.Errorf(cove.NotFound, "dial", "", target+" does not exist", "start what listens on it")
	}
	return &cove.Error{Code: cove.Unavailable, Op: "dial", Err: err, Hint: "start a server on it and wait until it listens"}
}

// join copies both ways until both are at their end. The end of one direction is passed
// on; a failure ends both.
func (a *Agent) join(client net.Conn, early *bufio.Reader, target net.Conn) {
	var both sync.WaitGroup
	forward := func(to, from net.Conn, first io.Reader) {
		_, err := io.Copy(to, first)
		if err == nil {
			err = a.buffers.Copy(to, from)
		}
		if half, ok := to.(interface{ CloseWrite() error }); ok && err == nil {
			_ = half.CloseWrite()
			return
		}
		_ = to.Close()
		_ = from.Close()
	}
	both.Go(func() { forward(target, client, io.LimitReader(early, int64(early.Buffered()))) })
	both.Go(func() { forward(client, target, strings.NewReader("")) })
	both.Wait()
}
