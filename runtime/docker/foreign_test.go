package docker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/moby/moby/client"

	"github.com/covehq/cove"
	"github.com/covehq/cove/guest/dial"
	"github.com/covehq/cove/sandbox/driver/bind"
	"github.com/covehq/cove/sandbox/drivertest"
)

func TestT08ForeignContainersAreNeverTouched(t *testing.T) {
	d := anyEngine(t)
	foreign := map[string]map[string]string{
		"cove-foreign1": nil,
		"cove-foreign2": {labelSandbox: "foreign2"},
		"cove-foreign3": {labelSandbox: "foreign3", labelInstance: "another", labelRuntime: d.name},
		"cove-foreign4": {labelSandbox: "foreign4", labelInstance: d.instance, labelRuntime: "docker:other"},
	}
	made := map[string]string{}
	for name, labels := range foreign {
		made[name] = bare(t, d, name, labels)
	}
	if ids, err := d.List(t.Context()); err != nil || len(ids) > 0 {
		t.Errorf("list: got %v, %v; want nothing", ids, err)
	}
	for name, id := range made {
		if err := d.Remove(t.Context(), strings.TrimPrefix(name, "cove-")); err != nil {
			t.Errorf("remove: %v", err)
		}
		if _, err := d.Create(t.Context(), strings.TrimPrefix(name, "cove-"), spec()); err == nil {
			t.Errorf("%s: its name was taken over", name)
		}
		if _, err := d.stateOf(t.Context(), id); err != nil {
			t.Errorf("%s: %v, want it untouched", name, err)
		}
	}
}

func TestT87TheContainersOfAKilledDaemonAreSwept(t *testing.T) {
	t.Parallel()
	e := newDaemon(t)
	d := e.driver(t, "docker")
	const leaked, running, makers = 300, 4, 4
	for i := range running {
		m, err := d.Create(t.Context(), fmt.Sprintf("runs%d", i), spec())
		if err != nil {
			t.Fatal(err)
		}
		m.(*machine).release() // as a process does that ends
	}
	other := e.driver(t, "docker:gvisor")
	stays, err := other.Create(t.Context(), "runs0x", spec())
	if err != nil {
		t.Fatal(err)
	}
	talk := drivertest.StartTalk(t, stays)
	foreign := bare(t, d, "somebody-s", nil)
	var making sync.WaitGroup
	for maker := range makers {
		making.Go(func() {
			for i := running + maker; i < leaked; i += makers {
				id := fmt.Sprintf("leaked%d", i)
				bare(t, d, containerName(id), d.labels(id))
			}
		})
	}
	making.Wait()
	again := e.driver(t, "docker")
	ids, err := again.List(t.Context())
	if err != nil || len(ids) != leaked {
		t.Fatalf("list: got %d and %v, want %d", len(ids), err, leaked)
	}
	for _, id := range ids {
		if err := again.Remove(t.Context(), id); err != nil {
			t.Errorf("remove %s: %v", id, err)
		}
	}
	talk.GoesOn(t, "of another runtime")
	if _, err := d.stateOf(t.Context(), foreign); err != nil {
		t.Errorf("somebody's container: %v, want it untouched", err)
	}
	if err := stays.Destroy(t.Context()); err != nil {
		t.Error(err)
	}
	e.swept(t, "docker", "docker:gvisor")
}

func TestT09TheLabelsOfAnImageAreNothing(t *testing.T) {
	d := anyEngine(t)
	changes := []string{
		"LABEL " + labelSandbox + "=other " + labelInstance + "=other " + labelRuntime + "=other",
		"LABEL dev.gvisor.spec.mount.x.type=bind dev.gvisor.flag.host-uds=all io.kubernetes.cri.container-type=sandbox",
		"USER nobody", `ENTRYPOINT ["/none"]`,
	}
	for i := range 500 {
		changes = append(changes, fmt.Sprintf("LABEL label%d=x", i))
	}
	s := spec()
	s.Image = importImage(t, d, "cove-test/labelled", "", changes...)
	m, err := d.Create(t.Context(), "labelled", s)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := m.Destroy(context.Background()); err != nil {
			t.Error(err)
		}
	}()
	ours, err := d.containers(t.Context(), "labelled")
	if err != nil || len(ours) != 1 {
		t.Fatalf("containers: got %d and %v, want the one of this sandbox", len(ours), err)
	}
	if ids, err := d.List(t.Context()); err != nil || !slices.Equal(ids, []string{"labelled"}) {
		t.Errorf("list: got %v, %v; want what it is called here", ids, err)
	}
	err = d.engine.call(t.Context(), func(ctx context.Context, c *client.Client) error {
		found, err := c.ContainerInspect(ctx, ours[0].ID, client.ContainerInspectOptions{})
		if err != nil {
			return err
		}
		if config := found.Container.HostConfig; len(config.Annotations) > 0 || config.Privileged || !slices.Contains(config.SecurityOpt, "no-new-privileges") {
			t.Errorf("the container has annotations %v, privileged %v, %.100v", config.Annotations, config.Privileged, config.SecurityOpt)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

func TestT06ABindSourceIsTheOneThatWasResolved(t *testing.T) {
	d := anyEngine(t)
	if f, _ := d.facts(t.Context()); !f.near {
		t.Skip("the engine takes no binds: it is on another machine")
	}
	dir := t.TempDir()
	source := filepath.Join(dir, "source")
	if err := os.Mkdir(source, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(source+"/name", []byte("right"), 0o644); err != nil {
		t.Fatal(err)
	}
	file, err := os.Open(source)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	// Between the look at it and the mount, somebody puts a link to the host's in its place.
	if err := errors.Join(os.Rename(source, dir+"/moved"), os.Symlink("/etc", source)); err != nil {
		t.Fatal(err)
	}
	s := spec()
	s.Mounts = []cove.Mount{{Type: cove.MountBind, Source: bind.Path(file), Target: "/data", ReadOnly: true}}
	m, err := d.Create(t.Context(), "bound", s)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := m.Destroy(context.Background()); err != nil {
			t.Error(err)
		}
	}()
	guest := dial.New(m.Dial)
	defer guest.Close()
	response, err := guest.ReadFile(t.Context(), "/data/name", "", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if content, _ := io.ReadAll(response.Body); string(content) != "right" {
		t.Errorf("got %q, want the file that was resolved", content)
	}
	mounts, _ := os.ReadFile("/proc/self/mountinfo")
	if strings.Contains(string(mounts), d.state) {
		t.Error("a place for a bind is still mounted on the host, want it in the sandbox alone")
	}
}

func TestT53AnEngineCantLeadARequestElsewhere(t *testing.T) {
	var mu sync.Mutex
	var paths []string
	var instance string
	fake := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		paths = append(paths, r.Method+" "+r.URL.Path)
		mu.Unlock()
		switch path := r.URL.Path; {
		case strings.HasSuffix(path, "/_ping"):
			w.Header().Set("Api-Version", "1.41")
		case strings.HasSuffix(path, "/containers/create"):
			w.WriteHeader(http.StatusCreated)
			fmt.Fprint(w, `{"Id":"../images/json"}`)
		case strings.HasSuffix(path, "/volumes/create"):
			w.WriteHeader(http.StatusCreated)
			fmt.Fprint(w, `{"Name":"precious","Labels":{"dev.cove.sandbox":"x"}}`)
		case strings.HasSuffix(path, "/volumes"):
			fmt.Fprintf(w, `{"Volumes":[{"Name":"../images/json","Labels":{"dev.cove.sandbox":"x","dev.cove.instance":%q,"dev.cove.runtime":"docker"}},{"Name":"precious","Labels":{"dev.cove.sandbox":"x"}}]}`, instance)
		case strings.HasSuffix(path, "/containers/json"):
			fmt.Fprint(w, `[{"Id":"../volumes/precious","Labels":{}},{"Id":"`+strings.Repeat("a", 64)+`","Labels":{"dev.cove.sandbox":"x"}}]`)
		default:
			w.WriteHeader(http.StatusNotFound)
			fmt.Fprint(w, `{"message":"no"}`)
		}
	}))
	defer fake.Close()
	d := open(t, "tcp://"+strings.TrimPrefix(fake.URL, "http://"))
	mu.Lock()
	instance = d.instance
	mu.Unlock()
	f := &facts{runtime: "runc"}
	if _, err := d.createContainer(t.Context(), "x", spec(), f, &source{id: "sha256:1", agent: "v"}, true); err == nil {
		t.Error("a container with a path for an id was taken")
	}
	if err := d.makeVolumes(t.Context(), "x", withVolume("mine", true)); !errors.Is(err, cove.Conflict) {
		t.Errorf("another volume than the one asked for: got %v, want a conflict", err)
	}
	if ids, err := d.List(t.Context()); err != nil || len(ids) > 0 {
		t.Errorf("list: got %v, %v; want nothing of what the engine made up", ids, err)
	}
	if err := d.Remove(t.Context(), "x"); err != nil {
		t.Error(err)
	}
	if err := d.Remove(t.Context(), "../images/json"); !errors.Is(err, cove.Invalid) {
		t.Errorf("remove a path: got %v, want invalid", err)
	}
	mu.Lock()
	defer mu.Unlock()
	for _, path := range paths {
		if strings.Contains(path, "images") || strings.Contains(path, "volumes/precious") || strings.HasPrefix(path, "DELETE") {
			t.Errorf("request %s: want none", path)
		}
	}
}

func TestT18SystemCallsThatReachFarAreNotInTheProfile(t *testing.T) {
	profile, err := seccomp()
	if err != nil {
		t.Fatal(err)
	}
	for _, call := range []string{"io_uring_setup", "bpf", "keyctl", "add_key", "unshare", "setns", "mount", "userfaultfd", "perf_event_open"} {
		if strings.Contains(profile, `"`+call+`"`) {
			t.Errorf("%s is allowed, want it refused", call)
		}
	}
	if !strings.Contains(profile, `"defaultAction":"SCMP_ACT_ERRNO"`) {
		t.Error("what is not named is not refused")
	}
}
