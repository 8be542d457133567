package guest_test

import (
	"io"
	"os"
	"syscall"
	"testing"

	"github.com/covehq/cove/guest/dial"
)

// BenchmarkForkExec is the floor of BenchmarkStart: a fork, an execution and a wait, with
// no pipes and no agent.
func BenchmarkForkExec(b *testing.B) {
	for b.Loop() {
		pid, err := syscall.ForkExec("/bin/true", []string{"true"}, &syscall.ProcAttr{Files: []uintptr{0, 1, 2}, Env: os.Environ()})
		if err != nil {
			b.Fatal(err)
		}
		if _, err := syscall.Wait4(pid, nil, 0, nil); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkStart runs a command through the wire, from the request to the end event.
func BenchmarkStart(b *testing.B) {
	c := boot(b).client(b)
	for b.Loop() {
		run(b, c, dial.Start{Argv: []string{"/bin/true"}})
	}
}

// BenchmarkStream reads what a command writes as fast as it can.
func BenchmarkStream(b *testing.B) {
	const size = 1 << 30
	c := boot(b).client(b)
	b.SetBytes(size)
	for b.Loop() {
		stream, err := c.Start(b.Context(), dial.Start{Argv: []string{"head", "-c", "1073741824", "/dev/zero"}})
		if err != nil {
			b.Fatal(err)
		}
		total := 0
		for {
			output, err := stream.Next()
			if err == io.EOF {
				break
			}
			if err != nil {
				b.Fatal(err)
			}
			total += len(output.Data)
		}
		if total != size {
			b.Fatalf("got %d bytes, want %d", total, size)
		}
		_ = stream.Close()
	}
}
