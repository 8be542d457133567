package house

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// agentBudget is how many bytes the agent may have on the disk. Engines on other machines are
// sent all of them.
const agentBudget = 10_000_000

func TestTheAgentStaysWithinItsBudget(t *testing.T) {
	path := filepath.Join(t.TempDir(), "cove-agent")
	build := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-o", path, "./cmd/cove-agent") // as make does
	build.Dir, build.Env = root, append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=")
	if output, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, output)
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if info.Size() > agentBudget {
		t.Errorf("the agent has %d bytes, the budget is %d: see go tool nm -size -sort size", info.Size(), agentBudget)
	}
}
