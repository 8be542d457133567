package docker

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/covehq/cove"
)

// program puts an executable where cove-runsc may be.
func program(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "cove-runsc")
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestARegistrationKeepsTheRestOfTheConfiguration(t *testing.T) {
	runsc := program(t)
	for name, test := range map[string]struct {
		before string
		code   cove.Code // "" for a change
		keeps  string    // a part of what is there afterwards
	}{
		"no file":             {"", "", `"runtimes"`},
		"an empty file":       {"\n", "", `"runtimes"`},
		"other settings":      {`{"log-driver":"journald","max-concurrent-downloads":9007199254740993}`, "", `9007199254740993`},
		"other runtimes":      {`{"runtimes":{"crun":{"path":"/usr/bin/crun"}}}`, "", `"crun"`},
		"an earlier cove's":   {`{"runtimes":{"runsc":{"path":"/old/cove-runsc"}}}`, "", runsc},
		"gVisor's own":        {`{"runtimes":{"runsc":{"path":"/usr/bin/runsc"}}}`, cove.Conflict, ""},
		"a shim":              {`{"runtimes":{"runsc":{"runtimeType":"io.containerd.runsc.v1"}}}`, cove.Conflict, ""},
		"no JSON":             {`{"log-driver":`, cove.Invalid, ""},
		"runtimes in a list":  {`{"runtimes":[]}`, cove.Invalid, ""},
		"nothing by its name": {`null`, cove.Invalid, ""},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "daemon.json")
			if test.before != "" {
				if err := os.WriteFile(path, []byte(test.before), 0o640); err != nil {
					t.Fatal(err)
				}
			}
			change, err := Register(path, runsc)
			if test.code != "" {
				if !errors.Is(err, test.code) {
					t.Fatalf("got %v, want %s", err, test.code)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if err := change.Apply(); err != nil {
				t.Fatal(err)
			}
			after, err := os.ReadFile(path)
			if err != nil || !json.Valid(after) || !strings.Contains(string(after), test.keeps) || !strings.Contains(string(after), runsc) {
				t.Errorf("got %s, %v; want %s and %s in it", after, err, test.keeps, runsc)
			}
			if strings.TrimSpace(test.before) != "" {
				saved, _ := filepath.Glob(path + ".*.bak")
				if len(saved) != 1 {
					t.Fatalf("backups: got %v, want one", saved)
				}
				if content, _ := os.ReadFile(saved[0]); string(content) != test.before {
					t.Errorf("backup: got %s, want %s", content, test.before)
				}
				if info, _ := os.Stat(path); info.Mode().Perm() != 0o640 {
					t.Errorf("mode: got %v, want the one before", info.Mode())
				}
			}
			if again, err := Register(path, runsc); err != nil || len(again.Lines) > 0 {
				t.Errorf("a second time: got %v, %v; want nothing to do", again, err)
			}
		})
	}
}

func TestARegistrationDoesNotOverwriteWhatSomebodyElseWrote(t *testing.T) {
	path := filepath.Join(t.TempDir(), "daemon.json")
	change, err := Register(path, program(t))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(`{"debug":true}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := change.Apply(); !errors.Is(err, cove.Conflict) {
		t.Errorf("got %v, want a conflict", err)
	}
}

func TestOnlyTheEngineOfThisMachineCanBeGivenARuntime(t *testing.T) {
	for _, host := range []string{"tcp://10.0.0.1:2376", "unix:///run/user/1000/docker.sock", "unix:///run/podman/podman.sock"} {
		if err := Installable(host); !errors.Is(err, cove.NotSupported) {
			t.Errorf("%s: got %v, want that it is refused", host, err)
		}
	}
}
