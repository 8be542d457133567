package docker

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/covehq/cove"
)

// sshKey writes a key to path, and returns its public half in a line as files of ssh have it.
func sshKey(t *testing.T, path string) string {
	t.Helper()
	if output, err := exec.CommandContext(t.Context(), "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path).CombinedOutput(); err != nil {
		t.Fatalf("ssh-keygen: %v: %s", err, output)
	}
	line, err := os.ReadFile(path + ".pub")
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(line))
}

func write(t *testing.T, path, content string, mode os.FileMode) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), mode); err != nil {
		t.Fatal(err)
	}
}

// newSSH starts a server that lets this user in, and returns its address and a directory with
// the client's configuration. The ssh on PATH uses that, and nothing of the user's own.
func newSSH(t *testing.T) (address, dir string) {
	t.Helper()
	server, err := exec.LookPath("sshd")
	if err != nil || os.Geteuid() != 0 {
		t.Skip("starts a server of ssh: install openssh-server, and run as root")
	}
	client, err := exec.LookPath("ssh")
	if err != nil {
		t.Skip("connects by ssh: install openssh-client")
	}
	if _, err := exec.LookPath("docker"); err != nil {
		t.Skip("has docker system dial-stdio on the other side: install docker.io")
	}
	// Where it gives up its privileges; services make it at their start.
	const empty = "/run/sshd"
	if err := os.Mkdir(empty, 0o755); err == nil {
		t.Cleanup(func() { _ = os.Remove(empty) })
	}
	dir, port := t.TempDir(), freePort(t)
	host := sshKey(t, dir+"/host")
	write(t, dir+"/authorized", sshKey(t, dir+"/user")+"\n", 0o600)
	write(t, dir+"/known", fmt.Sprintf("[127.0.0.1]:%s %s\n", port, host), 0o600)
	write(t, dir+"/sshd", fmt.Sprintf("HostKey %[1]s/host\nAuthorizedKeysFile %[1]s/authorized\nPidFile none\nStrictModes no\nUsePAM no\nPasswordAuthentication no\nPermitRootLogin prohibit-password\n", dir)+
		"MaxStartups 100\nSetEnv PATH="+os.Getenv("PATH")+"\n", 0o600)
	write(t, dir+"/config", fmt.Sprintf("Host *\nIdentityFile %[1]s/user\nIdentitiesOnly yes\nUserKnownHostsFile %[1]s/known\nGlobalKnownHostsFile none\nStrictHostKeyChecking yes\nBatchMode yes\n", dir), 0o600)
	if err := os.Mkdir(dir+"/bin", 0o755); err != nil {
		t.Fatal(err)
	}
	write(t, dir+"/bin/ssh", fmt.Sprintf("#!/bin/sh\nexec %s -F %s/config \"$@\"\n", client, dir), 0o755)
	t.Setenv("PATH", dir+"/bin:"+os.Getenv("PATH"))

	log, err := os.Create(dir + "/log")
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd := exec.Command(server, "-D", "-e", "-f", dir+"/sshd", "-o", "ListenAddress=127.0.0.1:"+port)
	cmd.Stdout, cmd.Stderr, cmd.WaitDelay = log, log, time.Second
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		conn, err := net.Dial("tcp", "127.0.0.1:"+port)
		if err == nil {
			conn.Close()
			return "ssh://root@127.0.0.1:" + port, dir
		}
		if time.Now().After(end) {
			said, _ := os.ReadFile(dir + "/log")
			t.Fatalf("sshd does not listen: %v\n%s", err, said)
		}
	}
}

func TestAnEngineBySSH(t *testing.T) {
	here := anyEngine(t)
	c, err := here.engine.connect()
	if err != nil {
		t.Fatal(err)
	}
	socket, ok := strings.CutPrefix(c.DaemonHost(), "unix://")
	if !ok {
		t.Skip("the engine under test has no socket on this machine")
	}
	image := bareImage(t, here)
	address, dir := newSSH(t)
	t.Run("of DOCKER_HOST", func(t *testing.T) {
		live(t, rig{t.TempDir(), binaries(t), address + socket, "docker"}, image)
	})
	t.Run("of a Docker context", func(t *testing.T) {
		useConfig(t, t.TempDir())
		newContext(t, "far", address+socket, "")
		t.Setenv("DOCKER_HOST", "")
		t.Setenv("DOCKER_CONTEXT", "far")
		live(t, rig{t.TempDir(), binaries(t), "", "docker"}, image)
	})
	t.Run("that nobody knows", func(t *testing.T) {
		write(t, filepath.Join(dir, "known"), "", 0o600)
		d := open(t, address+socket)
		if _, err := d.Probe(t.Context()); !errors.Is(err, cove.Unavailable) || !strings.Contains(cove.HintOf(err), "ssh") {
			t.Errorf("got %v (%s), want unavailable, and to try it with ssh", err, cove.HintOf(err))
		}
	})
}
