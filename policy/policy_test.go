package policy

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/covehq/cove"
)

func parse(t *testing.T, text string) *Policy {
	t.Helper()
	p, err := Parse([]byte(text), "/etc/cove/policy.yaml")
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestT08WithoutAPolicyNothingReachesTheHost(t *testing.T) {
	for name, test := range map[string]struct {
		change func(*cove.Spec)
		line   string
	}{
		"privileged":          {func(s *cove.Spec) { s.Options.Privileged = true }, "privileged: true"},
		"a capability":        {func(s *cove.Spec) { s.Options.CapAdd = []string{"NET_ADMIN"} }, "capabilities: [NET_ADMIN]"},
		"all capabilities":    {func(s *cove.Spec) { s.Options.CapAdd = []string{"ALL"} }, "capabilities: [ALL]"},
		"a device":            {func(s *cove.Spec) { s.Options.Devices = []string{"/dev/kvm:/dev/kvm:rwm"} }, "devices: [/dev/kvm]"},
		"the host's network":  {func(s *cove.Spec) { s.Options.NetworkMode = "host" }, "networks: [host]"},
		"an engine's network": {func(s *cove.Spec) { s.Options.NetworkMode = "bridge" }, "networks: [bridge]"},
		"a directory":         {func(s *cove.Spec) { s.Mounts = []cove.Mount{{Type: cove.MountBind, Source: "/srv", ReadOnly: true}} }, "mounts: [{path: /srv}]"},
		"a writable directory": {func(s *cove.Spec) { s.Mounts = []cove.Mount{{Type: cove.MountBind, Source: "/srv"}} },
			"mounts: [{path: /srv, write: true}]"},
		"a port of every address": {func(s *cove.Spec) { s.Ports = []cove.Port{{Port: 80, Address: "0.0.0.0"}} }, `port_addresses: ["0.0.0.0"]`},
		"a port of the network":   {func(s *cove.Spec) { s.Ports = []cove.Port{{Port: 80, Address: "192.0.2.1"}} }, `port_addresses: ["192.0.2.1"]`},
	} {
		t.Run(name, func(t *testing.T) {
			spec := cove.Spec{}.WithDefaults()
			test.change(&spec)
			for _, p := range []*Policy{nil, {}, parse(t, "max_sandboxes: 3")} {
				found := p.Check(&spec)
				if len(found) != 1 || !strings.Contains(p.Hint(found), test.line) {
					t.Errorf("got %+v, want one violation with a hint at %s", found, test.line)
				}
			}
			// The line that the hint names is enough.
			if found := parse(t, test.line).Check(&spec); len(found) > 0 {
				t.Errorf("with %s: %+v", test.line, found)
			}
		})
	}
}

func TestWithoutAPolicyWhatStaysInsideIsAllowed(t *testing.T) {
	spec := cove.Spec{
		Image: "rootfs:/srv/root", Runtime: "runc", User: "root",
		Mounts: []cove.Mount{{Type: cove.MountVolume, Source: "cache", Target: "/cache"}, {Type: cove.MountTmpfs, Target: "/scratch"}},
		Ports:  []cove.Port{{Port: 80, Address: "127.0.0.1"}, {Port: 80, Address: "::1"}, {Port: 81, Address: "127.9.9.9"}},
		Limits: cove.Limits{CPUs: 64, Memory: cove.TiB}, TTL: cove.Never, Options: cove.Options{CapDrop: []string{"ALL"}},
	}.WithDefaults()
	if found := (*Policy)(nil).Check(&spec); len(found) > 0 {
		t.Errorf("got %+v", found)
	}
}

func TestListsAllowWhatTheyName(t *testing.T) {
	p := parse(t, `
images: [host, "python:3.*", "ghcr.io/acme/**", localhost:5000/tools]
runtimes: [gvisor, "docker:*"]
users: [user, "1???", "100*"]
volumes: ["cache-*"]
mounts:
  - path: /srv/data/
  - {path: /srv/data/out, write: true}
capabilities: [cap_net_admin]
devices: ["/dev/nvidia*"]
networks: [bridge]
port_addresses: ["::", 192.0.2.1]
limits: {cpus: 2, memory: 1g, pids: 512, disk: 4g, ttl: 2h}
`)
	for name, test := range map[string]struct {
		change  func(*cove.Spec)
		allowed bool
	}{
		"nothing":                          {func(*cove.Spec) {}, true},
		"the short name of an image":       {func(s *cove.Spec) { s.Image = "python:3.12" }, true},
		"its full name":                    {func(s *cove.Spec) { s.Image = "docker.io/library/python:3.12" }, true},
		"its other full name":              {func(s *cove.Spec) { s.Image = "index.docker.io/library/python:3.12" }, true},
		"with a digest":                    {func(s *cove.Spec) { s.Image = "python:3.12@sha256:aa" }, true},
		"another tag":                      {func(s *cove.Spec) { s.Image = "python:2" }, false},
		"its latest":                       {func(s *cove.Spec) { s.Image = "python" }, false},
		"an image of a user":               {func(s *cove.Spec) { s.Image = "mallory/python:3.12" }, false},
		"the same name elsewhere":          {func(s *cove.Spec) { s.Image = "example.com/python:3.12" }, false},
		"an image below":                   {func(s *cove.Spec) { s.Image = "ghcr.io/acme/team/tool:v1" }, true},
		"an image beside":                  {func(s *cove.Spec) { s.Image = "ghcr.io/acme2/tool:v1" }, false},
		"a local image":                    {func(s *cove.Spec) { s.Image = "localhost:5000/tools:latest" }, true},
		"a directory as image":             {func(s *cove.Spec) { s.Image = "rootfs:/srv" }, false},
		"an image of the engine":           {func(s *cove.Spec) { s.Image = "docker-daemon:python:3.12" }, false},
		"a runtime":                        {func(s *cove.Spec) { s.Runtime = "docker:gvisor" }, true},
		"another runtime":                  {func(s *cove.Spec) { s.Runtime = "runc" }, false},
		"a user of a pattern":              {func(s *cove.Spec) { s.User = "1001" }, true},
		"root":                             {func(s *cove.Spec) { s.User = "root" }, false},
		"a volume":                         {func(s *cove.Spec) { s.Mounts = volume("cache-pip") }, true},
		"another volume":                   {func(s *cove.Spec) { s.Mounts = volume("secrets") }, false},
		"a directory read-only":            {func(s *cove.Spec) { s.Mounts = mount("/srv/data/in", true) }, true},
		"a directory writable":             {func(s *cove.Spec) { s.Mounts = mount("/srv/data/in", false) }, false},
		"a writable directory":             {func(s *cove.Spec) { s.Mounts = mount("/srv/data/out/x", false) }, true},
		"a directory with a longer name":   {func(s *cove.Spec) { s.Mounts = mount("/srv/data2", true) }, false},
		"its parent":                       {func(s *cove.Spec) { s.Mounts = mount("/srv", true) }, false},
		"a capability":                     {func(s *cove.Spec) { s.Options.CapAdd = []string{"NET_ADMIN"} }, true},
		"all capabilities":                 {func(s *cove.Spec) { s.Options.CapAdd = []string{"ALL"} }, false},
		"a device":                         {func(s *cove.Spec) { s.Options.Devices = []string{"/dev/nvidia0"} }, true},
		"a device in disguise":             {func(s *cove.Spec) { s.Options.Devices = []string{"/dev/nvidia/../sda"} }, false},
		"a network":                        {func(s *cove.Spec) { s.Options.NetworkMode = "bridge" }, true},
		"a container's network":            {func(s *cove.Spec) { s.Options.NetworkMode = "container:x" }, false},
		"an address":                       {func(s *cove.Spec) { s.Ports = []cove.Port{{Address: "192.0.2.1"}} }, true},
		"another address":                  {func(s *cove.Spec) { s.Ports = []cove.Port{{Address: "192.0.2.2"}} }, false},
		"every address":                    {func(s *cove.Spec) { s.Ports = []cove.Port{{Address: "0.0.0.0"}} }, false},
		"an address of a list of all":      {func(s *cove.Spec) { s.Ports = []cove.Port{{Address: "2001:db8::1"}} }, true},
		"as much as there may be":          {func(s *cove.Spec) { s.Limits.CPUs, s.Limits.Memory, s.TTL = 2, cove.GiB, cove.Duration(2*time.Hour) }, true},
		"too many cpus":                    {func(s *cove.Spec) { s.Limits.CPUs = 2.5 }, false},
		"too much memory":                  {func(s *cove.Spec) { s.Limits.Memory = cove.GiB + 1 }, false},
		"too many processes":               {func(s *cove.Spec) { s.Limits.Pids = 513 }, false},
		"too much disk":                    {func(s *cove.Spec) { s.Limits.Disk = 5 * cove.GiB }, false},
		"too long a life":                  {func(s *cove.Spec) { s.TTL = cove.Duration(3 * time.Hour) }, false},
		"a life without end":               {func(s *cove.Spec) { s.TTL = cove.Never }, false},
		"a mount of memory, never policed": {func(s *cove.Spec) { s.Mounts = []cove.Mount{{Type: cove.MountTmpfs, Target: "/x"}} }, true},
	} {
		t.Run(name, func(t *testing.T) {
			spec := cove.Spec{}.WithDefaults()
			test.change(&spec)
			found := p.Check(&spec)
			if allowed := len(found) == 0; allowed != test.allowed {
				t.Errorf("allowed is %v, want %v: %+v", allowed, test.allowed, found)
			}
			if hint := p.Hint(found); !strings.Contains(hint, "/etc/cove/policy.yaml") {
				t.Errorf("the hint names no file: %s", hint)
			}
		})
	}
}

func volume(name string) []cove.Mount {
	return []cove.Mount{{Type: cove.MountVolume, Source: name, Target: "/v"}}
}

func mount(source string, readOnly bool) []cove.Mount {
	return []cove.Mount{{Type: cove.MountBind, Source: source, Target: "/m", ReadOnly: readOnly}}
}

func TestImportsAreOfTheOperatorsNames(t *testing.T) {
	for name, test := range map[string]struct {
		text, image string
		allowed     bool
	}{
		"no list":                     {"", "anything", true},
		"a list":                      {"images: [tool]", "tool", false},
		"a list and imports":          {"images: [tool]\nimports: true", "tool", true},
		"a name that is not listed":   {"images: [tool]\nimports: true", "other", false},
		"imports alone change little": {"imports: true", "anything", true},
	} {
		if found := parse(t, test.text).CheckImport(test.image); (len(found) == 0) != test.allowed {
			t.Errorf("%s: got %+v, want allowed %v", name, found, test.allowed)
		}
	}
	if found := (*Policy)(nil).CheckImport("anything"); len(found) > 0 {
		t.Errorf("without a policy: %+v", found)
	}
}

func TestDefaultsAreWithinThePolicy(t *testing.T) {
	p := parse(t, "limits: {memory: 256m, ttl: 10m, cpus: 4}")
	spec := cove.Spec{}.WithDefaults()
	p.Bound(&spec, cove.Spec{})
	if spec.Limits.Memory != 256*cove.MiB || spec.TTL != cove.Duration(10*time.Minute) || spec.Limits.CPUs != cove.DefaultCPUs {
		t.Errorf("got %v, ttl %v", spec.Limits, spec.TTL)
	}
	asked := cove.Spec{Limits: cove.Limits{Memory: cove.GiB}}
	if spec = asked.WithDefaults(); spec.Limits.Memory != cove.GiB {
		t.Fatal(spec.Limits)
	}
	if p.Bound(&spec, asked); len(p.Check(&spec)) != 1 {
		t.Errorf("what was asked for is lowered in silence: %+v", spec.Limits)
	}
}

func TestAPolicyWithMistakesIsRefused(t *testing.T) {
	for name, text := range map[string]string{
		"an unknown key":              "imagse: [host]",
		"an unknown key of a mount":   "mounts: [{path: /srv, wirte: true}]",
		"an unknown limit":            "limits: {mem: 1g}",
		"a relative path":             "mounts: [{path: srv}]",
		"no path":                     "mounts: [{write: true}]",
		"a capability that isn't":     "capabilities: [NET_ADMIM]",
		"an address that isn't":       "port_addresses: [localhost]",
		"a size that isn't":           "limits: {memory: plenty}",
		"a duration that isn't":       "limits: {ttl: -1h}",
		"a negative number":           "max_sandboxes: -1",
		"an empty pattern":            `images: [""]`,
		"a pattern that costs much":   `images: ["*a*a*a*a*a*b"]`,
		"a list that is a text":       "images: host",
		"what is no YAML":             "images: [",
		"privileged that is no truth": "privileged: perhaps",
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := Parse([]byte(text), "policy.yaml"); !errors.Is(err, cove.Invalid) || cove.HintOf(err) == "" {
				t.Errorf("got %v, want an error that is invalid and a hint", err)
			}
		})
	}
	_, err := Parse([]byte("capabilities: [X]\nport_addresses: [y]\nmounts: [{path: z}]"), "p")
	for _, part := range []string{`"X"`, `"y"`, `"z"`} {
		if err == nil || !strings.Contains(err.Error(), part) {
			t.Errorf("%v does not name %s", err, part)
		}
	}
}

func TestAnEmptyListAllowsNothing(t *testing.T) {
	spec := cove.Spec{}.WithDefaults()
	if found := parse(t, "images: []").Check(&spec); len(found) != 1 {
		t.Errorf("got %+v, want one violation", found)
	}
}

func write(t *testing.T, path, text string) {
	t.Helper()
	// Replaced as an editor does, so that the inode tells it from the one before.
	if err := errors.Join(os.WriteFile(path+".new", []byte(text), 0o644), os.Rename(path+".new", path)); err != nil {
		t.Fatal(err)
	}
}

func TestAPolicyFollowsItsFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "policy.yaml")
	var logged strings.Builder
	log := slog.New(slog.NewTextHandler(&logged, nil))
	if _, err := Open(path, false, log); err == nil {
		t.Error("a file that was asked for and is missing was accepted")
	}
	file, err := Open(path, true, log)
	if err != nil {
		t.Fatal(err)
	}
	spec := cove.Spec{Options: cove.Options{Privileged: true}}.WithDefaults()
	if found := file.Policy().Check(&spec); len(found) != 1 || !strings.Contains(file.Policy().Hint(found), path) {
		t.Errorf("without a file: %+v, want one violation with a hint at %s", found, path)
	}
	write(t, path, "max_sandboxes: 1")
	if got := file.Policy().Most(); got != 1 {
		t.Errorf("after it appeared: %d, want 1", got)
	}
	write(t, path, "max_sandboxes: 2")
	if got := file.Policy().Most(); got != 2 {
		t.Errorf("after it changed: %d, want 2", got)
	}
	for name, change := range map[string]func(){
		"broken": func() { write(t, path, "max_sandboxes: many") },
		"gone":   func() { _ = os.Remove(path) },
		"others'": func() {
			write(t, path, "max_sandboxes: 9")
			_ = os.Chmod(path, 0o666)
		},
	} {
		change()
		logged.Reset()
		for range 3 {
			if got := file.Policy().Most(); got != 2 {
				t.Errorf("%s: %d, want the 2 from before", name, got)
			}
		}
		if count := strings.Count(logged.String(), "level=ERROR"); count > 1 {
			t.Errorf("%s: logged %d times", name, count)
		}
	}
}

func TestAPolicyThatOthersMayWriteIsRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "policy.yaml")
	write(t, path, "privileged: true")
	if err := os.Chmod(path, 0o664); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(path, true, slog.New(slog.DiscardHandler)); !errors.Is(err, cove.Forbidden) {
		t.Errorf("got %v, want an error that is forbidden", err)
	}
}

func TestTheExampleInTheDocumentationIsAPolicy(t *testing.T) {
	data, err := os.ReadFile("../docs/policy.yaml")
	if err != nil {
		t.Fatal(err)
	}
	p := parse(t, string(data))
	if len(p.Mounts) != 3 || p.Limits.TTL != cove.Duration(24*time.Hour) || p.Limits.Memory != 8*cove.GiB || p.MaxSandboxes != 200 {
		t.Errorf("got %+v", p)
	}
	page, err := os.ReadFile("../docs/policy.md")
	if err != nil {
		t.Fatal(err)
	}
	for field := range reflect.TypeFor[Policy]().Fields() {
		key := field.Tag.Get("yaml")
		if key != "" && (!strings.Contains(string(data), "\n"+key+":") || !strings.Contains(string(page), "`"+key+"`")) {
			t.Errorf("the documentation lacks the key %s", key)
		}
	}
}

func TestPatterns(t *testing.T) {
	for _, test := range []struct {
		pattern, text string
		want          bool
	}{
		{"a", "a", true}, {"a", "ab", false}, {"a*", "a", true}, {"a*", "abc", true}, {"a*", "a/b", false},
		{"a**", "a/b", true}, {"*", "", true}, {"**", "a/b/c", true}, {"*/b", "a/b", true}, {"*/b", "x/a/b", false},
		{"**/b", "x/a/b", true}, {"a*c", "abbc", true}, {"a*c", "abb", false}, {"a*b*c", "aXbYc", true}, {"", "", true}, {"", "a", false},
	} {
		if got := match(test.pattern, test.text); got != test.want {
			t.Errorf("match(%q, %q) = %v", test.pattern, test.text, got)
		}
	}
}

func TestFullImage(t *testing.T) {
	got := map[string]string{}
	want := map[string]string{
		"host": "host", "rootfs:/x": "rootfs:/x", "**": "**",
		"python":              "docker.io/library/python:latest",
		"python:3":            "docker.io/library/python:3",
		"acme/tool":           "docker.io/acme/tool:latest",
		"docker.io/python":    "docker.io/library/python:latest",
		"docker.io/**":        "docker.io/**",
		"ghcr.io/acme/*":      "ghcr.io/acme/*",
		"localhost:5000/x":    "localhost:5000/x:latest",
		"x@sha256:ab":         "docker.io/library/x@sha256:ab",
		"example.com:5/x/y:z": "example.com:5/x/y:z",
	}
	for image := range want {
		got[image] = fullImage(image)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
