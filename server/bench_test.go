package server

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/covehq/cove"
	"github.com/covehq/cove/client"
	"github.com/covehq/cove/internal/httpapi"
)

// The difference of these two is what the HTTP API adds to a command.

func BenchmarkExecByHost(b *testing.B) {
	w := newWorld(b, Options{})
	box, err := w.host.Sandbox(b.Context(), w.sandbox().ID)
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if _, err := box.Exec(b.Context(), cove.ExecRequest{Command: cove.Command{Argv: []string{"true"}}}); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkExecByHTTP(b *testing.B) {
	box := newWorld(b, Options{}).sandbox()
	for b.Loop() {
		if _, err := box.Exec(b.Context(), cove.ExecRequest{Command: cove.Command{Argv: []string{"true"}}}); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkCommandByHTTP(b *testing.B) {
	box := newWorld(b, Options{}).sandbox()
	for b.Loop() {
		if err := box.Command("true").Run(); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkRoundTrip(b *testing.B) {
	w := newWorld(b, Options{})
	for b.Loop() {
		if err := w.client.Healthy(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkOutputByHost(b *testing.B) {
	w := newWorld(b, Options{})
	box, err := w.host.Sandbox(b.Context(), w.sandbox().ID)
	if err != nil {
		b.Fatal(err)
	}
	const size = 64 << 20
	b.SetBytes(size)
	for b.Loop() {
		output, err := box.Run(b.Context(), cove.ProcessRequest{Command: cove.Command{Argv: []string{"head", "-c", "67108864", "/dev/zero"}}}, nil)
		if err != nil {
			b.Fatal(err)
		}
		total := 0
		for {
			next, err := output.Next()
			if err != nil {
				b.Fatal(err)
			}
			if total += len(next.Data); next.Exit != nil {
				break
			}
		}
		if output.Close(); total != size {
			b.Fatalf("%d bytes", total)
		}
	}
}

func BenchmarkOutputByHTTP(b *testing.B) {
	box := newWorld(b, Options{}).sandbox()
	const size = 64 << 20
	b.SetBytes(size)
	for b.Loop() {
		cmd := box.Command("head", "-c", "67108864", "/dev/zero")
		var counted counter
		cmd.Stdout = &counted
		if err := cmd.Run(); err != nil || counted != size {
			b.Fatalf("%d bytes, %v", counted, err)
		}
	}
}

type counter int

func (c *counter) Write(p []byte) (int, error) {
	*c += counter(len(p))
	return len(p), nil
}

// BenchmarkFramesOverHTTP is the stream alone, without a host behind it.
func BenchmarkFramesOverHTTP(b *testing.B) {
	w := newWorld(b, Options{})
	piece := make([]byte, 32<<10)
	const pieces = 4096
	w.server.mux.HandleFunc("GET /v1/sandboxes/x/processes/1/output", func(rw http.ResponseWriter, r *http.Request) {
		w.server.stream(rw, r, framesEncoding(), streamPieces(piece, pieces))
	})
	b.SetBytes(int64(len(piece) * pieces))
	for b.Loop() {
		output, err := w.client.Handle("x").Process(1).Output(b.Context(), cove.FromStart(), true)
		if err != nil {
			b.Fatal(err)
		}
		total := 0
		for {
			next, err := output.Next()
			if err != nil {
				b.Fatal(err)
			}
			if total += len(next.Data); next.Exit != nil {
				break
			}
		}
		if output.Close(); total != len(piece)*pieces {
			b.Fatalf("%d bytes", total)
		}
	}
}

func BenchmarkUpload(b *testing.B) {
	box := newWorld(b, Options{}).sandbox()
	data := make([]byte, 64<<20)
	b.SetBytes(int64(len(data)))
	for b.Loop() {
		if _, err := box.Files().WriteFile(b.Context(), "large", bytes.NewReader(data), 0); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkDownload(b *testing.B) {
	box := newWorld(b, Options{}).sandbox()
	data := make([]byte, 64<<20)
	if _, err := box.Files().WriteFile(b.Context(), "large", bytes.NewReader(data), 0); err != nil {
		b.Fatal(err)
	}
	b.SetBytes(int64(len(data)))
	for b.Loop() {
		download(b, box)
	}
}

func download(b *testing.B, box *client.Sandbox) {
	file, err := box.Files().OpenFile(b.Context(), "large")
	if err != nil {
		b.Fatal(err)
	}
	defer file.Close()
	if n, err := io.Copy(io.Discard, file); err != nil || n != 64<<20 {
		b.Fatalf("%d bytes, %v", n, err)
	}
}

// BenchmarkRefusal is what a caller costs that sends nonsense.
func BenchmarkRefusal(b *testing.B) {
	s := New(Options{})
	for b.Loop() {
		r := httptest.NewRequest(http.MethodPost, "/v1/sandboxes", strings.NewReader(`{"limits":{"memory":"12x"}}`))
		r.Header.Set("Content-Type", httpapi.TypeJSON)
		s.ServeHTTP(httptest.NewRecorder(), r)
	}
}

// streamPieces produces a process that writes n pieces and ends.
func streamPieces(piece []byte, n int) func(context.Context, put) error {
	return func(_ context.Context, put put) error {
		outputs := []cove.Output{{PID: 1}, {Stream: cove.Stdout, Data: piece}, {PID: 1, Exit: &cove.Exit{}}}
		for i := range n + 2 {
			output := &outputs[1]
			if i == 0 {
				output = &outputs[0]
			} else if i == n+1 {
				output = &outputs[2]
			}
			if err := put(func(b []byte) []byte { return httpapi.AppendOutput(b, output) }); err != nil {
				return err
			}
		}
		return nil
	}
}

func BenchmarkInputByHost(b *testing.B) {
	w := newWorld(b, Options{})
	box, err := w.host.Sandbox(b.Context(), w.sandbox().ID)
	if err != nil {
		b.Fatal(err)
	}
	data := make([]byte, 64<<20)
	b.SetBytes(int64(len(data)))
	for b.Loop() {
		output, err := box.Run(b.Context(), cove.ProcessRequest{Command: cove.Command{Argv: []string{"wc", "-c"}}}, bytes.NewReader(data))
		if err != nil {
			b.Fatal(err)
		}
		for {
			next, err := output.Next()
			if err != nil {
				b.Fatal(err)
			}
			if next.Exit != nil {
				break
			}
		}
		output.Close()
	}
}

func BenchmarkInputByHTTP(b *testing.B) {
	box := newWorld(b, Options{}).sandbox()
	data := make([]byte, 64<<20)
	b.SetBytes(int64(len(data)))
	for b.Loop() {
		cmd := box.Command("wc", "-c")
		cmd.Stdin = bytes.NewReader(data)
		if out, err := cmd.Output(); err != nil || string(out) != "67108864\n" {
			b.Fatalf("%q, %v", out, err)
		}
	}
}
