package client_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/covehq/cove"
	"github.com/covehq/cove/client"
	"github.com/covehq/cove/internal/httpapi"
)

// tunnels is a daemon whose sandboxes echo on port 80, with the answer to a line first,
// and have nothing that listens elsewhere.
func tunnels(t *testing.T) *client.Sandbox {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !strings.HasSuffix(r.URL.Path, "/ports/80") {
			w.WriteHeader(http.StatusServiceUnavailable)
			fmt.Fprint(w, `{"error":{"code":"unavailable","message":"nothing listens there"}}`)
			return
		}
		conn, buffered, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer conn.Close()
		fmt.Fprintf(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: %s\r\n\r\nwelcome\n", httpapi.UpgradeTCP)
		all, err := io.ReadAll(buffered) // until the other side has ended what it sends
		if err == nil {
			conn.Write(all)
		}
	}))
	t.Cleanup(server.Close)
	c, err := client.New(client.Options{URL: server.URL})
	if err != nil {
		t.Fatal(err)
	}
	return c.Handle("box")
}

func TestForwardPassesBothWaysAndTheirEnds(t *testing.T) {
	box := tunnels(t)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- box.Forward(ctx, listener, 80, nil) }()
	var group sync.WaitGroup
	for i := range 20 {
		group.Go(func() {
			conn, err := net.Dial("tcp", listener.Addr().String())
			if err != nil {
				t.Error(err)
				return
			}
			defer conn.Close()
			text := strings.Repeat(fmt.Sprint(i), 100_000)
			go func() {
				io.WriteString(conn, text)
				conn.(*net.TCPConn).CloseWrite()
			}()
			if got, err := io.ReadAll(conn); err != nil || string(got) != "welcome\n"+text {
				t.Errorf("%d bytes came back, %v", len(got), err)
			}
		})
	}
	group.Wait()
	open, err := net.Dial("tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer open.Close()
	if line, err := bufio.NewReader(open).ReadString('\n'); err != nil || line != "welcome\n" {
		t.Fatalf("got %q, %v", line, err)
	}
	cancel()
	if err := <-served; err != nil {
		t.Errorf("Forward = %v, want nil", err)
	}
	open.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := open.Read(make([]byte, 1)); err == nil || errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a connection is still open: %v", err)
	}
	if _, err := net.Dial("tcp", listener.Addr().String()); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("the port is still open: %v", err)
	}
}

func TestForwardTellsWhyAConnectionFailed(t *testing.T) {
	box := tunnels(t)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	failures := make(chan error, 1)
	served := make(chan error, 1)
	go func() { served <- box.Forward(t.Context(), listener, 81, func(err error) { failures <- err }) }()
	conn, err := net.Dial("tcp", listener.Addr().String())
	if err == nil {
		defer conn.Close()
		_, err = conn.Read(make([]byte, 1))
	}
	if !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("it ends with %v, want a reset", err)
	}
	if err := <-failures; !errors.Is(err, cove.Unavailable) || !strings.Contains(err.Error(), "nothing listens there") {
		t.Errorf("the reason is %v", err)
	}
	listener.Close()
	if err := <-served; !errors.Is(err, net.ErrClosed) {
		t.Errorf("Forward = %v, want the listener's error", err)
	}
}
