package conformance

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/covehq/cove"
	"github.com/covehq/cove/guest/dial"
	"github.com/covehq/cove/sandbox/driver"
)

func createChecks() []check {
	return []check{
		{"probe-changes-nothing", "Probe changes nothing.", Needs{Alone: true}, probeChangesNothing},
		{"probe-describes-everything", "Info describes the runtime: a class, a version, and for every control how far it is enforced.", Needs{}, probeDescribes},
		{"isolation-is-a-fact", "The isolation class is a fact: a kernel is the sandbox's own where it says so, and the host's where not.", Needs{}, isolationIsAFact},
		{"floor-boots", "Floor is the smallest limits with which a sandbox starts.", Needs{}, floorBoots},
		{"agent-answers", "Create returns when its guest agent can be dialled.", Needs{}, agentAnswers},
		{"agent-speaks-both-http", "The agent speaks HTTP/1.1 and HTTP/2 on the stream that Dial returns.", Needs{}, agentSpeaksBoth},
		{"dial-is-fresh", "Dial opens a fresh stream: what happens to one is nothing to another.", Needs{}, dialIsFresh},
		{"dial-many", "Dial may be called concurrently, for as many streams as there is work.", Needs{}, dialMany},
		{"dial-heeds-context", "Dial fails when its context has ended.", Needs{}, dialHeedsContext},
		{"spec-untouched", "The driver does not modify the spec.", Needs{}, specUntouched},
		{"any-id", "An id matches ^[a-z0-9]{1,40}$, and every such id works.", Needs{}, anyID},
		{"outlives-context", "A sandbox lives on when the context of its Create ends.", Needs{}, outlivesContext},
		{"cancelled-leaves-nothing", "When ctx ends during Create, nothing is left behind.", Needs{}, cancelledLeavesNothing},
		{"failed-leaves-nothing", "When Create returns an error, nothing is left behind.", Needs{}, failedLeavesNothing},
		{"handle-steady", "Handle returns the same at every call.", Needs{}, handleSteady},
		{"handle-small", "A handle is below 64 KiB, and not empty.", Needs{}, handleSmall},
	}
}

func probeChangesNothing(ctx context.Context, b *bench) error {
	d := b.driver
	if b.options.Reopen != nil { // one that has not probed yet
		reopened, err := b.options.Reopen()
		if err != nil {
			return err
		}
		d = reopened
	}
	census := func() map[string]int {
		if b.options.Census == nil {
			return nil
		}
		return b.options.Census()
	}
	files, counts := files(b.options.StateDirs), census()
	for range 2 {
		if _, err := d.Probe(ctx); err != nil {
			return fmt.Errorf("probe: %w", err)
		}
	}
	return errors.Join(
		sameFiles(files, b.options.StateDirs),
		sameCounts(counts, census()),
	)
}

func sameFiles[M any](before map[string]M, dirs []string) error {
	for path := range files(dirs) {
		if _, ok := before[path]; !ok {
			return fmt.Errorf("files of the driver: got %s in addition, want none", path)
		}
	}
	return nil
}

func sameCounts(before, after map[string]int) error {
	if !maps.Equal(before, after) {
		return fmt.Errorf("census of the host: got %v, want %v as before", after, before)
	}
	return nil
}

func probeDescribes(_ context.Context, b *bench) error {
	classes := []cove.Isolation{cove.IsolationProcess, cove.IsolationSharedKernel, cove.IsolationUserspaceKernel, cove.IsolationVM}
	if !slices.Contains(classes, b.info.Isolation) {
		return fmt.Errorf("isolation: got %q, want one of %q", b.info.Isolation, classes)
	}
	if b.info.Version == "" {
		return errors.New("version: got none, want one")
	}
	degrees := []cove.Enforcement{cove.Enforced, cove.Degraded, cove.Unsupported}
	for _, control := range cove.Controls {
		if !slices.Contains(degrees, b.info.Controls[control]) {
			return fmt.Errorf("control %s: got %q, want one of %q", control, b.info.Controls[control], degrees)
		}
	}
	return equal("number of controls", len(b.info.Controls), len(cove.Controls))
}

// ownKernel reports whether the class promises a kernel of the sandbox's own.
func ownKernel(class cove.Isolation) bool {
	return class == cove.IsolationUserspaceKernel || class == cove.IsolationVM
}

// isolationIsAFact compares the kernel inside with the host's: the version that it reports,
// and the id of its boot where it has one.
func isolationIsAFact(ctx context.Context, b *bench) error {
	x, err := b.shared(ctx)
	if err != nil {
		return err
	}
	var host strings.Builder
	for _, path := range []string{"/proc/version", "/proc/sys/kernel/random/boot_id"} {
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		host.Write(content)
	}
	inside, err := x.print(ctx, "cat /proc/version /proc/sys/kernel/random/boot_id 2>/dev/null || true")
	if err != nil {
		return err
	}
	same := inside == strings.TrimSpace(host.String())
	if same && ownKernel(b.info.Isolation) {
		return fmt.Errorf("kernel inside: got the host's, want another, as the class is %s", b.info.Isolation)
	}
	if !same && !ownKernel(b.info.Isolation) {
		return fmt.Errorf("kernel inside: got %q, want the host's, as the class is %s", inside, b.info.Isolation)
	}
	return nil
}

func floorBoots(ctx context.Context, b *bench) error {
	x, err := b.create(ctx, func(s *cove.Spec) {
		limits := b.info.Floor
		s.Limits = cove.Limits{}
		*s = s.WithDefaults()
		if limits.CPUs > 0 {
			s.Limits.CPUs = max(limits.CPUs, 0.1) // a hundredth of a CPU boots, in its time
		}
		if limits.Memory > 0 {
			s.Limits.Memory = limits.Memory
		}
		if limits.Pids > 0 {
			s.Limits.Pids = limits.Pids
		}
		if limits.Disk > 0 {
			s.Limits.Disk = limits.Disk
		}
	})
	if err != nil {
		return fmt.Errorf("with the limits of the floor: %w", err)
	}
	return x.guest.Health(ctx)
}

func specUntouched(ctx context.Context, b *bench) error {
	spec := b.spec(func(s *cove.Spec) {
		s.Env, s.Labels = map[string]string{"A": "1"}, map[string]string{"b": "2"}
	})
	before, err := json.Marshal(spec)
	if err != nil {
		return err
	}
	id := newID()
	machine, err := b.driver.Create(ctx, id, &spec)
	if err != nil {
		return fmt.Errorf("create: %w", err)
	}
	b.note(id, spec, machine)
	after, err := json.Marshal(spec)
	if err != nil {
		return err
	}
	return equal("spec after create", string(after), string(before))
}

func anyID(ctx context.Context, b *bench) error {
	digits := strings.Map(func(r rune) rune { return '0' + r%10 }, newID())
	for _, id := range []string{newID() + newID(), digits} {
		x, err := b.createAs(ctx, id, b.spec())
		if err != nil {
			return fmt.Errorf("id %s: %w", id, err)
		}
		if err := x.alive(ctx); err != nil {
			return fmt.Errorf("id %s: %w", id, err)
		}
	}
	return nil
}

func outlivesContext(ctx context.Context, b *bench) error {
	creating, cancel := context.WithCancel(ctx)
	defer cancel()
	spec, id := b.spec(), newID()
	machine, err := b.driver.Create(creating, id, &spec)
	if err != nil {
		return fmt.Errorf("create: %w", err)
	}
	cancel()
	x, err := b.adopt(ctx, id, spec, machine)
	if err != nil {
		return fmt.Errorf("after the context of create ended: %w", err)
	}
	for range 10 { // a kill would come at any moment
		if err := x.alive(ctx); err != nil {
			return fmt.Errorf("after the context of create ended: %w", err)
		}
		time.Sleep(10 * time.Millisecond)
	}
	return nil
}

// cancelledLeavesNothing ends the context at ten moments spread over the time that a
// Create takes here.
func cancelledLeavesNothing(ctx context.Context, b *bench) error {
	const moments = 10
	started := time.Now()
	if _, err := b.create(ctx); err != nil {
		return err
	}
	whole := time.Since(started)
	errs := make([]error, moments)
	for i := range moments {
		errs[i] = b.createCancelled(ctx, whole*time.Duration(i)/moments)
	}
	return errors.Join(errs...)
}

func (b *bench) createCancelled(ctx context.Context, after time.Duration) error {
	ending, cancel := context.WithCancel(ctx)
	timer := time.AfterFunc(after, cancel)
	defer timer.Stop()
	defer cancel()
	if after == 0 {
		cancel()
	}
	spec, id := b.spec(), newID()
	machine, err := b.driver.Create(ending, id, &spec)
	if err == nil { // it was faster
		b.note(id, spec, machine)
		return nil
	}
	if err := b.nothingLeft(ctx, id); err != nil {
		return fmt.Errorf("cancelled after %v: %w", after, err)
	}
	return nil
}

func failedLeavesNothing(ctx context.Context, b *bench) error {
	for _, bad := range []struct {
		name   string
		change func(*cove.Spec)
		must   bool // fail; the others may work on some runtime
	}{
		{"an image that does not exist", func(s *cove.Spec) { s.Image = "rootfs:/nowhere/" + newID() }, true},
		{"too little memory to boot", func(s *cove.Spec) { s.Limits.Memory = 256 * cove.KiB }, false},
		{"too few processes to boot", func(s *cove.Spec) { s.Limits.Pids = 1 }, false},
	} {
		spec, id := b.spec(bad.change), newID()
		machine, err := b.driver.Create(ctx, id, &spec)
		switch {
		case err == nil:
			b.note(id, spec, machine)
			if bad.must {
				return fmt.Errorf("create with %s: got no error, want one", bad.name)
			}
		default:
			if err := b.nothingLeft(ctx, id); err != nil {
				return fmt.Errorf("after create failed for %s: %w", bad.name, err)
			}
		}
	}
	return nil
}

// note remembers a machine to be cleared, without a word to its agent.
func (b *bench) note(id string, spec cove.Spec, machine driver.Machine) *box {
	b.mu.Lock()
	defer b.mu.Unlock()
	x := &box{id: id, spec: spec, machine: machine, guest: dial.New(machine.Dial)}
	b.boxes = append(b.boxes, x)
	return x
}

func handleSteady(ctx context.Context, b *bench) error {
	x, err := b.shared(ctx)
	if err != nil {
		return err
	}
	first := string(x.machine.Handle())
	scratch := x.machine.Handle()
	for i := range scratch {
		scratch[i] = 0 // a caller's copy is the caller's
	}
	if err := x.alive(ctx); err != nil {
		return err
	}
	return equal("second handle", string(x.machine.Handle()), first)
}

func handleSmall(ctx context.Context, b *bench) error {
	x, err := b.shared(ctx)
	if err != nil {
		return err
	}
	if size := len(x.machine.Handle()); size == 0 || size >= 64<<10 {
		return fmt.Errorf("size of the handle: got %d bytes, want 1 to 65535", size)
	}
	return nil
}
