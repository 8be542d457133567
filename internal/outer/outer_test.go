package outer_test

import (
	"context"
	"io"
	"net"
	"os/exec"
	"slices"
	"testing"
	"time"

	"github.com/covehq/cove/internal/outer"
)

func TestEveryAddressIsTheWorlds(t *testing.T) {
	w := outer.New(t, false)
	listener := w.Listen(t, ":80")
	go func() {
		for {
			c, err := listener.Accept()
			if err != nil {
				return
			}
			_, _ = io.WriteString(c, c.LocalAddr().String())
			_ = c.Close()
		}
	}()
	for _, address := range []string{"93.184.215.14:80", "169.254.169.254:80", "10.0.0.1:80"} {
		var got []byte
		err := w.InMachine(func() error {
			c, err := net.DialTimeout("tcp", address, 5*time.Second)
			if err != nil {
				return err
			}
			defer c.Close()
			got, err = io.ReadAll(c)
			return err
		})
		if err != nil || string(got) != address {
			t.Errorf("%s: %q, %v", address, got, err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	enter := append(w.Enter(), "bash", "-c", "echo >/dev/udp/8.8.8.8/53; echo >/dev/tcp/2a0e:2::1/81")
	_ = exec.CommandContext(ctx, enter[0], enter[1:]...).Run() // nobody listens
	for _, want := range []outer.Packet{{"tcp", "169.254.169.254", 80}, {"udp", "8.8.8.8", 53}, {"tcp", "2a0e:2::1", 81}} {
		arrived := func() bool { return slices.Contains(w.Packets(), want) }
		for deadline := time.Now().Add(5 * time.Second); !arrived() && time.Now().Before(deadline); {
			time.Sleep(10 * time.Millisecond)
		}
		if !arrived() {
			t.Errorf("no %v among %v", want, w.Packets())
		}
	}
}
