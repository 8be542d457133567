package advisory

import (
	"strings"
	"testing"
)

func TestT03AndT04KnownBadVersionsAreWarnedOf(t *testing.T) {
	for _, test := range []struct {
		name, program, version string
		want                   []string // ids, in this order
	}{
		{"Debian 12's runc", "runc", "runc version 1.1.5+ds1-1+deb12u1", []string{"CVE-2024-21626", "CVE-2025-31133", "CVE-2025-52565", "CVE-2025-52881", "CVE-2026-41579"}},
		{"a line with its own fix", "runc", "1.2.8", []string{"CVE-2026-41579"}},
		{"one release before it", "runc", "1.3.2", []string{"CVE-2025-31133", "CVE-2025-52565", "CVE-2025-52881", "CVE-2026-41579"}},
		{"today's runc", "runc", "v1.5.2", nil},
		{"a line after all fixes", "runc", "2.0.0", nil},
		{"Debian 12's containerd", "containerd", "1.6.20~ds1", []string{"CVE-2024-25621"}},
		{"a fixed containerd of an old line", "containerd", "1.7.29", nil},
		{"a later line", "containerd", "2.2.1", nil},
		{"Debian 12's engine", "docker", "20.10.24+dfsg1", []string{"CVE-2024-41110"}},
		{"today's engine", "docker", "29.1.3", nil},
		{"another program of that version", "crun", "1.1.5", nil},
		{"no version", "runc", "unknown", nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			got := Of(test.program, test.version)
			if len(got) != len(test.want) {
				t.Fatalf("got %q, want %q", got, test.want)
			}
			for i, id := range test.want {
				if !strings.Contains(got[i], id) {
					t.Errorf("got %q, want %s in it", got[i], id)
				}
			}
		})
	}
}

func TestEveryEntryNamesVersionsInOrder(t *testing.T) {
	for _, e := range table {
		last := number{}
		for _, text := range e.fixed {
			fixed, ok := parse(text)
			if !ok || !last.less(fixed) {
				t.Errorf("%s: %s is no version after %s", e.id, text, last)
			}
			last = fixed
		}
		if len(e.fixed) == 0 {
			t.Errorf("%s names no fix", e.id)
		}
	}
}
