package main

import (
	"log/slog"
	"testing"

	"github.com/covehq/cove"
	"github.com/covehq/cove/internal/cli"
)

func TestT74DaivsDoorIsNotOpenToOthersWithoutTLS(t *testing.T) {
	for name, test := range map[string]struct {
		asked cli.DaivOptions
		door  cli.DoorOptions
		want  cove.Code
	}{
		"not asked for":             {cli.DaivOptions{Listen: "0.0.0.0:0"}, cli.DoorOptions{}, ""},
		"loopback":                  {cli.DaivOptions{Key: "k", Listen: "127.0.0.1:0"}, cli.DoorOptions{}, ""},
		"every address":             {cli.DaivOptions{Key: "k", Listen: "0.0.0.0:0"}, cli.DoorOptions{}, cove.Forbidden},
		"a name":                    {cli.DaivOptions{Key: "k", Listen: "localhost.example.org:0"}, cli.DoorOptions{}, cove.Forbidden},
		"every one behind a proxy":  {cli.DaivOptions{Key: "k", Listen: "0.0.0.0:0"}, cli.DoorOptions{BehindProxy: true}, ""},
		"a certificate that is not": {cli.DaivOptions{Key: "k", Listen: "0.0.0.0:0"}, cli.DoorOptions{TLSCert: "/none", TLSKey: "/none"}, cove.Invalid},
	} {
		listener, err := openDaiv(t.Context(), cli.ServeOptions{Daiv: test.asked, Door: test.door, Logger: slog.New(slog.DiscardHandler)})
		if cove.CodeOf(err) != test.want && (err != nil || test.want != "") {
			t.Errorf("%s: got %v, want %q", name, err, test.want)
		}
		if (listener != nil) != (test.want == "" && test.asked.Key != "") {
			t.Errorf("%s: listener %v", name, listener)
		}
		if listener != nil {
			listener.Close()
		}
	}
}
