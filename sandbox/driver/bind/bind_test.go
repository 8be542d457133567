package bind

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/covehq/cove"
)

// A prefix with good and bad things in it, and a secret beside it.
func world(t *testing.T) (prefix, secret string) {
	t.Helper()
	top, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	prefix, secret = filepath.Join(top, "srv"), filepath.Join(top, "secret")
	for _, directory := range []string{prefix + "/data/deep", prefix + "/daemon/images", prefix + "/a b", secret} {
		if err := os.MkdirAll(directory, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	files := map[string]string{prefix + "/data/file": "fine", secret + "/file": "secret", top + "/srv-other": "secret"}
	for name, content := range files {
		if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	links := map[string]string{
		prefix + "/out": secret, prefix + "/up": "..", prefix + "/in": "data", prefix + "/root": "/",
		prefix + "/data/file-out": secret + "/file", prefix + "/magic": "/proc/self/root", prefix + "/fd": "/proc/self/fd",
		prefix + "/loop": "loop", prefix + "/dangling": "nowhere",
	}
	for name, to := range links {
		if err := os.Symlink(to, name); err != nil {
			t.Fatal(err)
		}
	}
	if err := unix.Mkfifo(prefix+"/data/pipe", 0o600); err != nil {
		t.Fatal(err)
	}
	return prefix, secret
}

func TestT06SourcesStayBeneathAPrefix(t *testing.T) {
	prefix, secret := world(t)
	rules := Rules{Prefixes: []string{prefix}, Never: []string{prefix + "/daemon"}}
	for name, test := range map[string]struct {
		source string
		code   cove.Code
	}{
		"the prefix holds the daemon's own directory": {prefix, cove.Forbidden},
		"a directory":                       {prefix + "/data", ""},
		"a directory below":                 {prefix + "/data/deep", ""},
		"a file":                            {prefix + "/data/file", ""},
		"a name with a space":               {prefix + "/a b", ""},
		"nothing":                           {"", cove.Invalid},
		"a relative path":                   {"data", cove.Invalid},
		"dot dot":                           {prefix + "/data/../../secret", cove.Invalid},
		"dot dot at the end":                {prefix + "/data/..", cove.Invalid},
		"a dot":                             {prefix + "/./data", cove.Invalid},
		"two slashes":                       {prefix + "//data", cove.Invalid},
		"a slash at the end":                {prefix + "/data/", cove.Invalid},
		"a NUL":                             {prefix + "/data\x00/deep", cove.Invalid},
		"the directory beside the prefix":   {secret, cove.Forbidden},
		"a name that begins as the prefix":  {prefix + "-other", cove.Forbidden},
		"the parent":                        {filepath.Dir(prefix), cove.Forbidden},
		"the root":                          {"/", cove.Forbidden},
		"a symlink that leads out":          {prefix + "/out", cove.Forbidden},
		"through a symlink that leads out":  {prefix + "/out/file", cove.Forbidden},
		"a file symlink that leads out":     {prefix + "/data/file-out", cove.Forbidden},
		"a symlink up":                      {prefix + "/up/secret", cove.Forbidden},
		"a symlink that stays within":       {prefix + "/in", cove.Forbidden},
		"through one that stays within":     {prefix + "/in/deep", cove.Forbidden},
		"a symlink to the root":             {prefix + "/root/etc", cove.Forbidden},
		"a link of /proc to the root":       {prefix + "/magic" + secret, cove.Forbidden},
		"a link of /proc to a descriptor":   {prefix + "/fd/0", cove.Forbidden},
		"a symlink to itself":               {prefix + "/loop", cove.Forbidden},
		"a symlink to nothing":              {prefix + "/dangling", cove.Forbidden},
		"what is not there":                 {prefix + "/missing", cove.NotFound},
		"below a file":                      {prefix + "/data/file/x", cove.NotFound},
		"a pipe":                            {prefix + "/data/pipe", cove.Invalid},
		"the daemon's own directory":        {prefix + "/daemon", cove.Forbidden},
		"within the daemon's own directory": {prefix + "/daemon/images", cove.Forbidden},
	} {
		t.Run(name, func(t *testing.T) {
			file, err := rules.Resolve(test.source)
			if test.code != "" {
				if !errors.Is(err, test.code) {
					t.Fatalf("got %v, want an error that is %s", err, test.code)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			defer file.Close()
			if same, err := Same(Path(file), test.source); err != nil || !same {
				t.Errorf("the descriptor is not of that file: %v, %v", same, err)
			}
			if name, err := Name(Path(file)); err != nil || name != test.source {
				t.Errorf("its name is %s, %v", name, err)
			}
		})
	}
}

// A sandbox that has the outer directory, writable, puts a symlink in the place of the inner
// one, which has a rule of its own.
func TestT06APrefixWithinAnotherIsNotFollowed(t *testing.T) {
	prefix, _ := world(t)
	rules := Rules{Prefixes: []string{prefix + "/out", prefix}}
	for _, source := range []string{prefix + "/out", prefix + "/out/file"} {
		if file, err := rules.Resolve(source); !errors.Is(err, cove.Forbidden) {
			file.Close()
			t.Errorf("%s: %v, want an error that is forbidden", source, err)
		}
	}
	rules.Prefixes = rules.Prefixes[:1] // alone it is the operator's, symlink or not
	file, err := rules.Resolve(prefix + "/out/file")
	if err != nil {
		t.Fatal(err)
	}
	file.Close()
}

func TestT07TheMachineItselfIsNeverASource(t *testing.T) {
	rules := Rules{Prefixes: []string{"/"}}
	for _, source := range []string{
		"/", "/proc", "/proc/1", "/proc/self/root", "/proc/sys/kernel", "/sys", "/sys/fs/cgroup", "/dev", "/dev/null",
		"/dev/shm", "/run", "/var", "/var/run",
	} {
		t.Run(source, func(t *testing.T) {
			if file, err := rules.Resolve(source); err == nil {
				file.Close()
				t.Fatal("it was resolved")
			} else if errors.Is(err, cove.NotFound) {
				t.Skip("this machine has none")
			}
		})
	}
}

func TestT07ADirectoryWithASocketIsNoSource(t *testing.T) {
	prefix, _ := world(t)
	listener, err := new(net.ListenConfig).Listen(t.Context(), "unix", prefix+"/data/deep/an  engine.sock")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	rules := Rules{Prefixes: []string{prefix}}
	for _, source := range []string{prefix, prefix + "/data", prefix + "/data/deep"} {
		if _, err := rules.Resolve(source); !errors.Is(err, cove.Forbidden) || !strings.Contains(err.Error(), "engine.sock") {
			t.Errorf("%s: %v, want a refusal that names the socket", source, err)
		}
	}
	for _, sockets := range []bool{false, true} {
		rules.Sockets = sockets
		if _, err := rules.Resolve(prefix + "/data/deep/an  engine.sock"); !errors.Is(err, cove.Invalid) {
			t.Errorf("the socket itself, sockets allowed %v: %v, want an error that is invalid", sockets, err)
		}
	}
	file, err := rules.Resolve(prefix + "/data")
	if err != nil {
		t.Fatalf("the operator allowed sockets: %v", err)
	}
	file.Close()
	rules.Sockets = false
	if file, err = rules.Resolve(prefix + "/a b"); err != nil {
		t.Fatalf("a directory without sockets: %v", err)
	}
	file.Close()
}

// An attacker who may write beneath the prefix swaps a directory for a symlink that leads
// out, again and again, while it is resolved.
func TestT06ASwappedDirectoryNeverLeadsOut(t *testing.T) {
	prefix, secret := world(t)
	rules := Rules{Prefixes: []string{prefix}}
	var forbidden unix.Stat_t
	if err := unix.Stat(secret+"/file", &forbidden); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(prefix+"/swap", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(prefix+"/swap/file", []byte("fine"), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	var attacker sync.WaitGroup
	attacker.Go(func() {
		for ctx.Err() == nil {
			_ = unix.Renameat2(unix.AT_FDCWD, prefix+"/swap", unix.AT_FDCWD, prefix+"/out", unix.RENAME_EXCHANGE)
		}
	})
	defer attacker.Wait()
	defer stop()
	var resolved, refused int
	for resolved == 0 || refused == 0 || resolved+refused < 2000 {
		file, err := rules.Resolve(prefix + "/swap/file")
		if err != nil {
			if !errors.Is(err, cove.Forbidden) {
				t.Fatal(err)
			}
			refused++
			continue
		}
		var got unix.Stat_t
		if err := unix.Stat(Path(file), &got); err != nil {
			t.Fatal(err)
		}
		if got.Dev == forbidden.Dev && got.Ino == forbidden.Ino {
			t.Fatal("the secret was resolved")
		}
		resolved++
		file.Close()
	}
}

func TestAPathLeadsToTheFileWhateverItsName(t *testing.T) {
	prefix, secret := world(t)
	file, err := Rules{Prefixes: []string{prefix}}.Resolve(prefix + "/data")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if err := errors.Join(os.Rename(prefix+"/data", prefix+"/moved"), os.Symlink(secret, prefix+"/data")); err != nil {
		t.Fatal(err)
	}
	if content, err := os.ReadFile(Path(file) + "/file"); err != nil || string(content) != "fine" {
		t.Errorf("through the descriptor: %q, %v", content, err)
	}
	if same, err := Same(Path(file), prefix+"/data"); err != nil || same {
		t.Errorf("what has the name now is the same: %v, %v", same, err)
	}
}

func TestMountShowsTheSourceReadOnly(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("mounting needs root")
	}
	prefix, _ := world(t)
	for _, source := range []string{prefix + "/data", prefix + "/data/file"} {
		file, err := Rules{Prefixes: []string{prefix}}.Resolve(source)
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		target := filepath.Join(t.TempDir(), "target")
		if filepath.Base(source) == "data" {
			err = os.Mkdir(target, 0o755)
		} else {
			err = os.WriteFile(target, nil, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
		if err := Mount(Path(file), target, true); errors.Is(err, unix.EPERM) {
			t.Skip("this root may not mount")
		} else if err != nil {
			t.Fatal(err)
		}
		if same, err := Same(Path(file), target); err != nil || !same {
			t.Errorf("%s is not at the target: %v, %v", source, same, err)
		}
		if err := unix.Access(target, unix.W_OK); !errors.Is(err, unix.EROFS) {
			t.Errorf("%s can be written: %v", source, err)
		}
		if err := unix.Unmount(target, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	}
}
