package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"

	"github.com/covehq/cove"
	"github.com/covehq/cove/client"
)

// What the Python package may cost.
const (
	pythonRun  = 3 * time.Millisecond
	pythonLoad = 80 * time.Millisecond
)

// python measures Cove's own Python package, where COVE_BENCH_PYTHON is a Python that has
// httpx: a command on runc beside dokapy's, where engine has measured that, else beside the
// Go client's; and what loading it takes beside httpx alone.
func (b *bench) python(ctx context.Context) error {
	python := os.Getenv("COVE_BENCH_PYTHON")
	if python == "" {
		b.table.note("COVE_BENCH_PYTHON names no Python with httpx, so the Python package was not measured.")
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, python, "bench/peers/sdk.py", "runc", strconv.Itoa(b.rounds))
	cmd.WaitDelay = time.Second
	cmd.Env = append(os.Environ(), "COVE_URL=unix://"+filepath.Join(b.dir, "run", "cove.sock"), "PYTHONPATH=sdk/python/src")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	output, err := cmd.Output()
	if err != nil {
		return fmt.Errorf("the Python package: %w: %s", err, stderr.String())
	}
	var found map[string][]float64
	if err := json.Unmarshal(output, &found); err != nil {
		return fmt.Errorf("the Python package: %w", err)
	}
	floor, name, err := b.pythonFloor(ctx)
	if err != nil {
		return err
	}
	b.table.within("Python: commands.run(\"true\")", "runc", milliseconds(found["run"]), floor, name, pythonRun)
	b.table.within("Python: from cove import Sandbox", "-", milliseconds(found["load"]), milliseconds(found["httpx"]), "import httpx", pythonLoad)
	return nil
}

// pythonFloor returns what a command costs by dokapy, or by the Go client.
func (b *bench) pythonFloor(ctx context.Context) (samples, string, error) {
	for _, s := range b.table.steps {
		if s.name == "dokapy" {
			return s.of["exec true"], "dokapy, on Docker", nil
		}
	}
	box, err := b.client.Create(ctx, cove.Spec{Runtime: "runc"}, client.CreateOptions{})
	if err != nil {
		return nil, "", err
	}
	defer box.Remove(context.WithoutCancel(ctx))
	s := newSteps("Go client")
	for range 20 * b.rounds {
		err := s.measure("exec true", func() error {
			_, err := box.Exec(ctx, cove.ExecRequest{Command: cove.Command{Line: "true"}})
			return err
		})
		if err != nil {
			return nil, "", err
		}
	}
	return s.of["exec true"], s.name, nil
}

// milliseconds returns what a peer printed as samples.
func milliseconds(found []float64) samples {
	all := make(samples, len(found))
	for i, ms := range found {
		all[i] = time.Duration(ms * float64(time.Millisecond))
	}
	return all
}
