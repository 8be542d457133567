package carrier_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/covehq/cove"
	"github.com/covehq/cove/guest"
	"github.com/covehq/cove/guest/dial"
	"github.com/covehq/cove/guest/dial/carrier"
)

// open returns a carrier to an agent in this process, over a pipe as slow as one may be.
func open(t *testing.T) *carrier.Carrier {
	t.Helper()
	agent := guest.New(guest.Options{})
	served := make(chan error, 1)
	go func() { served <- agent.Serve() }()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := errors.Join(agent.Close(ctx), <-served); err != nil {
			t.Error(err)
		}
	})
	ours, theirs := net.Pipe()
	agent.ServeConn(theirs)
	c, err := carrier.New(t.Context(), ours)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// echo listens on a port and returns what it gets in one piece, after its end.
func echo(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	t.Cleanup(func() { l.Close(); serving.Wait() })
	serving.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			serving.Go(func() {
				defer c.Close()
				data, err := io.ReadAll(c)
				if err == nil {
					_, _ = c.Write(data)
				}
			})
		}
	})
	return l.Addr().(*net.TCPAddr).Port
}

func TestManyStreamsKeepTheirBytesAndTheirEnds(t *testing.T) {
	c, port := open(t), echo(t)
	client := dial.New(c.Dial)
	defer client.Close()
	var all sync.WaitGroup
	for i := range 20 {
		all.Go(func() {
			if err := roundTrip(t.Context(), client, port, 1<<(i%4*7)); err != nil {
				t.Errorf("stream %d: %v", i, err)
			}
		})
	}
	all.Wait()
}

// roundTrip sends size bytes, half-closes, and expects them back.
func roundTrip(ctx context.Context, client *dial.Client, port, size int) error {
	conn, err := client.DialPort(ctx, port)
	if err != nil {
		return err
	}
	defer conn.Close()
	sent := make([]byte, size)
	_, _ = rand.Read(sent)
	if _, err := conn.Write(sent); err != nil {
		return err
	}
	if err := conn.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
		return err
	}
	got, err := io.ReadAll(conn)
	if err != nil || !bytes.Equal(got, sent) {
		return fmt.Errorf("got %d bytes and %v, want the %d that were sent", len(got), err, size)
	}
	return nil
}

func TestAStreamThatNobodyReadsStopsNoOther(t *testing.T) {
	c, port := open(t), echo(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close() // and never accepts: what is sent there is read by nobody
	client := dial.New(c.Dial)
	defer client.Close()
	for range 4 {
		conn, err := client.DialPort(t.Context(), l.Addr().(*net.TCPAddr).Port)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		_ = conn.SetWriteDeadline(time.Now().Add(time.Second))
		if _, err := conn.Write(make([]byte, 64<<20)); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("got %v, want a full stream", err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := roundTrip(ctx, client, port, 1<<20); err != nil {
		t.Error(err)
	}
}

func TestAClosedCarrierIsGone(t *testing.T) {
	c := open(t)
	conn, err := c.Dial(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("read: got %v, want the end", err)
	}
	if _, err := c.Dial(t.Context()); !errors.Is(err, cove.Gone) {
		t.Errorf("dial: got %v, want gone", err)
	}
	if c.Err() == nil {
		t.Error("the carrier says that it works")
	}
}

func TestABrokenConnectionIsSeen(t *testing.T) {
	ours, theirs := net.Pipe()
	broken := make(chan struct{})
	go func() {
		defer close(broken)
		_, _ = io.ReadFull(theirs, make([]byte, 24)) // HTTP/2's preface
		theirs.Close()
	}()
	c, err := carrier.New(t.Context(), ours)
	if err == nil {
		defer c.Close()
		_, err = c.Dial(t.Context())
	}
	<-broken
	if err == nil {
		t.Error("got a stream from nobody")
	}
}

func TestADialEndsWithItsContext(t *testing.T) {
	ours, theirs := net.Pipe()
	defer theirs.Close()
	go func() { _, _ = io.Copy(io.Discard, theirs) }() // takes everything and never answers
	c, err := carrier.New(t.Context(), ours)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := c.Dial(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v, want the end of the context", err)
	}
}
