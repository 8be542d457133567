package sandbox

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/covehq/cove"
)

func TestListsOfASpecAreChecked(t *testing.T) {
	mount := func(m cove.Mount) cove.Spec { return cove.Spec{Mounts: []cove.Mount{m}} }
	tmpfs := func(target string) cove.Spec { return mount(cove.Mount{Type: cove.MountTmpfs, Target: target}) }
	port := func(p cove.Port) cove.Spec { return cove.Spec{Ports: []cove.Port{p}} }
	ulimit := func(name string, soft, hard int64) cove.Spec {
		return cove.Spec{Ulimits: []cove.Ulimit{{Name: name, Soft: soft, Hard: hard}}}
	}
	options := func(o cove.Options) cove.Spec { return cove.Spec{Options: o} }
	bind := func(source string) cove.Spec {
		return mount(cove.Mount{Type: cove.MountBind, Source: source, Target: "/x"})
	}
	volume := func(source string) cove.Spec {
		return mount(cove.Mount{Type: cove.MountVolume, Source: source, Target: "/x"})
	}
	many := func(n int) []cove.Mount {
		list := make([]cove.Mount, n)
		for i := range list {
			list[i] = cove.Mount{Type: cove.MountTmpfs, Target: fmt.Sprint("/x", i)}
		}
		return list
	}
	for name, test := range map[string]struct {
		spec cove.Spec
		text string // part of the problem; "" for a spec that is fine
	}{
		"a tmpfs":                        {spec: tmpfs("/scratch")},
		"a tmpfs over a directory":       {spec: tmpfs("/etc/ssl")},
		"a tmpfs as large as the memory": {spec: mount(cove.Mount{Type: cove.MountTmpfs, Target: "/x", Size: cove.DefaultMemory})},
		"a tmpfs larger than the memory": {mount(cove.Mount{Type: cove.MountTmpfs, Target: "/x", Size: cove.DefaultMemory + 1}), "is not within the memory limit"},
		"a tmpfs of a negative size":     {mount(cove.Mount{Type: cove.MountTmpfs, Target: "/x", Size: -1}), "size -1"},
		"a tmpfs with a source":          {mount(cove.Mount{Type: cove.MountTmpfs, Target: "/x", Source: "y"}), "has a source"},
		"a mount of an unknown type":     {mount(cove.Mount{Type: "nfs", Target: "/x", Source: "y"}), `type "nfs"`},
		"a mount of no type":             {mount(cove.Mount{Target: "/x", Source: "y"}), `type ""`},
		"64 mounts":                      {spec: cove.Spec{Mounts: many(64)}},
		"65 mounts":                      {cove.Spec{Mounts: many(65)}, "65 mounts are more than 64"},
		"a target that is there twice":   {cove.Spec{Mounts: append(many(1), many(1)...)}, `"/x0" is there twice`},
		"a volume to be removed":         {spec: mount(cove.Mount{Type: cove.MountVolume, Source: "work", Target: "/x", Remove: true})},
		"a tmpfs to be removed":          {mount(cove.Mount{Type: cove.MountTmpfs, Target: "/x", Remove: true}), "no volume to remove"},
		"a bind to be removed":           {mount(cove.Mount{Type: cove.MountBind, Source: "/y", Target: "/x", Remove: true}), "no volume to remove"},
		"a relative target":              {tmpfs("x"), "not an absolute, clean path"},
		"no target":                      {tmpfs(""), "not an absolute, clean path"},
		"the root":                       {tmpfs("/"), "not an absolute, clean path"},
		"a target that goes up":          {tmpfs("/x/../proc"), "not an absolute, clean path"},
		"a target with two slashes":      {tmpfs("//proc"), "not an absolute, clean path"},
		"a target with a slash at last":  {tmpfs("/x/"), "not an absolute, clean path"},
		"a target with a NUL":            {tmpfs("/x\x00"), "not an absolute, clean path"},
		"a target in two lines":          {tmpfs("/x\ny"), "not an absolute, clean path"},
		"the kernel's files":             {tmpfs("/proc"), "the sandbox's own"},
		"below the kernel's files":       {tmpfs("/proc/sys/kernel"), "the sandbox's own"},
		"the devices":                    {tmpfs("/dev/shm"), "the sandbox's own"},
		"the hardware":                   {tmpfs("/sys/fs/cgroup"), "the sandbox's own"},
		"the agent":                      {tmpfs("/.cove/run"), "the sandbox's own"},
		"a name like the agent's":        {spec: tmpfs("/.cover")},

		"a bind of a relative source":  {bind("srv"), "not an absolute, clean path"},
		"a bind of a source that goes": {bind("/srv/../etc"), "not an absolute, clean path"},
		"a bind of nothing":            {bind(""), "not an absolute, clean path"},
		"a bind with a size":           {mount(cove.Mount{Type: cove.MountBind, Source: "/srv", Target: "/x", Size: 1}), "has a size"},
		"a volume":                     {spec: volume("pip-cache.1")},
		"a volume that is a path":      {volume("/srv"), "not the name of a volume"},
		"a volume that goes up":        {volume("../x"), "not the name of a volume"},
		"a volume with an option":      {volume("x,y=z"), "not the name of a volume"},
		"a volume without a name":      {volume(""), "not the name of a volume"},

		"a port":                     {spec: port(cove.Port{Port: 65535, Address: "::1"})},
		"port 0":                     {port(cove.Port{}), "no port 0"},
		"a port above all":           {port(cove.Port{Port: 65536}), "no port 65536"},
		"a negative host port":       {port(cove.Port{Port: 1, HostPort: -1}), "no host_port -1"},
		"an address that is a name":  {port(cove.Port{Port: 1, Address: "localhost"}), `address "localhost"`},
		"an address with a zone":     {port(cove.Port{Port: 1, Address: "fe80::1%eth0"}), "not an IP address"},
		"a host port twice":          {cove.Spec{Ports: []cove.Port{{Port: 1, HostPort: 9}, {Port: 2, HostPort: 9}}}, "host_port 9 of 127.0.0.1 is there twice"},
		"a host port in disguise":    {cove.Spec{Ports: []cove.Port{{Port: 1, HostPort: 9}, {Port: 2, HostPort: 9, Address: "::ffff:127.0.0.1"}}}, "is there twice"},
		"a port inside twice":        {spec: cove.Spec{Ports: []cove.Port{{Port: 80}, {Port: 80}}}},
		"a ulimit":                   {spec: ulimit("nofile", 100, 200)},
		"a ulimit without bound":     {spec: ulimit("core", 0, -1)},
		"an unknown ulimit":          {ulimit("nofiles", 1, 1), `no ulimit "nofiles"`},
		"a ulimit in capitals":       {ulimit("NOFILE", 1, 1), `no ulimit "NOFILE"`},
		"a soft limit above":         {ulimit("nofile", 3, 2), "soft limit above its hard limit 2"},
		"a soft limit without bound": {ulimit("nofile", -1, 2), "soft limit above its hard limit 2"},
		"a ulimit twice":             {cove.Spec{Ulimits: []cove.Ulimit{{Name: "cpu"}, {Name: "cpu"}}}, "cpu is there twice"},

		"hosts":                     {spec: cove.Spec{Hosts: map[string]string{"db.test": "192.0.2.1", "a_b-c": "2001:db8::1"}}},
		"a host with a space":       {cove.Spec{Hosts: map[string]string{"a b": "192.0.2.1"}}, `host "a b" is not a name`},
		"a host in two lines":       {cove.Spec{Hosts: map[string]string{"a\nb": "192.0.2.1"}}, "is not a name"},
		"a host without an address": {cove.Spec{Hosts: map[string]string{"a": "host-gateway"}}, `address "host-gateway"`},
		"an address in two lines":   {cove.Spec{Hosts: map[string]string{"a": "192.0.2.1\n192.0.2.2 bank"}}, "is not an IP address"},

		"capabilities dropped":        {spec: options(cove.Options{CapDrop: []string{"all", "cap_net_raw", "SYS_TIME"}})},
		"a capability that isn't":     {options(cove.Options{CapDrop: []string{"NET"}}), `no capability "NET"`},
		"a capability in disguise":    {options(cove.Options{CapDrop: []string{"CAP_CAP_KILL"}}), "no capability"},
		"a device that is none":       {options(cove.Options{Devices: []string{"/etc/passwd"}}), "is not one of /dev"},
		"a device that goes up":       {options(cove.Options{Devices: []string{"/dev/../etc"}}), "is not one of /dev"},
		"a device with other rights":  {options(cove.Options{Devices: []string{"/dev/fuse:rx"}}), "is not one of /dev"},
		"a device in four parts":      {options(cove.Options{Devices: []string{"/dev/a:/dev/b:r:w"}}), "is not one of /dev"},
		"a network with a slash":      {options(cove.Options{NetworkMode: "ns:/proc/1/ns/net"}), "network_mode"},
		"dns without a network":       {options(cove.Options{DNS: []string{"192.0.2.1"}}), "dns has no effect without a network"},
		"dns by name":                 {options(cove.Options{DNS: []string{"ns.test"}, NetworkMode: "bridge"}), `dns "ns.test"`},
		"a platform":                  {spec: cove.Spec{Platform: "linux/arm/v7"}},
		"a platform that is none":     {cove.Spec{Platform: "linux"}, `platform "linux"`},
		"a pull policy that is none":  {cove.Spec{Pull: "sometimes"}, "pull"},
		"shared memory":               {spec: cove.Spec{Limits: cove.Limits{Shm: cove.DefaultMemory}}},
		"more shared than memory":     {cove.Spec{Limits: cove.Limits{Shm: cove.DefaultMemory + 1}}, "above the memory limit"},
		"negative shared memory":      {cove.Spec{Limits: cove.Limits{Shm: -1}}, "shm -1"},
		"little memory, default shm":  {spec: cove.Spec{Limits: cove.Limits{Memory: 32 * cove.MiB}}},
		"an address in another form ": {spec: port(cove.Port{Port: 1, Address: "0:0::1"})},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld()
			w.info.Features = allFeatures
			r := openRig(t, w, t.TempDir(), Options{})
			spec := r.complete(test.spec)
			var p problems
			checkSpec(&p, &spec)
			err := p.err("create")
			if test.text == "" {
				if err != nil {
					t.Errorf("got %v, want nothing wrong", err)
				}
				return
			}
			wantError(t, err, cove.Invalid, test.text)
			if strings.ContainsAny(err.Error(), "\n\x00") {
				t.Errorf("the error has several lines: %q", err)
			}
		})
	}
}

func TestDriversGetOneForm(t *testing.T) {
	ask := func() cove.Spec {
		return cove.Spec{
			Mounts: []cove.Mount{{Type: cove.MountTmpfs, Target: "/x"}},
			Ports:  []cove.Port{{Port: 80}, {Port: 81, Address: "::ffff:192.0.2.1"}, {Port: 82, Address: "0:0::1"}},
			Options: cove.Options{
				CapAdd: []string{"cap_net_admin"}, CapDrop: []string{"all"},
				Devices: []string{"/dev/fuse", "/dev/sda:r", "/dev/sda:/dev/disk", "/dev/sda:/dev/disk:rw"},
			},
		}
	}
	asked := ask()
	r := newRig(t, Options{})
	got := r.complete(asked)
	want := cove.Spec{
		Mounts: []cove.Mount{{Type: cove.MountTmpfs, Target: "/x", Size: cove.DefaultMemory / 2}},
		Ports:  []cove.Port{{Port: 80, Address: "127.0.0.1"}, {Port: 81, Address: "192.0.2.1"}, {Port: 82, Address: "::1"}},
		Options: cove.Options{
			CapAdd: []string{"NET_ADMIN"}, CapDrop: []string{"ALL"},
			Devices: []string{"/dev/fuse:/dev/fuse:rwm", "/dev/sda:/dev/sda:r", "/dev/sda:/dev/disk:rwm", "/dev/sda:/dev/disk:rw"},
		},
	}
	if diff := cmp.Diff([]any{want.Mounts, want.Ports, want.Options}, []any{got.Mounts, got.Ports, got.Options}); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(ask(), asked); diff != "" {
		t.Errorf("what was asked for has changed (-before +after):\n%s", diff)
	}
}
