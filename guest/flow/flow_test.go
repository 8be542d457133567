package flow_test

import (
	"bytes"
	"crypto/rand"
	"errors"
	"io"
	"net"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/covehq/cove/guest/flow"
	"github.com/covehq/cove/guest/pair"
)

// copied sends what write sends through a copy, and returns what arrives and the error.
func copied(t *testing.T, buffers *flow.Buffers, write func(*net.UnixConn)) ([]byte, error) {
	t.Helper()
	source, from, err := pair.New()
	if err != nil {
		t.Fatal(err)
	}
	to, sink, err := pair.New()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []net.Conn{source, from, to, sink} {
		defer c.Close()
	}
	arrived := make(chan []byte)
	go func() {
		got, _ := io.ReadAll(sink)
		arrived <- got
	}()
	go func() {
		write(source)
		_ = source.Close()
	}()
	err = buffers.Copy(to, from)
	_ = to.Close()
	return <-arrived, err
}

func TestEverythingArrivesInOrder(t *testing.T) {
	sent := make([]byte, 5<<20+17)
	if _, err := rand.Read(sent); err != nil {
		t.Fatal(err)
	}
	buffers := flow.New()
	for name, pieces := range map[string]int{"in large pieces": 1 << 20, "in small ones": 1000, "at once": len(sent)} {
		t.Run(name, func(t *testing.T) {
			got, err := copied(t, buffers, func(c *net.UnixConn) {
				for rest := sent; len(rest) > 0; {
					n := min(pieces, len(rest))
					_, _ = c.Write(rest[:n])
					rest = rest[n:]
				}
			})
			if err != nil || !bytes.Equal(got, sent) {
				t.Errorf("got %d bytes, %v, want the %d that were sent", len(got), err, len(sent))
			}
		})
	}
}

func TestAnEmptyConnectionIsNoError(t *testing.T) {
	if got, err := copied(t, flow.New(), func(*net.UnixConn) {}); err != nil || len(got) > 0 {
		t.Errorf("got %q, %v, want nothing", got, err)
	}
}

func TestWhatIsNoSocketIsCopiedToo(t *testing.T) {
	var to strings.Builder
	if err := flow.New().Copy(&to, strings.NewReader("text")); err != nil || to.String() != "text" {
		t.Errorf("got %q, %v, want the text", to.String(), err)
	}
}

func TestErrorsOfEitherEndEndACopy(t *testing.T) {
	broken, other, err := pair.New()
	if err != nil {
		t.Fatal(err)
	}
	source, from, err := pair.New()
	if err != nil {
		t.Fatal(err)
	}
	defer source.Close()
	defer broken.Close()
	if err := other.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := source.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if err := flow.New().Copy(broken, from); !errors.Is(err, unix.EPIPE) {
		t.Errorf("to an end that is gone: got %v, want a broken pipe", err)
	}
	if err := from.Close(); err != nil {
		t.Fatal(err)
	}
	if err := flow.New().Copy(io.Discard, from); !errors.Is(err, net.ErrClosed) {
		t.Errorf("from an end that is closed: got %v, want that it is", err)
	}
}
