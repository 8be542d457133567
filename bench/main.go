// Command bench measures what Cove costs, beside the floor under each figure measured in
// the same run, and writes a table. It runs as root on an otherwise idle machine, starts
// a daemon of its own, and leaves nothing behind.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/covehq/cove"
	"github.com/covehq/cove/client"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	rounds := flag.Int("n", 15, "rounds of each slow measurement; quick ones take twenty times as many")
	out := flag.String("out", "bench/results", "directory for the table; empty: only print it")
	runtimes := flag.String("runtimes", "gvisor,runc", "runtimes to measure")
	only := flag.String("only", "", "one part to measure: runtimes, network, images, memory or engine")
	flag.Parse()

	b := &bench{rounds: *rounds, table: newTable()}
	if err := b.start(ctx); err != nil {
		return err
	}
	defer b.stop()
	parts := []struct {
		name    string
		measure func(context.Context) error
	}{
		{"runtimes", func(ctx context.Context) error { return b.eachRuntime(ctx, *runtimes) }},
		{"network", func(ctx context.Context) error { return b.network(ctx, *runtimes) }},
		{"images", b.images},
		{"memory", b.daemonMemory},
		{"engine", b.engine},
	}
	for _, part := range parts {
		if *only != "" && *only != part.name {
			continue
		}
		if err := part.measure(ctx); err != nil {
			return fmt.Errorf("%s: %w", part.name, err)
		}
	}
	if err := b.python(ctx); err != nil {
		return err
	}
	text := b.table.markdown()
	fmt.Print(text)
	if *out == "" {
		return nil
	}
	if err := os.MkdirAll(*out, 0o755); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(*out, "latest.md"), []byte(text), 0o644)
}

// bench is one run: its own daemon, in its own directories.
type bench struct {
	rounds int
	table  *table
	dir    string
	bin    string // where the programs under measurement are
	site   *site
	daemon *exec.Cmd
	client *client.Client
}

func (b *bench) start(ctx context.Context) (err error) {
	cove, err := exec.LookPath("cove")
	if err != nil {
		return errors.New("cove is not on PATH: run make bench")
	}
	b.bin = filepath.Dir(cove)
	if b.dir, err = os.MkdirTemp("", "cove-bench-"); err != nil {
		return err
	}
	if b.site, err = startSite(b.dir); err != nil {
		return err
	}
	policy := filepath.Join(b.dir, "policy.yaml")
	if err := os.WriteFile(policy, []byte("egress: {private: [127.0.0.1/32]}\n"), 0o600); err != nil {
		return err
	}
	b.daemon = exec.CommandContext(ctx, cove, "serve", "--policy", policy, "--resolver", b.site.names)
	b.daemon.Env = append(os.Environ(), "COVE_STATE_DIR="+filepath.Join(b.dir, "run"), "COVE_DATA_DIR="+filepath.Join(b.dir, "lib"), "SSL_CERT_FILE="+b.site.ca)
	b.daemon.Cancel = func() error { return b.daemon.Process.Signal(syscall.SIGTERM) }
	b.daemon.WaitDelay = 10 * time.Second
	log, err := os.Create(filepath.Join(b.dir, "log"))
	if err != nil {
		return err
	}
	defer log.Close()
	b.daemon.Stdout, b.daemon.Stderr = log, log
	if err := b.daemon.Start(); err != nil {
		return err
	}
	b.client, err = client.New(client.Options{URL: "unix://" + filepath.Join(b.dir, "run", "cove.sock")})
	if err != nil {
		return err
	}
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		err := b.client.Healthy(ctx)
		if err == nil {
			return nil
		}
		if time.Now().After(deadline) || ctx.Err() != nil {
			b.stop()
			return fmt.Errorf("the daemon did not come up: %w", err)
		}
	}
}

// stop removes what is left of the sandboxes, ends the daemon and removes its directories.
func (b *bench) stop() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if boxes, err := b.client.List(ctx, client.Filter{}); err == nil {
		for _, box := range boxes {
			if err := b.client.Handle(box.ID).Remove(ctx); err != nil {
				fmt.Fprintln(os.Stderr, "bench: left behind:", err)
			}
		}
	}
	_ = b.daemon.Process.Signal(syscall.SIGTERM)
	_ = b.daemon.Wait()
	b.site.stop()
	unmountBelow(b.dir)
	if err := os.RemoveAll(b.dir); err != nil {
		fmt.Fprintln(os.Stderr, "bench: left behind:", err)
	}
}

// eachRuntime measures runtimes one after the other.
func (b *bench) eachRuntime(ctx context.Context, runtimes string) error {
	for name := range strings.SplitSeq(runtimes, ",") {
		if err := b.runtime(ctx, name); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

// runtime measures everything on one runtime.
func (b *bench) runtime(ctx context.Context, name string) error {
	spec := cove.Spec{Runtime: name, Limits: cove.Limits{CPUs: 2, Memory: 2 * cove.GiB}}
	if err := b.creation(ctx, name, spec); err != nil {
		return fmt.Errorf("create: %w", err)
	}
	box, err := b.client.Create(ctx, spec, client.CreateOptions{})
	if err != nil {
		return err
	}
	defer box.Remove(context.WithoutCancel(ctx))
	for _, measure := range []func(context.Context, string, *client.Sandbox) error{b.execution, b.streaming, b.transfer} {
		if err := measure(ctx, name, box); err != nil {
			return err
		}
	}
	return b.idleMemory(ctx, name)
}
