package docker

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/covehq/cove"
	"github.com/covehq/cove/runtime/internal/bundle"
)

// DefaultConfig is where an engine reads its configuration, unless it is told otherwise.
const DefaultConfig = "/etc/docker/daemon.json"

// registeredAs is the name under which gVisor is registered.
const registeredAs = "runsc"

// Registration is a change to an engine's configuration, which is not made yet.
type Registration struct {
	Path  string   // of the configuration
	Lines []string // what changes, for people; none: everything is as it should be

	before, after []byte
	backup        string
}

// registered is an entry of the configuration's runtimes.
type registered struct {
	Path string   `json:"path"`
	Args []string `json:"runtimeArgs,omitempty"`
}

// Register plans the registration of cove-runsc in the configuration at path. It changes
// nothing. The error is cove.Conflict where the engine has another gVisor.
func Register(path, runsc string) (*Registration, error) {
	fail := func(code cove.Code, message, hint string) (*Registration, error) {
		return nil, cove.Errorf(code, "runtime install", "docker-gvisor", message, hint)
	}
	runsc, err := filepath.Abs(runsc)
	if err != nil {
		return nil, err
	}
	if err := unix.Access(runsc, unix.X_OK); err != nil {
		return fail(cove.NotFound, runsc+" is not there", "build it with make, and keep cove-runsc beside cove")
	}
	before, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	config, runtimes, err := parseConfig(before)
	if err != nil {
		return fail(cove.Invalid, path+" is not understood: "+err.Error(), "correct it first: dockerd --validate --config-file "+path)
	}
	want := registered{Path: runsc, Args: registeredFlags()}
	change := &Registration{Path: path, before: before}
	if existing, ok := runtimes[registeredAs]; ok {
		var have registered
		if err := json.Unmarshal(existing, &have); err != nil || filepath.Base(have.Path) != filepath.Base(runsc) {
			return fail(cove.Conflict, "the engine has a runtime "+registeredAs+" of its own: "+string(compact(existing)), "use docker:gvisor with that one, or remove it from "+path)
		}
		if have.Path == want.Path && slices.Equal(have.Args, want.Args) {
			return change, nil
		}
	}
	entry, err := json.Marshal(want)
	if err != nil {
		return nil, err
	}
	runtimes[registeredAs] = entry
	if config["runtimes"], err = json.Marshal(runtimes); err != nil {
		return nil, err
	}
	if change.after, err = json.MarshalIndent(config, "", "  "); err != nil {
		return nil, err
	}
	change.after = append(change.after, '\n')
	change.Lines = []string{fmt.Sprintf("in %s, runtimes gets %q: %s", path, registeredAs, entry)}
	if len(before) > 0 {
		change.backup = path + "." + time.Now().UTC().Format("20060102T150405Z") + ".bak"
		change.Lines = append(change.Lines, "what is there now is kept as "+change.backup)
	}
	return change, nil
}

// registeredFlags are gVisor's flags for every container. Which network one has is for the
// engine to say: none, unless a sandbox asks for one.
func registeredFlags() []string {
	flags := slices.Clone(bundle.GvisorFlags)
	for i, flag := range flags {
		if strings.HasPrefix(flag, "--network=") {
			flags[i] = "--network=sandbox"
		}
	}
	return flags
}

// parseConfig reads a configuration, of which only the runtimes mean something here.
func parseConfig(text []byte) (config, runtimes map[string]json.RawMessage, err error) {
	config, runtimes = map[string]json.RawMessage{}, map[string]json.RawMessage{}
	if len(bytes.TrimSpace(text)) > 0 {
		if err := json.Unmarshal(text, &config); err != nil {
			return nil, nil, err
		}
	}
	if list, ok := config["runtimes"]; ok {
		if err := json.Unmarshal(list, &runtimes); err != nil {
			return nil, nil, fmt.Errorf("runtimes: %w", err)
		}
	}
	if config == nil || runtimes == nil { // null
		return nil, nil, errors.New("it is null")
	}
	return config, runtimes, nil
}

func compact(text []byte) []byte {
	var out bytes.Buffer
	if json.Compact(&out, text) != nil {
		return text
	}
	return out.Bytes()
}

// Apply makes the change, at once: a reader sees the old configuration or the new one. The
// error is cove.Conflict where somebody has changed it since.
func (r *Registration) Apply() error {
	if len(r.Lines) == 0 {
		return nil
	}
	now, err := os.ReadFile(r.Path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if !bytes.Equal(now, r.before) {
		return cove.Errorf(cove.Conflict, "runtime install", r.Path, "somebody has changed it meanwhile", "try again")
	}
	if err := os.MkdirAll(filepath.Dir(r.Path), 0o755); err != nil {
		return err
	}
	mode := fs.FileMode(0o644)
	if info, err := os.Stat(r.Path); err == nil {
		mode = info.Mode().Perm()
	}
	if r.backup != "" {
		if err := writeNew(r.backup, r.before, mode); err != nil {
			return err
		}
	}
	next := r.Path + ".cove"
	if err := os.Remove(next); err != nil && !errors.Is(err, fs.ErrNotExist) { // of an earlier try
		return err
	}
	if err := writeNew(next, r.after, mode); err != nil {
		return err
	}
	return os.Rename(next, r.Path)
}

// writeNew writes a file that is not there yet, to the disk.
func writeNew(path string, content []byte, mode fs.FileMode) error {
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	_, err = file.Write(content)
	return errors.Join(err, file.Sync(), file.Close())
}

// Installable says why a registration on this machine would not reach the engine that the
// docker command uses, or nil.
func Installable(host string) error {
	e := &engine{host: host}
	c, err := e.connect()
	if err != nil {
		return err
	}
	address := c.DaemonHost()
	refuse := func(why string) error {
		return cove.Errorf(cove.NotSupported, "runtime install", "docker-gvisor", why, "add cove-runsc to runtimes in the configuration of that engine yourself: see docs/docker.md")
	}
	switch {
	case !strings.HasPrefix(address, "unix://"):
		return refuse("the engine is on another machine: " + address)
	case strings.Contains(address, "podman"):
		return refuse("the engine is Podman, which has its runtimes in containers.conf")
	case strings.Contains(address, "/run/user/"), strings.Contains(address, "/desktop/"):
		return refuse("the engine does not read " + DefaultConfig + ": " + address)
	case os.Geteuid() != 0:
		return cove.Errorf(cove.Forbidden, "runtime install", "docker-gvisor", "only root may change "+DefaultConfig, "run it with sudo")
	}
	return nil
}
