package docker

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"testing"

	"github.com/covehq/cove"
	"github.com/covehq/cove/guest/dial"
	"github.com/covehq/cove/runtime/internal/bundle"
)

// elsewhere makes an engine of this machine one that is reached over the network.
func elsewhere(t *testing.T, d *Driver) string {
	t.Helper()
	c, err := d.engine.connect()
	if err != nil {
		t.Fatal(err)
	}
	socket, ok := strings.CutPrefix(c.DaemonHost(), "unix://")
	if !ok {
		return c.DaemonHost()
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var relays sync.WaitGroup
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(func() { cancel(); l.Close(); relays.Wait() })
	relays.Go(func() {
		for {
			near, err := l.Accept()
			if err != nil {
				return
			}
			far, err := net.Dial("unix", socket)
			if err != nil {
				near.Close()
				continue
			}
			stop := context.AfterFunc(ctx, func() { near.Close(); far.Close() })
			relays.Go(func() {
				defer stop()
				var both sync.WaitGroup
				both.Go(func() { _, _ = io.Copy(far, near); _ = far.(*net.UnixConn).CloseWrite() })
				both.Go(func() { _, _ = io.Copy(near, far); near.Close() })
				both.Wait()
				far.Close()
			})
		}
	})
	return "tcp://" + l.Addr().String()
}

func TestAnEngineOnAnotherMachine(t *testing.T) {
	here := anyEngine(t)
	name := bareImage(t, here)
	r := rig{t.TempDir(), binaries(t), elsewhere(t, here), "docker"}
	d, err := r.open()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.Create(t.Context(), "far", spec()); !errors.Is(err, cove.NotSupported) {
		t.Errorf("the image of this machine: got %v, want that it is not supported", err)
	}
	live(t, r, name)
}

// live takes a sandbox on an engine that is not on this machine through its life: made, used,
// found again by a restarted daemon, ended behind our back.
func live(t *testing.T, r rig, name string) {
	t.Helper()
	d, err := r.open()
	if err != nil {
		t.Fatal(err)
	}
	f, err := d.facts(t.Context())
	if err != nil {
		t.Fatal(err, cove.HintOf(err))
	}
	if f.local || f.near {
		t.Errorf("the engine is held to be on this machine: %+v", f)
	}
	s := spec()
	s.Image = name
	m, err := d.Create(t.Context(), "far", s)
	if err != nil {
		t.Fatal(err)
	}
	guest := dial.New(m.Dial)
	if hosts := read(t, guest, "/etc/hosts"); !strings.Contains(hosts, "localhost") {
		t.Errorf("/etc/hosts: got %q", hosts)
	}
	// The image has no program: the agent is one.
	stream, err := guest.Start(t.Context(), dial.Start{Argv: []string{bundle.AgentPath, "version"}, User: "root"})
	if err != nil {
		t.Fatal(err)
	}
	for piece, err := stream.Next(); ; piece, err = stream.Next() {
		if err != nil {
			t.Fatal(err)
		}
		if piece.Exit != nil {
			if piece.Exit.Code != 0 {
				t.Errorf("a command: got %+v, want that it succeeds", piece.Exit)
			}
			break
		}
	}
	stream.Close()
	guest.Close()

	restarted, err := r.open()
	if err != nil {
		t.Fatal(err)
	}
	again, err := restarted.Attach(t.Context(), "far", m.Handle())
	if err != nil {
		t.Fatal(err)
	}
	m.(*machine).release()
	guest = dial.New(again.Dial)
	defer guest.Close()
	if info, err := guest.Stat(t.Context(), "/workspace", ""); err != nil || info.Type != cove.TypeDirectory {
		t.Errorf("/workspace: got %+v, %v; want a directory", info, err)
	}
	if err := kill(t.Context(), restarted, "far"); err != nil {
		t.Fatal(err)
	}
	if exit, err := again.Wait(t.Context()); err != nil || exit.Reason != cove.ReasonKilled {
		t.Errorf("wait: got %+v, %v; want that it was killed", exit, err)
	}
	if err := again.Destroy(t.Context()); err != nil {
		t.Error(err)
	}
	if ids, err := restarted.List(t.Context()); err != nil || len(ids) > 0 {
		t.Errorf("left: %v, %v; want nothing", ids, err)
	}
}
