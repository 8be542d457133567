package sandbox

import (
	"log/slog"
	"testing"

	"github.com/covehq/cove"
	"github.com/covehq/cove/sandbox/driver"
	"github.com/covehq/cove/store/sqlite"
)

func benchHost(b *testing.B) *Host {
	opened, err := sqlite.Open(b.Context(), b.TempDir())
	if err != nil {
		b.Fatal(err)
	}
	h, err := Open(b.Context(), Options{
		Store: opened, Drivers: map[string]driver.Opener{"test": opener(newWorld())}, Default: "test",
		Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		for _, s := range h.all() {
			_ = s.Destroy(b.Context())
		}
		_ = h.Close(b.Context())
		_ = opened.Close()
	})
	return h
}

// BenchmarkCreate is what the host and its store add to a driver's create and destroy.
func BenchmarkCreate(b *testing.B) {
	h := benchHost(b)
	for b.Loop() {
		s, err := h.Create(b.Context(), cove.Spec{}, CreateOptions{})
		if err != nil {
			b.Fatal(err)
		}
		if err := s.Destroy(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkExec is what the host and the wire add to a command.
func BenchmarkExec(b *testing.B) {
	s, err := benchHost(b).Create(b.Context(), cove.Spec{}, CreateOptions{})
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if _, err := s.Exec(b.Context(), exec("true")); err != nil {
			b.Fatal(err)
		}
	}
}
