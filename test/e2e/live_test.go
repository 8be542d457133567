package e2e

import (
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestTheWayOutChanges changes policies while connections are open, kills the daemon, and
// lets one sandbox reach another.
func TestTheWayOutChanges(t *testing.T) {
	binaries(t)
	i := newInternet(t)
	oneByOne(t, reachable(), func(t *testing.T, runtime string) {
		m := onMachine(t, i, runtime, "")
		t.Run("T73 a killed daemon lets nothing out, and the next one what the policy says", func(t *testing.T) { m.killedDaemon(t) })
		t.Run("a connection that the policy does not allow any more is closed", func(t *testing.T) { m.narrowed(t) })
		t.Run("T69 a sandbox reaches the one port of another that a rule names", func(t *testing.T) { m.neighbours(t) })
		t.Run("a final policy stays", func(t *testing.T) { m.final(t) })
	})
}

const fetchAPI = "curl -fsS -m 10 https://api.outer.test/x"

func (m *machine) killedDaemon(t *testing.T) {
	id := m.create(t, "--allow", "api.outer.test:443")
	held := m.hold(t, id)
	eventually(t, 30*time.Second, "a connection is held", func() bool { return strings.Contains(held(), "connected") })
	m.stop(t, syscall.SIGKILL)
	// The next command starts the next daemon, in which the held connection is not.
	eventually(t, 60*time.Second, "the held connection has ended", func() bool { return strings.Contains(held(), "ended") })
	var output string
	eventually(t, 60*time.Second, "the next daemon lets out what the policy allows", func() bool {
		var err error
		output, err = m.inside(t, id, fetchAPI)
		return err == nil && strings.Contains(output, "hello from outside")
	})
	if output, err := m.inside(t, id, "curl -fsS -m 10 https://evil.outer.test/x"); err == nil {
		t.Errorf("what the policy does not allow: %s", output)
	}
}

// hold has a program connect and wait for the end of its connection, and returns what tells
// how far it is.
func (m *machine) hold(t *testing.T, id string) func() string {
	t.Helper()
	const script = `exec 3<>/dev/tcp/api.outer.test/443 && echo connected >/tmp/held && cat <&3 >/dev/null; echo ended >>/tmp/held`
	m.output(t, "exec", "-d", id, "--", "bash", "-c", "rm -f /tmp/held; "+script)
	return func() string {
		output, _ := m.inside(t, id, "cat /tmp/held 2>/dev/null")
		return output
	}
}

func (m *machine) narrowed(t *testing.T) {
	id := m.create(t)
	if output, err := m.inside(t, id, fetchAPI); err == nil {
		t.Errorf("with no network: %s", output)
	}
	m.output(t, "network", "set", id, "--allow", "api.outer.test:443")
	if output, err := m.inside(t, id, fetchAPI); err != nil || !strings.Contains(output, "hello from outside") {
		t.Errorf("after it was allowed: %v: %s", err, output)
	}
	held := m.hold(t, id)
	eventually(t, 30*time.Second, "a connection is held", func() bool { return strings.Contains(held(), "connected") })
	m.output(t, "network", "set", id, "--mode", "none")
	eventually(t, 30*time.Second, "the held connection has ended", func() bool { return strings.Contains(held(), "ended") })
	if output, err := m.inside(t, id, fetchAPI); err == nil {
		t.Errorf("after it was closed: %s", output)
	}
}

func (m *machine) neighbours(t *testing.T) {
	server := m.create(t, "--name", "library")
	m.output(t, "exec", "-d", server, "--", "python3", "-m", "http.server", "8000", "--directory", "/etc")
	m.output(t, "exec", "-d", server, "--", "python3", "-m", "http.server", "8001", "--directory", "/etc")
	reader, stranger := m.create(t, "--allow", "sandbox:library:8000"), m.create(t, "--allow", "api.outer.test")
	const fetch = "curl -fsS -m 10 --retry 20 --retry-delay 1 --retry-all-errors http://library.sandbox:8000/hostname"
	if output, err := m.inside(t, reader, fetch); err != nil || !strings.Contains(output, "cove") {
		t.Errorf("by the rule: %v: %s", err, output)
	}
	for name, attempt := range map[string]struct{ id, script string }{
		"another port":         {reader, "curl -fsS -m 10 http://library.sandbox:8001/hostname"},
		"without a rule":       {stranger, "curl -fsS -m 10 http://library.sandbox:8000/hostname"},
		"the other way around": {server, "curl -fsS -m 10 http://reader.sandbox:8000/"},
	} {
		if output, err := m.inside(t, attempt.id, attempt.script); err == nil {
			t.Errorf("%s: %s", name, output)
		}
	}
}

func (m *machine) final(t *testing.T) {
	id := m.create(t, "--network", "none", "--network-final")
	output, err := m.command(t, "network", "set", id, "--allow", "api.outer.test").CombinedOutput()
	if err == nil || !strings.Contains(string(output), "final") {
		t.Errorf("set: %v: %s", err, output)
	}
	if output, err := m.inside(t, id, fetchAPI); err == nil {
		t.Errorf("it reaches out: %s", output)
	}
}
