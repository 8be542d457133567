package docker

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/moby/moby/client"
	"golang.org/x/sys/unix"

	"github.com/covehq/cove"
	"github.com/covehq/cove/guest/dial"
)

// inside makes a sandbox, with its agent set up as the host does, and returns what runs
// commands in it as root.
func inside(t *testing.T, d *Driver, id string, s *cove.Spec) func(script string) string {
	t.Helper()
	m, err := d.Create(t.Context(), id, s)
	if err != nil {
		t.Fatal(err, cove.HintOf(err))
	}
	guest := dial.New(m.Dial)
	t.Cleanup(func() {
		guest.Close()
		if err := m.Destroy(context.Background()); err != nil {
			t.Error(err)
		}
	})
	if err := guest.Init(t.Context(), dial.Init{User: s.User, Capabilities: s.Options.CapAdd, Dropped: s.Options.CapDrop}); err != nil {
		t.Fatal(err)
	}
	return func(script string) string {
		t.Helper()
		return output(t, guest, script)
	}
}

// output returns all that a script of root's writes.
func output(t *testing.T, guest *dial.Client, script string) string {
	t.Helper()
	return outputAs(t, guest, "root", script)
}

// outputAs returns all that a user's script writes.
func outputAs(t *testing.T, guest *dial.Client, user, script string) string {
	t.Helper()
	stream, err := guest.Start(t.Context(), dial.Start{Argv: []string{"sh", "-c", script}, User: user, Cwd: "/"})
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Close()
	var all []byte
	for {
		piece, err := stream.Next()
		if err != nil {
			t.Fatalf("%s: %v", script, err)
		}
		if piece.Exit != nil {
			return strings.TrimSpace(string(all))
		}
		all = append(all, piece.Data...)
	}
}

// variants opens the drivers of the runtimes that are under test, of one engine.
func variants(t *testing.T, host string) []*Driver {
	t.Helper()
	bin := binaries(t)
	var all []*Driver
	for _, runtime := range []string{"docker", "docker:gvisor"} {
		d, err := rig{t.TempDir(), bin, host, runtime}.open()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := d.Probe(t.Context()); err == nil {
			all = append(all, d)
		}
	}
	return all
}

// declares reports whether a driver takes a part of a spec.
func declares(t *testing.T, d *Driver, feature cove.Feature) bool {
	t.Helper()
	info, err := d.Probe(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return slices.Contains(info.Features, feature)
}

// mask reads one set of capabilities, of /proc/self/status.
func mask(t *testing.T, status, set string) (bits uint64) {
	t.Helper()
	for line := range strings.Lines(status) {
		if value, ok := strings.CutPrefix(line, set+":"); ok {
			if _, err := fmt.Sscanf(strings.TrimSpace(value), "%x", &bits); err != nil {
				t.Fatal(err)
			}
			return bits
		}
	}
	t.Fatalf("no %s in %s", set, status)
	return 0
}

// everything is all capabilities, as in /proc/PID/status.
var everything = uint64(1)<<len(cove.Capabilities()) - 1

func TestOptionsHaveTheirEffectInside(t *testing.T) {
	anyEngine(t)
	const status = "cat /proc/self/status"
	for name, test := range map[string]struct {
		feature cove.Feature
		options cove.Options
		check   func(t *testing.T, d *Driver, run func(string) string)
	}{
		"privileged has what the engine has and nothing hidden": {cove.FeaturePrivileged, cove.Options{Privileged: true}, func(t *testing.T, d *Driver, run func(string) string) {
			f, _ := d.facts(t.Context())
			for _, set := range []string{"CapBnd", "CapEff"} {
				if got := mask(t, run(status), set); got != f.bounding&everything {
					t.Errorf("%s: got %x, want all, %x", set, got, f.bounding&everything)
				}
			}
			if got := run("grep Seccomp: /proc/self/status; ls /dev/kmsg; cat /proc/self/mountinfo | grep -c '/proc/kcore'"); got != "Seccomp:\t0\n/dev/kmsg\n0" {
				t.Errorf("got %q, want no filter, the host's devices and no masks", got)
			}
		}},
		"plain has none of it": {"", cove.Options{}, func(t *testing.T, d *Driver, run func(string) string) {
			text := run(status)
			if got := mask(t, text, "CapBnd"); got>>unix.CAP_SYS_ADMIN&1 == 1 || got>>unix.CAP_NET_ADMIN&1 == 1 {
				t.Errorf("CapBnd: got %x, want no administration", got)
			}
			if got := run("ls /dev/kmsg /dev/given 2>/dev/null; cat /proc/net/dev | grep -c eth0"); got != "0" {
				t.Errorf("got %q, want no device and no network", got)
			}
		}},
		"devices are there with their rights": {cove.FeatureDevices, cove.Options{Devices: []string{"/dev/fuse:/dev/given:r"}}, func(t *testing.T, d *Driver, run func(string) string) {
			// Those that every container has, engines let it write whatever is said here.
			const use = "stat -c '%F %t %T' /dev/given; { : </dev/given && echo opened; } 2>&1; ( : >/dev/given ) 2>/dev/null || echo refused"
			if got := run(use); got != "character special file a e5\nopened\nrefused" {
				t.Errorf("got %q, want a device to be read alone", got)
			}
		}},
		"cap_add is had by root": {cove.FeatureCapAdd, cove.Options{CapAdd: []string{"NET_ADMIN"}}, func(t *testing.T, d *Driver, run func(string) string) {
			if got := mask(t, run(status), "CapEff"); got>>unix.CAP_NET_ADMIN&1 == 0 {
				t.Errorf("CapEff: got %x, want NET_ADMIN in it", got)
			}
		}},
		"cap_drop is what root has not": {cove.FeatureCapDrop, cove.Options{CapDrop: []string{"CHOWN", "MKNOD"}}, func(t *testing.T, d *Driver, run func(string) string) {
			text := run(status)
			for _, set := range []string{"CapEff", "CapBnd"} {
				if got := mask(t, text, set); got>>unix.CAP_CHOWN&1 == 1 || got>>unix.CAP_MKNOD&1 == 1 || got>>unix.CAP_KILL&1 == 0 {
					t.Errorf("%s: got %x, want neither CHOWN nor MKNOD, and the others", set, got)
				}
			}
			if got := run("touch /tmp/x; chown 1000 /tmp/x 2>/dev/null || echo refused"); got != "refused" {
				t.Errorf("chown: got %q, want it refused", got)
			}
		}},
		"cap_drop holds in a privileged one": {cove.FeaturePrivileged, cove.Options{Privileged: true, CapDrop: []string{"SYS_ADMIN"}}, func(t *testing.T, d *Driver, run func(string) string) {
			if got := mask(t, run(status), "CapBnd"); got>>unix.CAP_SYS_ADMIN&1 == 1 || got>>unix.CAP_NET_ADMIN&1 == 0 {
				t.Errorf("CapBnd: got %x, want all but SYS_ADMIN", got)
			}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			for _, d := range variants(t, engines()[0]) {
				if test.feature != "" && !declares(t, d, test.feature) {
					continue // the host refuses it: TestCreateListsWhatTheDriverLacks of package sandbox
				}
				t.Run(d.name, func(t *testing.T) {
					if f, _ := d.facts(t.Context()); test.options.Privileged && f.bounding&everything != everything && strings.HasPrefix(f.info.Version, "docker 20.") {
						t.Skip("an engine of this age gives what it has not itself, and fails: run it on a machine and not in a container")
					}
					s := spec()
					s.Options = test.options
					test.check(t, d, inside(t, d, "options", s))
				})
			}
		})
	}
}

// network makes a network of the engine's for a test.
func network(t *testing.T, d *Driver, name string) {
	t.Helper()
	err := d.engine.call(t.Context(), func(ctx context.Context, c *client.Client) error {
		_, err := c.NetworkCreate(ctx, name, client.NetworkCreateOptions{Driver: "bridge"})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		err := d.engine.call(context.Background(), func(ctx context.Context, c *client.Client) error {
			_, err := c.NetworkRemove(ctx, name, client.NetworkRemoveOptions{})
			return err
		})
		if err != nil {
			t.Error(err)
		}
	})
}

func TestNetworkModeIsANetworkOfTheEngine(t *testing.T) {
	e := startDaemon(t, &daemon{networked: true})
	for _, d := range variants(t, e.host()) {
		if !declares(t, d, cove.FeatureNetworkMode) {
			t.Errorf("%s takes no network of the engine", d.name)
			continue
		}
		const look = "sed -n 's/^ *\\(eth[0-9]*\\):.*/\\1/p' /proc/net/dev; grep -v '^#' /etc/resolv.conf"
		t.Run(d.name, func(t *testing.T) {
			network(t, d, "cove-test-net")
			for name, test := range map[string]struct {
				options cove.Options
				want    string
			}{
				"bridge":        {cove.Options{NetworkMode: "bridge", DNS: []string{"192.0.2.53", "2001:db8::53"}}, "eth0\nnameserver 192.0.2.53\nnameserver 2001:db8::53"},
				"a network":     {cove.Options{NetworkMode: "cove-test-net"}, "eth0\nnameserver 127.0.0.11\noptions"},
				"none in words": {cove.Options{NetworkMode: "none"}, "nameserver 198.18.0.1\nnameserver 127.0.0.1"},
			} {
				t.Run(name, func(t *testing.T) {
					s := spec()
					s.Options = test.options
					if got := inside(t, d, "networked", s)(look); !strings.HasPrefix(got, test.want) {
						t.Errorf("got %q, want %q", got, test.want)
					}
				})
			}
			s := spec()
			s.Options.NetworkMode = "cove-test-none-such"
			if _, err := d.Create(t.Context(), "nowhere", s); !errors.Is(err, cove.NotFound) || cove.HintOf(err) == "" {
				t.Errorf("a network that is not there: got %v, want not found", err)
			}
		})
	}
	t.Run("host and another's", func(t *testing.T) {
		d := open(t, e.host())
		theirs, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", e.cmd.Process.Pid))
		if err != nil {
			t.Fatal(err)
		}
		s := spec()
		s.Options.NetworkMode = "host"
		if got := inside(t, d, "onhost", s)("readlink /proc/self/ns/net"); got != theirs {
			t.Errorf("network_mode host: got %s, want the engine's, %s", got, theirs)
		}
		own := inside(t, d, "first", spec())("readlink /proc/self/ns/net")
		s = spec()
		s.Options.NetworkMode = "container:" + containerName("first")
		if got := inside(t, d, "second", s)("readlink /proc/self/ns/net"); got != own {
			t.Errorf("network_mode of another's: got %s, want %s", got, own)
		}
		s.Options.DNS = []string{"192.0.2.53"}
		if _, err := d.Create(t.Context(), "third", s); !errors.Is(err, cove.Invalid) {
			t.Errorf("name servers in another's network: got %v, want invalid", err)
		}
	})
}
