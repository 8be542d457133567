package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/covehq/cove"
	"github.com/covehq/cove/client"
)

// creation measures a cold create, from the API call to the agent's answer, in turns with
// the runtime's own `run true`.
func (b *bench) creation(ctx context.Context, name string, spec cove.Spec) error {
	bare, err := b.bareRuntime(name)
	if err != nil {
		return err
	}
	var got, floor samples
	for i := range b.rounds + 1 {
		at := time.Now()
		box, err := b.client.Create(ctx, spec, client.CreateOptions{})
		if err != nil {
			return err
		}
		created := time.Since(at)
		if err := box.Remove(ctx); err != nil {
			return err
		}
		alone, err := bare.runTrue(ctx, i)
		if err != nil {
			return err
		}
		if i > 0 {
			got, floor = append(got, created), append(floor, alone)
		}
	}
	budget := 1.3
	if name != "gvisor" {
		budget = 1.5
	}
	b.table.time("create, cold", name, got, floor, bare.name+" run true", budget)
	return nil
}

// execution measures `true` through the HTTP API, in turns with fork and exec inside.
func (b *bench) execution(ctx context.Context, name string, box *client.Sandbox) error {
	const batch = 20
	var got, floor samples
	for i := range b.rounds + 1 {
		for range batch {
			at := time.Now()
			result, err := box.Exec(ctx, cove.ExecRequest{Command: cove.Command{Argv: []string{"/bin/true"}}})
			if err != nil {
				return err
			}
			if result.ExitCode != 0 {
				return fmt.Errorf("true: exit code %d", result.ExitCode)
			}
			if i > 0 {
				got = append(got, time.Since(at))
			}
		}
		each, err := forkInside(ctx, box, batch)
		if err != nil {
			return err
		}
		if i > 0 {
			floor = append(floor, each)
		}
	}
	budget := 2.0
	if name == "gvisor" {
		budget = 1.5
	}
	b.table.time("exec true, HTTP API", name, got, floor, "fork+exec inside", budget)
	return nil
}

// forkInside has a shell inside fork and exec /bin/true n times, and returns the time of one.
func forkInside(ctx context.Context, box *client.Sandbox, n int) (time.Duration, error) {
	script := fmt.Sprintf(`a=$(date +%%s%%N); i=0; while [ $i -lt %d ]; do /bin/true; i=$((i+1)); done; b=$(date +%%s%%N); echo $(( (b-a)/%d ))`, n, n)
	result, err := box.Exec(ctx, cove.ExecRequest{Command: cove.Command{Line: script}})
	if err != nil {
		return 0, err
	}
	ns, err := strconv.ParseInt(strings.TrimSpace(string(result.Stdout)), 10, 64)
	return time.Duration(ns), err
}

const streamed = 256 << 20

// streaming measures a command's output through the API, beside the same pipe inside.
func (b *bench) streaming(ctx context.Context, name string, box *client.Sandbox) error {
	inside, err := b.best(func() (int64, error) {
		result, err := box.Exec(ctx, cove.ExecRequest{Command: cove.Command{Line: fmt.Sprintf("head -c %d /dev/zero | cat >/dev/null", streamed)}})
		if err == nil && result.ExitCode != 0 {
			err = errors.New("the pipe inside failed")
		}
		return streamed, err
	})
	if err != nil {
		return err
	}
	out, err := b.best(func() (int64, error) {
		count := &counter{}
		cmd := box.CommandContext(ctx, "head", "-c", strconv.Itoa(streamed), "/dev/zero")
		cmd.Stdout = count
		err := cmd.Run()
		if err == nil && count.n != streamed {
			err = fmt.Errorf("got %d bytes of output, want %d", count.n, streamed)
		}
		return count.n, err
	})
	if err != nil {
		return err
	}
	b.table.rate("output of a command", name, out, inside, "a pipe inside", budgetOnRunc(name, 300))
	return nil
}

// budgetOnRunc returns a budget that is set for runc alone.
func budgetOnRunc(name string, budget float64) float64 {
	if name == "runc" {
		return budget
	}
	return 0
}

const transferred = 256 << 20

// transfer measures a file up and down, beside dd inside.
func (b *bench) transfer(ctx context.Context, name string, box *client.Sandbox) error {
	content := bytes.Repeat([]byte("0123456789abcdef"), transferred/16)
	const path = "/workspace/large"
	inside, err := b.best(func() (int64, error) {
		result, err := box.Exec(ctx, cove.ExecRequest{Command: cove.Command{Line: fmt.Sprintf("rm -f /workspace/dd; dd if=/dev/zero of=/workspace/dd bs=1M count=%d 2>/dev/null", transferred>>20)}})
		if err == nil && result.ExitCode != 0 {
			err = errors.New("dd inside failed")
		}
		return transferred, err
	})
	if err != nil {
		return err
	}
	up, err := b.best(func() (int64, error) {
		_, err := box.Files().WriteFile(ctx, path, bytes.NewReader(content), 0o644)
		return transferred, err
	})
	if err != nil {
		return err
	}
	read, err := b.best(func() (int64, error) {
		result, err := box.Exec(ctx, cove.ExecRequest{Command: cove.Command{Line: "cat " + path + " | cat >/dev/null"}})
		if err == nil && result.ExitCode != 0 {
			err = errors.New("cat inside failed")
		}
		return transferred, err
	})
	if err != nil {
		return err
	}
	down, err := b.best(func() (int64, error) {
		r, err := box.Files().OpenFile(ctx, path)
		if err != nil {
			return 0, err
		}
		defer r.Close()
		n, err := io.Copy(io.Discard, r)
		if err == nil && n != transferred {
			err = fmt.Errorf("got %d bytes, want %d", n, transferred)
		}
		return n, err
	})
	if err != nil {
		return err
	}
	b.table.rate("file upload", name, up, inside, "dd inside", budgetOnRunc(name, 300))
	b.table.rate("file download", name, down, read, "cat inside", budgetOnRunc(name, 300))
	return nil
}

// best runs f five times and returns the best rate in MB/s: what a stream can do is not
// what a busy neighbour left of it.
func (b *bench) best(f func() (int64, error)) (float64, error) {
	best := 0.0
	for range 5 {
		at := time.Now()
		n, err := f()
		if err != nil {
			return 0, err
		}
		best = max(best, float64(n)/1e6/time.Since(at).Seconds())
	}
	return best, nil
}

type counter struct{ n int64 }

func (c *counter) Write(p []byte) (int, error) {
	c.n += int64(len(p))
	return len(p), nil
}
