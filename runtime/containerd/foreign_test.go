package containerd

import (
	"context"
	"fmt"
	"sync"
	"testing"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/typeurl/v2"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/covehq/cove/sandbox/drivertest"
)

// put makes a container past the driver, which never runs.
func put(t *testing.T, d *Driver, in string, record containers.Container) {
	t.Helper()
	err := d.engine.call(t.Context(), func(ctx context.Context, client *containerd.Client) error {
		_, err := client.ContainerService().Create(namespaces.WithNamespace(ctx, in), record)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// names returns the containers of a namespace.
func names(t *testing.T, d *Driver, in string) map[string]bool {
	t.Helper()
	found := map[string]bool{}
	err := d.engine.call(t.Context(), func(ctx context.Context, client *containerd.Client) error {
		records, err := client.ContainerService().List(namespaces.WithNamespace(ctx, in))
		for _, record := range records {
			found[record.ID] = true
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// TestT08AndT87WhatAKilledDaemonLeakedIsSweptAndNothingElse has a real engine full of containers: of a
// daemon that was killed, some of them running, and of others.
func TestT08AndT87WhatAKilledDaemonLeakedIsSweptAndNothingElse(t *testing.T) {
	t.Parallel()
	e := startEngine(t)
	d := e.driver(binaries(t), "")
	const leaked, running = 300, 4
	for i := range running {
		create(t, d, fmt.Sprintf("runs%d", i)).(*machine).release() // as a process does that ends
	}
	for i := range leaked - running {
		record, err := d.record(fmt.Sprintf("leak%d", i), &specs.Spec{})
		if err != nil {
			t.Fatal(err)
		}
		put(t, d, namespace, record)
	}
	other := e.driver(binaries(t), "gvisor")
	stays := create(t, other, "runs0")
	talk := drivertest.StartTalk(t, stays)
	config, err := typeurl.MarshalAny(&specs.Spec{})
	if err != nil {
		t.Fatal(err)
	}
	foreign := map[string]containers.Container{}
	for name, labels := range map[string]map[string]string{
		"somebody-s":                    nil,
		d.container("unlabelled"):       nil,
		d.container("another-s"):        {instanceLabel: "ffffffff", idLabel: "another-s"},
		"ffffffff-leak1":                {instanceLabel: "ffffffff", idLabel: "leak1"},
		"with-our-label":                d.labelsOf("leak2"),
		d.container("of-another-label"): d.labelsOf("leak3"),
	} {
		foreign[name] = containers.Container{ID: name, Labels: labels, Spec: config, Runtime: containers.RuntimeInfo{Name: runcShim}}
	}
	for _, record := range foreign {
		put(t, d, namespace, record)
		put(t, d, "elsewhere", record)
	}
	elsewhere, err := d.record("leak1", &specs.Spec{}) // the same name and label, in a namespace that is not ours
	if err != nil {
		t.Fatal(err)
	}
	put(t, d, "elsewhere", elsewhere)

	again := e.driver(binaries(t), "")
	ids, err := again.List(t.Context())
	if err != nil || len(ids) != leaked {
		t.Fatalf("List: got %d and %v, want the %d of this daemon", len(ids), err, leaked)
	}
	var removing sync.WaitGroup
	for _, id := range ids {
		removing.Go(func() {
			if err := again.Remove(t.Context(), id); err != nil {
				t.Errorf("remove %s: %v", id, err)
			}
		})
	}
	removing.Wait()
	left, away := names(t, d, namespace), names(t, d, "elsewhere")
	for name := range foreign {
		if !left[name] || !away[name] {
			t.Errorf("%s is gone, which was somebody else's", name)
		}
	}
	if want := len(foreign) + 1; len(left) != want || len(away) != want {
		t.Errorf("left: got %d here and %d elsewhere, want %d of each", len(left), len(away), want)
	}
	talk.GoesOn(t, "of another runtime")
	if err := stays.Destroy(t.Context()); err != nil {
		t.Error(err)
	}
	swept(t, d)
	swept(t, other)
}
