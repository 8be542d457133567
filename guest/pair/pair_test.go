package pair

import (
	"io"
	"net"
	"os"
	"testing"
)

func TestAnEndThatIsShutForWritingHasNotHungUp(t *testing.T) {
	for name, test := range map[string]struct {
		do   func(one, other *net.UnixConn) error // to the other end, mostly
		want bool
	}{
		"nothing was done":                {func(_, _ *net.UnixConn) error { return nil }, false},
		"it wrote":                        {func(_, other *net.UnixConn) error { _, err := other.Write([]byte("x")); return err }, false},
		"it was shut for writing":         {func(_, other *net.UnixConn) error { return other.CloseWrite() }, false},
		"it was closed":                   {func(_, other *net.UnixConn) error { return other.Close() }, true},
		"it wrote and was closed":         {func(_, other *net.UnixConn) error { _, err := other.Write([]byte("x")); other.Close(); return err }, true},
		"the end that is asked is closed": {func(one, _ *net.UnixConn) error { return one.Close() }, true},
	} {
		t.Run(name, func(t *testing.T) {
			one, other, err := New()
			if err != nil {
				t.Fatal(err)
			}
			defer one.Close()
			defer other.Close()
			if err := test.do(one, other); err != nil {
				t.Fatal(err)
			}
			if got := HungUp(one); got != test.want {
				t.Errorf("got %v, want %v", got, test.want)
			}
		})
	}
}

func TestTheEndsAreOfOneStream(t *testing.T) {
	first, second, err := Files()
	if err != nil {
		t.Fatal(err)
	}
	defer second.Close()
	one, err := Conn(first)
	if err != nil {
		t.Fatal(err)
	}
	defer one.Close()
	if _, err := first.Stat(); err == nil {
		t.Error("the file is still open, want it taken over")
	}
	if _, err := one.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	if err := one.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(second); string(got) != "hello" || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
}

func TestAFileThatIsNoSocketMakesNoConnection(t *testing.T) {
	file, err := os.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if conn, err := Conn(file); conn != nil || err == nil {
		t.Errorf("got %v, %v; want an error", conn, err)
	}
	if _, err := file.Stat(); err == nil {
		t.Error("the file is still open, want it taken over")
	}
}
