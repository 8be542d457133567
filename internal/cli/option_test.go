package cli

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/pflag"

	"github.com/covehq/cove"
)

func TestOptionFlags(t *testing.T) {
	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	bind := func(source, target string, readOnly bool) cove.Spec {
		return cove.Spec{Mounts: []cove.Mount{{Type: cove.MountBind, Source: source, Target: target, ReadOnly: readOnly}}}
	}
	port := func(port, host int, address string) cove.Spec {
		return cove.Spec{Ports: []cove.Port{{Port: port, HostPort: host, Address: address}}}
	}
	for _, test := range []struct {
		args []string
		want cove.Spec
	}{
		{[]string{"-v", "/srv:/data"}, bind("/srv", "/data", false)},
		{[]string{"-v", "/srv:/data:ro"}, bind("/srv", "/data", true)},
		{[]string{"-v", ".:/data:rw"}, bind(here, "/data", false)},
		{[]string{"-v", "./sub:/data"}, bind(filepath.Join(here, "sub"), "/data", false)},
		{[]string{"--volume", "cache:/data"}, cove.Spec{Mounts: []cove.Mount{{Type: cove.MountVolume, Source: "cache", Target: "/data"}}}},
		{[]string{"--mount", "type=bind,src=/srv,dst=/data,ro"}, bind("/srv", "/data", true)},
		{[]string{"--mount", "type=bind,source=/srv,target=/data,readonly=false"}, bind("/srv", "/data", false)},
		{[]string{"--mount", "type=volume,src=cache,destination=/c"}, cove.Spec{Mounts: []cove.Mount{{Type: cove.MountVolume, Source: "cache", Target: "/c"}}}},
		{[]string{"--mount", "type=volume,src=cache,dst=/c,remove"}, cove.Spec{Mounts: []cove.Mount{{Type: cove.MountVolume, Source: "cache", Target: "/c", Remove: true}}}},
		{[]string{"--mount", "src=cache,dst=/c,ro,remove=false"}, cove.Spec{Mounts: []cove.Mount{{Type: cove.MountVolume, Source: "cache", Target: "/c", ReadOnly: true}}}},
		{[]string{"--mount", "type=tmpfs,dst=/t,size=1m"}, cove.Spec{Mounts: []cove.Mount{{Type: cove.MountTmpfs, Target: "/t", Size: cove.MiB}}}},
		{[]string{"--tmpfs", "/t"}, cove.Spec{Mounts: []cove.Mount{{Type: cove.MountTmpfs, Target: "/t"}}}},
		{[]string{"--tmpfs", "/t:size=64k,rw"}, cove.Spec{Mounts: []cove.Mount{{Type: cove.MountTmpfs, Target: "/t", Size: 64 * cove.KiB}}}},
		{[]string{"-p", "80"}, port(80, 0, "")},
		{[]string{"-p", "8080:80"}, port(80, 8080, "")},
		{[]string{"-p", "8080:80/tcp"}, port(80, 8080, "")},
		{[]string{"-p", "0.0.0.0:8080:80"}, port(80, 8080, "0.0.0.0")},
		{[]string{"-p", "127.0.0.1::80"}, port(80, 0, "127.0.0.1")},
		{[]string{"-p", "[::1]:8080:80"}, port(80, 8080, "::1")},
		{[]string{"--ulimit", "nofile=1024"}, cove.Spec{Ulimits: []cove.Ulimit{{Name: "nofile", Soft: 1024, Hard: 1024}}}},
		{[]string{"--ulimit", "core=0:unlimited"}, cove.Spec{Ulimits: []cove.Ulimit{{Name: "core", Soft: 0, Hard: -1}}}},
		{[]string{"--shm-size", "128m"}, cove.Spec{Limits: cove.Limits{Shm: 128 * cove.MiB}}},
		{[]string{"--add-host", "db:192.0.2.1", "--add-host", "v6=2001:db8::1"}, cove.Spec{Hosts: map[string]string{"db": "192.0.2.1", "v6": "2001:db8::1"}}},
		{[]string{"--cap-add", "NET_ADMIN", "--cap-drop", "ALL", "--privileged", "--device", "/dev/fuse", "--network-mode", "bridge", "--dns", "192.0.2.53"},
			cove.Spec{Options: cove.Options{CapAdd: []string{"NET_ADMIN"}, CapDrop: []string{"ALL"}, Privileged: true, Devices: []string{"/dev/fuse"}, NetworkMode: "bridge", DNS: []string{"192.0.2.53"}}}},
	} {
		var got cove.Spec
		flags := pflag.NewFlagSet("", pflag.ContinueOnError)
		specFlags(flags, &got)
		if err := flags.Parse(test.args); err != nil {
			t.Errorf("%q: %v", test.args, err)
		} else if diff := cmp.Diff(test.want, got); diff != "" {
			t.Errorf("%q (-want +got):\n%s", test.args, diff)
		}
	}
}

func TestOptionFlagsRefuse(t *testing.T) {
	for _, args := range [][]string{
		{"-v", "/srv"}, {"-v", ":/data"}, {"-v", "/srv:"}, {"-v", "/srv:/data:rx"}, {"-v", "/a:/b:ro:z"},
		{"--mount", "type=bind,dst=/data"}, {"--mount", "type=bind,from=/srv"}, {"--mount", "type=tmpfs,dst=/x,size=big"},
		{"--mount", "type=bind,src=/srv,dst=/data,ro=perhaps"}, {"--tmpfs", "/t:uid=0"},
		{"-p", ""}, {"-p", "0"}, {"-p", "080"}, {"-p", "+80"}, {"-p", "65536"}, {"-p", ":80"}, {"-p", "80/udp"}, {"-p", "a:80"}, {"-p", "host:80:80"},
		{"-p", "8000-8010:80"}, {"--ulimit", "nofile"}, {"--ulimit", "nofile=many"}, {"--ulimit", "=3"}, {"--ulimit", "nofile=1:2:3"},
		{"--add-host", "db"}, {"--add-host", ":1.2.3.4"}, {"--cap-add", ""}, {"--shm-size", "0"},
	} {
		var spec cove.Spec
		flags := pflag.NewFlagSet("", pflag.ContinueOnError)
		specFlags(flags, &spec)
		if err := flags.Parse(args); err == nil {
			t.Errorf("%q was taken: %+v", args, spec)
		}
	}
}
