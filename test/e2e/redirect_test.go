package e2e

import (
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// TestT63T65Redirects has an allowed server send a program elsewhere. It gets only to where
// a rule leads it anyway.
func TestT63T65Redirects(t *testing.T) {
	binaries(t)
	oneByOne(t, reachable(), func(t *testing.T, runtime string) {
		if _, err := exec.LookPath("curl"); err != nil {
			if required("curl") || required("outer") {
				t.Fatal(err)
			}
			t.Skip(err)
		}
		for _, c := range []struct {
			name string
			args []string
			ca   string
		}{
			{"untouched", []string{"--allow", "moved.outer.test:443"}, "/workspace/outer.pem"},
			{"looked into", []string{"--request", "allow moved.outer.test"}, "/dev/cove/bundle.pem"},
		} {
			t.Run(c.name, func(t *testing.T) {
				m := onMachine(t, newInternet(t), runtime, "")
				id := m.create(t, append(c.args, "--allow", "rebound.outer.test,home.outer.test,api.outer.test:443")...)
				m.redirects(t, id, "cat /workspace/outer.pem "+c.ca+" >/tmp/both.pem; curl -sS -m 10 --cacert /tmp/both.pem -L --max-redirs 3 -d secret-body -w ' %{http_code}' ")
			})
		}
	})
}

// redirects follows one redirect after another by a command to which a URL is added.
func (m *machine) redirects(t *testing.T, id, curl string) {
	t.Helper()
	follow := func(to ...string) []string {
		output, _ := m.inside(t, id, "for to in '"+strings.Join(to, "' '")+"'; do "+curl+"\"https://moved.outer.test/x?to=$to\" 2>&1; printf '\\036'; done")
		return strings.Split(strings.TrimSuffix(output, "\x1e"), "\x1e")
	}
	if got := follow("https://api.outer.test/y")[0]; !strings.Contains(got, "hello from outside") || !strings.Contains(got, "secret-body") {
		t.Errorf("to a name that is allowed as well: %s", got)
	}
	before := len(m.heard())
	literal := m.addresses["api.outer.test"].String()
	places := []string{
		"http://evil.outer.test/y", "https://evil.outer.test/y", "http://169.254.169.254/latest/meta-data/", "https://169.254.169.254/", "http://2852039166/",
		"http://metadata.google.internal/", "http://" + literal + "/y", "https://" + literal + "/y", "http://8.8.8.8/", "http://127.0.0.1:80/",
		"http://api.outer.test/y", "https://api.outer.test:8443/y", "ftp://api.outer.test/y", "http://rebound.outer.test/y", "https://home.outer.test/y",
	}
	got := follow(places...)
	if len(got) != len(places) {
		t.Fatalf("%d of %d were followed: %q", len(got), len(places), got)
	}
	for n, to := range places {
		switch {
		case strings.Contains(got[n], "hello from outside"), strings.Contains(got[n], " 200"):
			t.Errorf("to %s: it was reached: %s", to, got[n])
		case strings.Contains(got[n], "timed out"):
			t.Errorf("to %s: %s, want to hear of it at once", to, got[n])
		}
	}
	if told := m.heard()[before:]; len(told) > 0 {
		t.Errorf("sites were told: %q", told)
	}
	secure := []string{m.addresses["moved.outer.test"].String(), literal}
	for _, packet := range m.Packets() {
		if packet.Protocol == "udp" && packet.Port == 53 || packet.Protocol == "tcp" && packet.Port == 443 && slices.Contains(secure, packet.To) {
			continue
		}
		t.Errorf("on the wire: %v", packet)
	}
	for _, name := range m.queries() {
		if name == "evil.outer.test" || name == "metadata.google.internal" {
			t.Errorf("a query for %s left", name)
		}
	}
}
