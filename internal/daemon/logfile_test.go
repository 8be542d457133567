package daemon

import (
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

func TestLogsAreSetAside(t *testing.T) {
	path := filepath.Join(t.TempDir(), "cove.log")
	log, err := OpenLog(path)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	log.limit = 100
	for _, line := range []string{"a", "b", "c", "d"} {
		if _, err := log.Write([]byte(strings.Repeat(line, 59) + "\n")); err != nil {
			t.Fatal(err)
		}
	}
	for name, want := range map[string]string{path: "d", path + ".1": "c"} {
		content, err := os.ReadFile(name)
		if err != nil || string(content) != strings.Repeat(want, 59)+"\n" {
			t.Errorf("%s: got %q, %v, want a line of %s", name, content, err, want)
		}
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v, want 0600", info.Mode(), err)
	}
}

func TestDescriptorsFollowTheLog(t *testing.T) {
	dir := t.TempDir()
	other, err := os.Create(filepath.Join(dir, "other"))
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	path := filepath.Join(dir, "cove.log")
	log, err := OpenLog(path, int(other.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	log.limit = 10
	for range 2 {
		if _, err := log.Write([]byte("0123456789")); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := other.WriteString("panic"); err != nil {
		t.Fatal(err)
	}
	if content, _ := os.ReadFile(path); string(content) != "0123456789panic" {
		t.Errorf("got %q", content)
	}
}

func TestLogHammer(t *testing.T) {
	path := filepath.Join(t.TempDir(), "cove.log")
	log, err := OpenLog(path)
	if err != nil {
		t.Fatal(err)
	}
	log.limit = 1000
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() {
			for range 100 {
				if _, err := log.Write([]byte("a line of a log\n")); err != nil {
					t.Error(err)
				}
			}
		})
	}
	group.Wait()
	if err := log.Close(); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{path, path + ".1"} {
		content, err := os.ReadFile(name)
		if err != nil || len(content) > 1000 || strings.ReplaceAll(string(content), "a line of a log\n", "") != "" {
			t.Errorf("%s: %v, %d bytes, or a torn line", name, err, len(content))
		}
	}
}

func TestTail(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	if err := os.WriteFile(path, []byte("old\none\ntwo\nthree\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := tail(path, 4, 2); got != "two\nthree" {
		t.Errorf("got %q", got)
	}
	if got := tail(path, 4, 10); got != "one\ntwo\nthree" {
		t.Errorf("got %q", got)
	}
	if got := tail(path+".none", 0, 10); got != "" {
		t.Errorf("got %q", got)
	}
}
