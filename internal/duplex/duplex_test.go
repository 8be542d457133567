package duplex_test

import (
	"context"
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"github.com/covehq/cove/internal/duplex"
)

// tcp returns both ends of a connection.
func tcp(t *testing.T) (near, far *net.TCPConn) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	dialled, err := net.Dial("tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	accepted, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = dialled.Close(), accepted.Close() })
	for _, c := range []net.Conn{dialled, accepted} {
		if err := c.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
			t.Fatal(err)
		}
	}
	return dialled.(*net.TCPConn), accepted.(*net.TCPConn)
}

// join joins the inner ends of two connections, and returns the outer ones and what is
// closed when Join has returned.
func join(t *testing.T, ctx context.Context) (left, right *net.TCPConn, done <-chan struct{}) {
	t.Helper()
	left, a := tcp(t)
	right, b := tcp(t)
	returned := make(chan struct{})
	go func() { defer close(returned); duplex.Join(ctx, a, b) }()
	return left, right, returned
}

func TestTheEndOfEachSideIsPassedOn(t *testing.T) {
	left, right, done := join(t, t.Context())
	if _, err := io.WriteString(left, "question"); err != nil {
		t.Fatal(err)
	}
	if err := left.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(right); err != nil || string(got) != "question" {
		t.Errorf("%q, %v", got, err)
	}
	if _, err := io.WriteString(right, "answer"); err != nil {
		t.Fatal(err)
	}
	if err := right.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(left); err != nil || string(got) != "answer" {
		t.Errorf("%q, %v", got, err)
	}
	<-done
}

func TestTheEndOfTheContextClosesBoth(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	left, right, done := join(t, ctx)
	cancel()
	<-done
	for _, c := range []net.Conn{left, right} {
		if _, err := c.Read(make([]byte, 1)); err == nil || errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("read: %v", err)
		}
	}
}

func TestASideThatBreaksEndsTheOther(t *testing.T) {
	left, right, done := join(t, t.Context())
	if err := left.SetLinger(0); err != nil {
		t.Fatal(err)
	}
	_ = left.Close() // with a reset
	if _, err := io.ReadAll(right); err != nil && !errors.Is(err, net.ErrClosed) {
		var timeout net.Error
		if errors.As(err, &timeout) && timeout.Timeout() {
			t.Error("the other side stays open")
		}
	}
	<-done
}

func TestASideThatCantBeHalfClosedIsClosed(t *testing.T) {
	left, a := tcp(t)
	b, right := net.Pipe()
	done := make(chan struct{})
	go func() { defer close(done); duplex.Join(t.Context(), a, b) }()
	if err := left.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadAll(right); err != nil {
		t.Error(err)
	}
	<-done
}
