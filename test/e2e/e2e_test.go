// Package e2e tests Cove as its users meet it: sessions with the real programs, against a
// daemon and sandboxes of their own.
package e2e

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/covehq/cove"
)

// bin is where the programs under test are, and build puts them there.
var (
	bin   string
	build = sync.OnceValue(buildPrograms)
)

// tested are the runtimes that every session is held on.
var tested = []string{"gvisor", "runc"}

func TestMain(m *testing.M) {
	os.Exit(run(m))
}

func run(m *testing.M) int {
	// Most of a session is waiting, for leases and time-outs, so that more of them than
	// there are processors can be held at a time.
	flag.Parse()
	if err := flag.Set("test.parallel", "6"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	if bin = os.Getenv("COVE_BIN"); bin == "" {
		dir, err := os.MkdirTemp("", "cove-bin")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dir)
		bin = dir
	}
	return m.Run()
}

// binaries makes sure that the programs under test are there. They come from COVE_BIN,
// where make puts them, or are built now.
func binaries(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Skip("-short: the real programs are not built")
	}
	if err := build(); err != nil {
		t.Fatal(err)
	}
}

func buildPrograms() error {
	if os.Getenv("COVE_BIN") != "" {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-o", bin+"/", "./cmd/...")
	cmd.Dir, cmd.Env = "../..", append(os.Environ(), "CGO_ENABLED=0")
	if output, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go build: %w\n%s", err, output)
	}
	return nil
}

// eachRuntime runs a test on every tested runtime, in parallel. A runtime that can't run
// here is skipped, for the reason that the product gives, unless COVE_REQUIRE names it.
func eachRuntime(t *testing.T, test func(t *testing.T, runtime string)) {
	onRuntimes(t, tested, test)
}

// required reports whether COVE_REQUIRE names something that may not be missing.
func required(name string) bool {
	return slices.Contains(strings.Split(os.Getenv("COVE_REQUIRE"), ","), name)
}

func onRuntimes(t *testing.T, names []string, test func(t *testing.T, runtime string)) {
	runtimesOf(t, names, true, test)
}

// oneByOne is onRuntimes for tests that keep a processor busy by themselves: one runtime
// after the other.
func oneByOne(t *testing.T, names []string, test func(t *testing.T, runtime string)) {
	runtimesOf(t, names, false, test)
}

func runtimesOf(t *testing.T, names []string, parallel bool, test func(t *testing.T, runtime string)) {
	binaries(t)
	t.Parallel()
	var list struct{ Runtimes []cove.Runtime }
	w := newWorld(t, "")
	if err := json.Unmarshal([]byte(w.output(t, "runtime", "ls", "--json")), &list); err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		t.Run(name, func(t *testing.T) {
			found := slices.IndexFunc(list.Runtimes, func(r cove.Runtime) bool { return r.Name == name })
			switch {
			case found < 0:
				t.Fatalf("cove runtime ls does not know %s", name)
			case list.Runtimes[found].Available:
			case required(name):
				t.Fatalf("%s is required, and can't run: %s", name, list.Runtimes[found].Reason)
			default:
				t.Skip(list.Runtimes[found].Reason)
			}
			if parallel {
				t.Parallel()
			}
			test(t, name)
		})
	}
}

// eventually waits for a condition to hold.
func eventually(t testing.TB, within time.Duration, what string, holds func() bool) {
	t.Helper()
	// Not the test's context, which is over when it is cleaned up.
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	look := time.NewTicker(20 * time.Millisecond)
	defer look.Stop()
	for !holds() {
		select {
		case <-look.C:
		case <-ctx.Done():
			t.Fatalf("not within %v: %s", within, what)
		}
	}
}
