package guest_test

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/covehq/cove"
	"github.com/covehq/cove/guest"
	"github.com/covehq/cove/guest/dial"
)

func TestCommandsHaveTheResourceLimitsAndTheAgentHasNot(t *testing.T) {
	c := dial.New(newAgent(t, guest.Options{}))
	t.Cleanup(func() { _ = c.Close() })
	limits := []cove.Ulimit{{Name: "nofile", Soft: 40, Hard: 50}, {Name: "core", Soft: 0, Hard: 0}, {Name: "fsize", Soft: 512, Hard: 1024}}
	if err := c.Init(t.Context(), dial.Init{User: strconv.Itoa(os.Geteuid()), Ulimits: limits}); err != nil {
		t.Fatal(err)
	}
	got := run(t, c, shell("ulimit -Sn; ulimit -Hn; ulimit -c; ulimit -f; echo $0"))
	if want := "40\n50\n0\n1\n/bin/sh\n"; got.stdout != want || got.exit.Code != 0 {
		t.Errorf("got %q, want %q", got.stdout, want)
	}
	large := filepath.Join(t.TempDir(), "large")
	if _, err := c.WriteFile(t.Context(), large, "", strings.NewReader(strings.Repeat("x", 4096)), nil); err != nil {
		t.Errorf("the agent writes %v, want no limit on that", err)
	}
	for path, want := range map[string]int{"/nosuch/program": 127, os.DevNull: 126} {
		if got := run(t, c, dial.Start{Argv: []string{path}}); got.exit.Code != want {
			t.Errorf("%s ends with code %d, want %d", path, got.exit.Code, want)
		}
	}
	if err := c.Init(t.Context(), dial.Init{Ulimits: []cove.Ulimit{{Name: "toes"}}}); !errors.Is(err, cove.Invalid) {
		t.Errorf("an unknown limit is %v, want invalid", err)
	}
	if err := c.Init(t.Context(), dial.Init{User: strconv.Itoa(os.Geteuid())}); err != nil {
		t.Fatal(err)
	}
	if got := run(t, c, shell("ulimit -Sn")); got.stdout == "40\n" {
		t.Error("limits stay when they are taken away")
	}
}

func TestAWorkingDirectoryInProcIsWhatItLeadsTo(t *testing.T) {
	c := dial.New(newAgent(t, guest.Options{}))
	t.Cleanup(func() { _ = c.Close() })
	dir := t.TempDir()
	open, err := os.Open(dir) // as the agent may have a directory open
	if err != nil {
		t.Fatal(err)
	}
	defer open.Close()
	if err := os.Symlink("/proc/self/cwd", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	own, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	got := run(t, c, dial.Start{Argv: []string{"/bin/pwd", "-P"}, Cwd: filepath.Join(dir, "link")})
	if want := own + "\n"; got.stdout != want {
		t.Errorf("got %q, want %q", got.stdout, want)
	}
}
