package docker

import (
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/moby/moby/api/types/system"

	"github.com/covehq/cove"
)

// TestARuntimeIsTheOneThatTheEngineKnowsByOneOfItsNames asks an engine elsewhere, which says
// of itself what a real one does.
func TestARuntimeIsTheOneThatTheEngineKnowsByOneOfItsNames(t *testing.T) {
	for name, test := range map[string]struct {
		runtime   string
		known     string // of the engine: its runtimes
		isolation cove.Isolation
		hint      string // where there is none
	}{
		"runc beside the default":      {"docker", `{"runc":{"path":"runc"},"crun":{"path":"crun"}}`, cove.IsolationSharedKernel, ""},
		"its default without a runc":   {"docker", `{"crun":{"path":"crun"}}`, cove.IsolationSharedKernel, ""},
		"another OCI runtime":          {"docker:crun", `{"runc":{"path":"runc"},"crun":{"path":"/usr/bin/crun"}}`, cove.IsolationSharedKernel, ""},
		"one that is not there":        {"docker:youki", `{"runc":{"path":"runc"}}`, "", "daemon.json"},
		"gVisor":                       {"docker:gvisor", `{"runc":{"path":"runc"},"runsc":{"path":"/opt/runsc"}}`, cove.IsolationUserspaceKernel, ""},
		"gVisor that is not there":     {"docker:gvisor", `{"runc":{"path":"runc"}}`, "", "cove runtime install docker-gvisor"},
		"Kata by the name of its shim": {"docker:kata", `{"runc":{"path":"runc"},"io.containerd.kata.v2":{"path":"io.containerd.kata.v2"}}`, cove.IsolationVM, ""},
		"Kata by the name of its own":  {"docker:kata", `{"runc":{"path":"runc"},"kata":{"runtimeType":"io.containerd.kata.v2"}}`, cove.IsolationVM, ""},
		"Kata that is not there":       {"docker:kata", `{"runc":{"path":"runc"}}`, "", "/dev/kvm"},
	} {
		t.Run(name, func(t *testing.T) {
			var info system.Info
			if err := json.Unmarshal([]byte(`{"OSType":"linux","CgroupDriver":"cgroupfs","ServerVersion":"28.0.0","DefaultRuntime":"crun","Runtimes":`+test.known+`}`), &info); err != nil {
				t.Fatal(err)
			}
			engine := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				switch path := r.URL.Path; {
				case strings.HasSuffix(path, "/_ping"):
					w.Header().Set("Api-Version", "1.48")
				case strings.HasSuffix(path, "/info"):
					_ = json.NewEncoder(w).Encode(info)
				case strings.HasSuffix(path, "/version"):
					_, _ = w.Write([]byte(`{"Version":"28.0.0","ApiVersion":"1.48"}`))
				default:
					http.NotFound(w, r)
				}
			}))
			t.Cleanup(engine.Close)
			d, err := rig{t.TempDir(), binaries(t), "tcp://" + strings.TrimPrefix(engine.URL, "http://"), test.runtime}.open()
			if err != nil {
				t.Fatal(err)
			}
			got, err := d.Probe(t.Context())
			if test.isolation == "" {
				if !errors.Is(err, cove.Unavailable) || !strings.Contains(err.Error(), "has no runtime") || !strings.Contains(cove.HintOf(err), test.hint) {
					t.Errorf("got %v (hint %q), want unavailable and a hint of %s", err, cove.HintOf(err), test.hint)
				}
				return
			}
			if err != nil || got.Isolation != test.isolation {
				t.Errorf("got %s, %v, want %s", got.Isolation, err, test.isolation)
			}
		})
	}
}
