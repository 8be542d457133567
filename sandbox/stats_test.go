package sandbox

import (
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/covehq/cove"
)

func tell(r *rig, s *Sandbox, metrics string) {
	agent := r.world.find(s.ID()).agent
	agent.mu.Lock()
	defer agent.mu.Unlock()
	agent.metrics = metrics
}

func TestStatsAreTheDriversAndThenTheGuests(t *testing.T) {
	r := newRig(t, Options{})
	s := r.create(cove.Spec{})
	tell(r, s, `{"cpu_time_ms": 0, "mem_used": 4096, "disk_used": 512, "disk_total": 1024, "processes": 4}`)
	cpu, memory, sent := cove.Duration(time.Second), cove.Bytes(9999), cove.Bytes(-1)
	r.world.stats = func() (*cove.Stats, error) {
		return &cove.Stats{CPUTime: &cpu, Memory: &memory, Sent: &sent}, nil
	}
	got, err := s.Stats(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	three, disk := 3, cove.Bytes(512)
	want := cove.Stats{CPUTime: &cpu, Memory: &memory, Processes: &three, Disk: &disk, Limit: cove.DefaultMemory, DiskLimit: cove.DefaultDisk}
	if diff := cmp.Diff(want, got, cmpopts.IgnoreFields(cove.Stats{}, "Time")); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestStatsOfAHostileGuestAreWithinItsLimits(t *testing.T) {
	r := newRig(t, Options{})
	s := r.create(cove.Spec{})
	for name, metrics := range map[string]string{
		"too much": `{"cpu_time_ms": 9223372036854775807, "mem_used": 18446744073709551615, "disk_used": 18446744073709551615, "disk_total": 1, "processes": 2147483647}`,
		"negative": `{"cpu_time_ms": -9223372036854775807, "mem_used": 0, "disk_total": 1, "processes": -2147483647}`,
	} {
		tell(r, s, metrics)
		got, err := s.Stats(t.Context())
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if *got.CPUTime < 0 || *got.CPUTime > cove.Duration(24*time.Hour) || *got.Memory < 0 || *got.Memory > got.Limit ||
			*got.Disk < 0 || *got.Disk > got.DiskLimit || *got.Processes < 0 || *got.Processes > maxPids {
			t.Errorf("%s: cpu %v, memory %v, disk %v, %d processes", name, *got.CPUTime, *got.Memory, *got.Disk, *got.Processes)
		}
	}
	tell(r, s, `not JSON`)
	if _, err := s.Stats(t.Context()); err == nil {
		t.Error("nonsense was taken for stats")
	}
}

func TestStatsAreNoUseOfASandbox(t *testing.T) {
	r := newRig(t, Options{})
	s := r.create(cove.Spec{})
	tell(r, s, `{}`)
	s.mu.Lock()
	before := s.lastUse
	s.mu.Unlock()
	if _, err := s.Stats(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lastUse != before || s.uses != 0 {
		t.Error("asking for stats counts as use")
	}
}

func TestStatsOfAnEndedSandboxAreGone(t *testing.T) {
	r := newRig(t, Options{})
	s := r.create(cove.Spec{})
	if err := s.Destroy(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Stats(t.Context()); !errors.Is(err, cove.Gone) {
		t.Errorf("got %v, want an error that is gone", err)
	}
}
