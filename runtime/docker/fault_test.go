package docker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"

	"github.com/covehq/cove"
	"github.com/covehq/cove/guest/dial"
	"github.com/covehq/cove/runtime/internal/agent"
	"github.com/covehq/cove/runtime/internal/bundle"
	"github.com/covehq/cove/sandbox/driver"
	"github.com/covehq/cove/sandbox/driver/bind"
)

// daemon is an engine of a test's own, to be stopped and killed. Its containerd is a process
// of its own, as where both are services: containers outlive the engine then.
type daemon struct {
	dir        string
	containerd *exec.Cmd
	cmd        *exec.Cmd
	networked  bool // in a network namespace of its own, with which its bridges go
}

// newDaemon starts an engine. A machine that can't run one skips the test.
func newDaemon(t *testing.T, options ...string) *daemon {
	t.Helper()
	return startDaemon(t, &daemon{}, options...)
}

func startDaemon(t *testing.T, e *daemon, options ...string) *daemon {
	t.Helper()
	if _, err := exec.LookPath("dockerd"); err != nil || os.Geteuid() != 0 {
		t.Skip("starts an engine: install docker.io, and run as root")
	}
	if testing.Short() {
		t.Skip("starts an engine: run without -short")
	}
	dir, err := os.MkdirTemp("/var/lib", "cove-test-dockerd-") // overlays don't lie on every /tmp
	if err != nil {
		t.Fatal(err)
	}
	e.dir = dir
	config := fmt.Sprintf("version = 2\nroot = %q\nstate = %q\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n[grpc]\naddress = %q\n", dir+"/containerd", dir+"/containerd-run", dir+"/containerd.sock")
	if err := os.WriteFile(dir+"/containerd.toml", []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	e.containerd = e.run(t, "containerd", "--config", dir+"/containerd.toml")
	t.Cleanup(func() {
		e.signal(t, syscall.SIGCONT)
		e.stop(t, syscall.SIGTERM)
		_ = e.containerd.Process.Signal(syscall.SIGTERM)
		_ = e.containerd.Wait()
		for _, mounted := range mountsBelow(dir) { // an engine leaves its data on itself, and namespaces
			if err := bundle.UnmountAll(mounted); err != nil {
				t.Error(err)
			}
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Errorf("an engine's directory stays: %v", err)
		}
	})
	e.start(t, options...)
	return e
}

// mountsBelow returns where something is mounted in a directory, the last one first.
func mountsBelow(dir string) []string {
	content, _ := os.ReadFile("/proc/self/mountinfo")
	var places []string
	for line := range strings.Lines(string(content)) {
		if fields := strings.Fields(line); len(fields) > 4 && strings.HasPrefix(fields[4], dir+"/") {
			places = append(places, fields[4])
		}
	}
	slices.Reverse(places)
	return places
}

func (e *daemon) host() string { return "unix://" + e.dir + "/engine.sock" }

// run starts one of the engine's programs.
func (e *daemon) run(t *testing.T, program string, args ...string) *exec.Cmd {
	t.Helper()
	log, err := os.OpenFile(e.dir+"/log", os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd := exec.Command(program, args...)
	cmd.Stdout, cmd.Stderr, cmd.WaitDelay = log, log, time.Second
	if e.networked {
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return cmd
}

func (e *daemon) start(t *testing.T, options ...string) {
	t.Helper()
	if err := os.WriteFile(e.dir+"/none.json", []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	bridge := "--bridge=none"
	if e.networked {
		bridge = "--bridge="
	}
	e.cmd = e.run(t, "dockerd", append([]string{"--config-file", e.dir + "/none.json", "--data-root", e.dir + "/data", "--exec-root", e.dir + "/run",
		"--containerd", e.dir + "/containerd.sock", "--pidfile", e.dir + "/pid", "--host", e.host(),
		bridge, "--iptables=false", "--ip6tables=false"}, options...)...)
	asks := &engine{host: e.host()}
	for end := time.Now().Add(60 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		err := asks.ping(t.Context())
		if err == nil {
			return
		}
		if time.Now().After(end) {
			said, _ := os.ReadFile(e.dir + "/log")
			t.Fatalf("the engine does not answer: %v\n%s", err, said[max(0, len(said)-2000):])
		}
	}
}

func (e *daemon) signal(t *testing.T, signal syscall.Signal) {
	t.Helper()
	if err := e.cmd.Process.Signal(signal); err != nil && !errors.Is(err, os.ErrProcessDone) {
		t.Fatal(err)
	}
}

func (e *daemon) stop(t *testing.T, signal syscall.Signal) {
	t.Helper()
	e.signal(t, signal)
	_ = e.cmd.Wait()
}

// spec returns a whole spec.
func spec() *cove.Spec {
	s := cove.Spec{Runtime: "docker"}.WithDefaults()
	return &s
}

// open opens the driver on an engine.
func open(t *testing.T, host string) *Driver {
	t.Helper()
	d, err := rig{t.TempDir(), binaries(t), host, "docker"}.open()
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// answers is the error of a sandbox that does not answer.
func answers(ctx context.Context, m driver.Machine) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	return agent.Ready(ctx, m.Dial, nil)
}

func TestT91AnEngineThatStandsStillTakesNoSandboxAndNoCallerWithIt(t *testing.T) {
	e := newDaemon(t)
	d := open(t, e.host())
	m, err := d.Create(t.Context(), "standstill", spec())
	if err != nil {
		t.Fatal(err)
	}
	e.signal(t, syscall.SIGSTOP)
	if err := answers(t.Context(), m); err != nil {
		t.Errorf("a sandbox while the engine stands still: %v", err)
	}
	another, err := rig{filepath.Dir(filepath.Dir(d.state)), filepath.Dir(d.options.Agent), e.host(), "docker"}.open()
	if err != nil {
		t.Fatal(err)
	}
	if again, err := another.Attach(t.Context(), "standstill", m.Handle()); err != nil {
		t.Errorf("attach while the engine stands still: %v", err)
	} else {
		if err := answers(t.Context(), again); err != nil {
			t.Errorf("an attached sandbox: %v", err)
		}
		again.(*machine).release()
	}
	for name, call := range map[string]func() error{
		"probe":   func() error { _, err := another.Probe(t.Context()); return err },
		"create":  func() error { _, err := d.Create(t.Context(), "another", spec()); return err },
		"list":    func() error { _, err := d.List(t.Context()); return err },
		"destroy": func() error { return m.Destroy(t.Context()) },
	} {
		if err := call(); !errors.Is(err, cove.Unavailable) || cove.HintOf(err) == "" {
			t.Errorf("%s: got %v (%s), want that the engine is unavailable, and what to do", name, err, cove.HintOf(err))
		}
	}
	if _, err := m.Wait(t.Context()); err != nil { // its process is killed all the same
		t.Error(err)
	}
	e.signal(t, syscall.SIGCONT)
	for _, remove := range []func() error{
		func() error { return m.Destroy(t.Context()) },
		func() error { return d.Remove(t.Context(), "another") },
	} {
		if err := remove(); err != nil {
			t.Errorf("when the engine goes on: %v", err)
		}
	}
	if ids, err := d.List(t.Context()); err != nil || len(ids) > 0 {
		t.Errorf("left: %v, %v; want nothing", ids, err)
	}
}

func TestT91AnEngineThatIsKilledAndComesBack(t *testing.T) {
	for name, options := range map[string][]string{"and takes its containers down": nil, "and keeps its containers": {"--live-restore"}} {
		t.Run(name, func(t *testing.T) {
			e := newDaemon(t, options...)
			d := open(t, e.host())
			m, err := d.Create(t.Context(), "survivor", spec())
			if err != nil {
				t.Fatal(err)
			}
			// In the middle of whatever it does.
			var creating sync.WaitGroup
			creating.Go(func() {
				if other, err := d.Create(context.Background(), "middle", spec()); err == nil {
					other.(*machine).release()
				}
			})
			time.Sleep(20 * time.Millisecond)
			e.stop(t, syscall.SIGKILL)
			creating.Wait()
			if err := answers(t.Context(), m); err != nil {
				t.Errorf("a sandbox whose engine was killed: %v", err)
			}
			e.start(t, options...)
			if len(options) > 0 {
				if err := answers(t.Context(), m); err != nil {
					t.Errorf("a sandbox whose engine came back: %v", err)
				}
			} else {
				ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
				defer cancel()
				if _, err := m.Wait(ctx); err != nil {
					t.Errorf("a sandbox whose engine took it down: %v", err)
				}
			}
			ids, err := d.List(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			for _, id := range append(ids, "survivor") {
				if err := d.Remove(t.Context(), id); err != nil {
					t.Errorf("remove %s: %v", id, err)
				}
			}
			if ids, err := d.List(t.Context()); err != nil || len(ids) > 0 {
				t.Errorf("left: %v, %v; want nothing", ids, err)
			}
			m.(*machine).release()
		})
	}
}

// anyEngine opens the driver on the first engine of this machine, or skips the test.
func anyEngine(t *testing.T) *Driver {
	t.Helper()
	if testing.Short() {
		t.Skip("boots sandboxes: run without -short")
	}
	d := open(t, engines()[0])
	if _, err := d.Probe(t.Context()); err != nil {
		t.Skipf("%v (%s)", err, cove.HintOf(err))
	}
	return d
}

// bare makes a container past the driver, which is never started.
func bare(t *testing.T, d *Driver, name string, labels map[string]string) string {
	t.Helper()
	f, err := d.facts(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	from, err := d.resolve(t.Context(), spec(), f)
	if err != nil {
		t.Fatal(err)
	}
	var made client.ContainerCreateResult
	err = d.engine.call(t.Context(), func(ctx context.Context, c *client.Client) (err error) {
		made, err = c.ContainerCreate(ctx, client.ContainerCreateOptions{Name: name, Config: &container.Config{Image: from.id, Cmd: []string{"/nothing"}, Labels: labels}})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = d.engine.call(context.Background(), func(ctx context.Context, c *client.Client) error {
			_, err := c.ContainerRemove(ctx, made.ID, client.ContainerRemoveOptions{Force: true})
			return err
		})
	})
	return made.ID
}

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

// leakVariable says how many leaked containers the sweep is tested with.
const leakVariable = "COVE_TEST_LEAKED"

func TestT09TheContainersOfAKilledDaemonAreSwept(t *testing.T) {
	d := anyEngine(t)
	count, err := strconv.Atoi(os.Getenv(leakVariable))
	if err != nil {
		count = 12
	}
	for i := range count {
		id := fmt.Sprintf("leaked%d", i)
		bare(t, d, containerName(id), d.labels(id))
	}
	ids, err := d.List(t.Context())
	if err != nil || len(ids) != count {
		t.Fatalf("list: got %d and %v, want %d", len(ids), err, count)
	}
	for _, id := range ids {
		if err := d.Remove(t.Context(), id); err != nil {
			t.Errorf("remove %s: %v", id, err)
		}
	}
	if ids, err := d.List(t.Context()); err != nil || len(ids) > 0 {
		t.Errorf("left: %v, %v; want nothing", ids, err)
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
