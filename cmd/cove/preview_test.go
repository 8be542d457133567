package main

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"github.com/covehq/cove"
	"github.com/covehq/cove/internal/cli"
	"github.com/covehq/cove/internal/daemon"
)

func TestT72ThePreviewsDoorIsNotOpenToOthersWithoutTLS(t *testing.T) {
	for name, test := range map[string]struct {
		asked cli.PreviewOptions
		want  cove.Code
	}{
		"none":                            {cli.PreviewOptions{}, ""},
		"loopback":                        {cli.PreviewOptions{Listen: "127.0.0.1:0"}, ""},
		"loopback by name":                {cli.PreviewOptions{Listen: "localhost:0"}, ""},
		"another address of loopback":     {cli.PreviewOptions{Listen: "127.8.9.1:0"}, ""},
		"every address":                   {cli.PreviewOptions{Listen: ":0"}, cove.Forbidden},
		"every address of IPv4":           {cli.PreviewOptions{Listen: "0.0.0.0:0"}, cove.Forbidden},
		"every address of IPv6":           {cli.PreviewOptions{Listen: "[::]:0"}, cove.Forbidden},
		"a name that may be anything":     {cli.PreviewOptions{Listen: "localhost.example.org:0"}, cove.Forbidden},
		"loopback in another spelling":    {cli.PreviewOptions{Listen: "127.1:0"}, cove.Forbidden},
		"every address behind a proxy":    {cli.PreviewOptions{Listen: "0.0.0.0:0", BehindProxy: true}, ""},
		"no port":                         {cli.PreviewOptions{Listen: "127.0.0.1"}, cove.Invalid},
		"a domain that is none":           {cli.PreviewOptions{Listen: "127.0.0.1:0", Domain: "127.0.0.1"}, cove.Invalid},
		"a certificate that is not there": {cli.PreviewOptions{Listen: "0.0.0.0:0", TLSCert: "/none", TLSKey: "/none"}, cove.Invalid},
		"a port that is none":             {cli.PreviewOptions{Listen: "127.0.0.1:99999"}, cove.Conflict},
	} {
		if test.asked.Domain == "" {
			test.asked.Domain = "localhost"
		}
		dirs := daemon.Dirs{Data: t.TempDir()}
		shown, err := openPreviews(t.Context(), cli.ServeOptions{Dirs: dirs, Previews: test.asked, Logger: slog.New(slog.DiscardHandler)})
		if test.want == "" && err != nil || test.want != "" && (!errors.Is(err, test.want) || cove.HintOf(err) == "") {
			t.Errorf("%s: %v, hint %q; want %s", name, err, cove.HintOf(err), test.want)
		}
		if (shown.listener != nil) != (test.want == "" && test.asked.Listen != "") {
			t.Errorf("%s: the listener is %v", name, shown.listener)
		}
		if err := shown.close(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if info, err := os.Stat(filepath.Join(dirs.Data, "preview.key")); shown.listener != nil && (err != nil || info.Mode().Perm() != 0o600) {
			t.Errorf("%s: the key is %v, %v", name, info, err)
		}
	}
}
