package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/covehq/cove"
	"github.com/covehq/cove/client"
)

// reached is what bench/reach found, on one way to the site.
type reached struct {
	Lookup   samples `json:"lookup"`
	Dial     samples `json:"dial"`
	Connect  samples `json:"connect"`
	Get      samples `json:"get"`
	Download float64 `json:"download"`
	Upload   float64 `json:"upload"`
	Open     int     `json:"open"`
}

// way is one way to the site.
type way struct {
	name, runtime string
	found         reached
}

const (
	mostOpen = 1000      // connections at the same time
	bulk     = 500 << 20 // bytes down and up
)

// network measures what goes out of sandboxes by Cove's way, beside the same program on
// the host: direct, and by mitmproxy where COVE_BENCH_PYTHON is a Python that has it.
func (b *bench) network(ctx context.Context, runtimes string) error {
	program := filepath.Join(b.dir, "reach")
	build := exec.CommandContext(ctx, "go", "build", "-o", program, "./bench/reach")
	build.Env, build.WaitDelay = append(os.Environ(), "CGO_ENABLED=0"), time.Second
	if output, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("go build: %w: %s", err, output)
	}
	direct, opened, err := b.reachFromHost(ctx, program, nil)
	if err != nil {
		return err
	}
	ways := []way{{"direct", "host", direct}, {"direct, TLS", "host", opened}}
	for name := range strings.SplitSeq(runtimes, ",") {
		untouched, opened, err := b.reachFromSandbox(ctx, name, program)
		if err != nil {
			return fmt.Errorf("network of %s: %w", name, err)
		}
		ways = append(ways, way{"untouched", name, untouched}, way{"opened TLS", name, opened})
		b.networkRows(name, direct, untouched, opened)
	}
	if peer, err := b.reachByMitmproxy(ctx, program); err != nil {
		b.table.note("mitmproxy is not beside the network: %v.", err)
	} else {
		ways = append(ways, way{"mitmproxy, opened TLS", "host", peer})
	}
	b.table.ways = ways
	return nil
}

// networkRows adds the figures that have budgets.
func (b *bench) networkRows(name string, direct, untouched, opened reached) {
	connect, rate := 3*time.Millisecond, 150.0
	if name != "gvisor" {
		connect, rate = 500*time.Microsecond, 600
	}
	b.table.note("%s looked a name up in %v.", name, untouched.Lookup)
	b.table.within("connect", name, untouched.Dial, direct.Dial, "host", connect)
	b.table.within("connect, first byte back", name, untouched.Connect, direct.Connect, "host", connect)
	b.table.within("GET on a kept connection", name, untouched.Get, direct.Get, "host", direct.Get.median()+time.Millisecond)
	b.table.within("GET on a kept connection, opened TLS", name, opened.Get, direct.Get, "host", direct.Get.median()+3*time.Millisecond)
	for _, r := range []struct {
		what       string
		got, floor float64
	}{{"500 MB down", untouched.Download, direct.Download}, {"500 MB up", untouched.Upload, direct.Upload}} {
		b.table.rate(r.what, name, r.got/1e6, r.floor/1e6, "host", rate)
	}
	b.table.note("%s held %d connections to the outside open at the same time.", name, untouched.Open)
}

// reachFromHost runs the program here, plain and with TLS.
func (b *bench) reachFromHost(ctx context.Context, program string, env []string) (plain, secure reached, err error) {
	one := func(url, echo string) (r reached, err error) {
		args := []string{"-url", url, "-ca", b.site.ca, "-n", strconv.Itoa(b.rounds * 20), "-size", strconv.Itoa(bulk)}
		if echo != "" {
			args = append(args, "-echo", echo, "-open", strconv.Itoa(mostOpen))
		}
		cmd := exec.CommandContext(ctx, program, args...)
		cmd.Env, cmd.WaitDelay = append(os.Environ(), env...), time.Second
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		output, err := cmd.Output()
		if err != nil {
			return r, fmt.Errorf("reach: %w: %s", err, stderr.String())
		}
		return r, json.Unmarshal(output, &r)
	}
	if plain, err = one("http://"+b.site.plain, b.site.echo); err != nil {
		return plain, secure, err
	}
	secure, err = one("https://localhost:"+port(b.site.secure), "")
	return plain, secure, err
}

// reachFromSandbox runs the program in a sandbox that may reach the site, by connections
// that pass untouched, and by TLS that is opened.
func (b *bench) reachFromSandbox(ctx context.Context, runtime, program string) (untouched, opened reached, err error) {
	untouched, err = b.reachInside(ctx, program, cove.Spec{
		Runtime: runtime, Network: cove.Network{
			Allow:  []string{siteName + ":" + port(b.site.plain), siteName + ":" + port(b.site.echo)},
			Limits: cove.NetworkLimits{Connections: mostOpen + 24},
		},
	}, "-url", "http://"+siteName+":"+port(b.site.plain), "-echo", siteName+":"+port(b.site.echo), "-open", strconv.Itoa(mostOpen))
	if err != nil {
		return untouched, opened, err
	}
	opened, err = b.reachInside(ctx, program, cove.Spec{
		Runtime: runtime, Network: cove.Network{Requests: []cove.RequestRule{{Host: siteName + ":" + port(b.site.secure)}}},
	}, "-url", "https://"+siteName+":"+port(b.site.secure))
	return untouched, opened, err
}

func (b *bench) reachInside(ctx context.Context, program string, spec cove.Spec, args ...string) (r reached, err error) {
	spec.Limits = cove.Limits{CPUs: 2, Memory: 2 * cove.GiB}
	spec.Ulimits = []cove.Ulimit{{Name: "nofile", Soft: 4096, Hard: 4096}}
	box, err := b.client.Create(ctx, spec, client.CreateOptions{})
	if err != nil {
		return r, err
	}
	defer box.Remove(context.WithoutCancel(ctx))
	file, err := os.Open(program)
	if err != nil {
		return r, err
	}
	defer file.Close()
	if _, err := box.Files().WriteFile(ctx, "/workspace/reach", file, 0o755); err != nil {
		return r, err
	}
	argv := append([]string{"/workspace/reach", "-n", strconv.Itoa(b.rounds * 20), "-size", strconv.Itoa(bulk)}, args...)
	result, err := box.Exec(ctx, cove.ExecRequest{Command: cove.Command{Argv: argv}})
	if err != nil {
		return r, err
	}
	if result.ExitCode != 0 {
		return r, fmt.Errorf("reach: %s", result.Stderr)
	}
	return r, json.Unmarshal(result.Stdout, &r)
}

// reachByMitmproxy runs the program here with mitmproxy between it and the site.
func (b *bench) reachByMitmproxy(ctx context.Context, program string) (reached, error) {
	python := os.Getenv("COVE_BENCH_PYTHON")
	if python == "" {
		return reached{}, errors.New("COVE_BENCH_PYTHON names no Python that has it")
	}
	mitmdump := filepath.Join(filepath.Dir(python), "mitmdump")
	if _, err := os.Stat(mitmdump); err != nil {
		return reached{}, err
	}
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return reached{}, err
	}
	address := free.Addr().String()
	if err := free.Close(); err != nil {
		return reached{}, err
	}
	home := filepath.Join(b.dir, "mitm")
	cmd := exec.CommandContext(ctx, mitmdump, "-q", "--listen-host", "127.0.0.1", "--listen-port", port(address),
		"--set", "confdir="+home, "--set", "ssl_verify_upstream_trusted_ca="+b.site.ca, "--set", "stream_large_bodies=1m")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	cmd.WaitDelay = time.Second
	if err := cmd.Start(); err != nil {
		return reached{}, err
	}
	defer cmd.Wait()
	defer cmd.Process.Kill()
	starting, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	if err := waitListening(starting, address); err != nil {
		return reached{}, err
	}
	// By a name that the system knows, which mitmproxy asks.
	client := exec.CommandContext(ctx, program, "-url", "https://localhost:"+port(b.site.secure), "-proxy", "http://"+address,
		"-ca", filepath.Join(home, "mitmproxy-ca-cert.pem"), "-n", strconv.Itoa(b.rounds*20), "-size", strconv.Itoa(bulk))
	client.WaitDelay = time.Second
	output, err := client.Output()
	if err != nil {
		return reached{}, fmt.Errorf("reach by mitmproxy: %w", err)
	}
	var r reached
	return r, json.Unmarshal(output, &r)
}
