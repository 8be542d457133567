// Package house holds the tests that keep the house in order: who may import whom, how
// large the central files may grow, and that what is generated is what is committed.
package house

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/covehq/cove"

// root is the repository.
const root = "../.."

// mayImport is a statement of policy: which packages of this module a package may import
// directly, by the longest matching prefix. "." is the root package. Tests are exempt.
var mayImport = []struct {
	from string
	to   []string
}{
	{".", nil},
	{"cmd/cove", []string{"*"}},
	{"cmd/cove-agent", []string{".", "guest"}},
	{"cmd/cove-runsc", nil},
	{"internal/cli", []string{".", "client", "internal/cli", "internal/daemon", "tools", "server/mcp"}},
	{"internal/daemon", []string{".", "client", "internal/daemon"}},
	{"internal/duplex", nil},
	{"internal/httpapi", []string{"."}},
	{"client", []string{".", "client", "internal/httpapi", "internal/duplex"}},
	{"server", []string{".", "server", "sandbox", "key", "run", "tools", "internal/httpapi", "internal/duplex"}},
	{"server/mcp", []string{".", "tools"}},
	{"server/daiv", []string{".", "run", "patch", "sandbox", "key", "internal/httpapi"}},
	{"run", []string{".", "sandbox", "patch"}},
	{"patch", []string{"."}},
	{"sandbox", []string{".", "sandbox/driver", "guest/dial", "guest/wire", "store", "policy", "egress", "secret", "internal/duplex"}},
	{"policy", []string{"."}},
	{"egress", []string{".", "guest/wire", "egress/domain"}},
	{"egress/domain", nil},
	{"egress/intercept", []string{".", "egress", "guest/wire"}},
	{"secret", []string{".", "store", "egress/domain"}},
	{"key", []string{".", "store"}},
	{"sandbox/driver", []string{"."}},
	{"sandbox/conformance", []string{".", "sandbox/driver", "guest/dial", "guest/wire"}},
	{"sandbox/drivertest", []string{".", "sandbox/driver", "sandbox/conformance", "guest/dial"}},
	{"store", []string{"."}},
	{"store/sqlite", []string{".", "store"}},
	{"image", []string{"."}},
	{"tools", []string{".", "tools"}},
	{"runtime", []string{".", "sandbox/driver", "image", "runtime/internal", "guest/dial/carrier", "guest/pair"}},
	{"runtime/fake", []string{".", "sandbox/driver", "image", "guest", "runtime/fake"}},
	{"guest", []string{".", "guest"}},
	{"bench", []string{".", "client", "bench"}},
	{"internal/house", nil},
	{"internal/ordinary", nil},
	{"internal/outer", nil},
	{"test/e2e", []string{"."}},
}

type goPackage struct {
	ImportPath string
	Dir        string
	Doc        string
	Imports    []string
	Deps       []string
	GoFiles    []string
}

func packages(t *testing.T) []goPackage {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", "list", "-deps=false", "-json=ImportPath,Dir,Doc,Imports,Deps,GoFiles", "./...")
	cmd.Dir = root
	output, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var list []goPackage
	for decoder := json.NewDecoder(bytes.NewReader(output)); ; {
		var p goPackage
		if err := decoder.Decode(&p); errors.Is(err, io.EOF) {
			return list
		} else if err != nil {
			t.Fatal(err)
		}
		list = append(list, p)
	}
}

// local returns a package's name below the module, "." for the root; ok is false outside.
func local(path string) (string, bool) {
	if path == module {
		return ".", true
	}
	return strings.CutPrefix(path, module+"/")
}

func below(name, prefix string) bool {
	return name == prefix || strings.HasPrefix(name, prefix+"/")
}

func TestImportsPointDown(t *testing.T) {
	for _, p := range packages(t) {
		name, _ := local(p.ImportPath)
		allowed, found := []string(nil), ""
		for _, rule := range mayImport {
			if below(name, rule.from) && len(rule.from) > len(found) {
				allowed, found = rule.to, rule.from
			}
		}
		if found == "" {
			t.Errorf("%s has no line in the import table", name)
			continue
		}
		for _, path := range p.Imports {
			imported, ok := local(path)
			if !ok || slices.Contains(allowed, "*") {
				continue
			}
			permitted := slices.ContainsFunc(allowed, func(to string) bool {
				if to == "sandbox" { // the package itself, not what lies below it
					return imported == to
				}
				return to == imported || to != "." && below(imported, to)
			})
			if !permitted {
				t.Errorf("%s imports %s; the table allows %v", name, imported, allowed)
			}
		}
	}
}

// heavy are dependencies that only one room may have.
var heavy = map[string][]string{
	"gvisor.dev/gvisor":      {"cmd/cove-runsc"},
	"modernc.org/sqlite":     {"store/sqlite", "cmd/cove"},
	"github.com/spf13/cobra": {"internal/cli", "cmd/cove"},
}

func TestHeavyDependenciesStayInTheirRoom(t *testing.T) {
	for _, p := range packages(t) {
		name, _ := local(p.ImportPath)
		for prefix, rooms := range heavy {
			if slices.Contains(rooms, name) || below(name, "test") {
				continue
			}
			for _, path := range p.Deps {
				if below(path, prefix) {
					t.Errorf("%s depends on %s, which belongs to %v", name, path, rooms)
					break
				}
			}
		}
		if name == "." {
			for _, path := range p.Deps {
				if strings.Contains(strings.SplitN(path, "/", 2)[0], ".") {
					t.Errorf("the root package depends on %s; it has the standard library only", path)
				}
			}
		}
	}
}

// budgets are the most lines that the central files may have.
var budgets = map[string]int{"sandbox/sandbox.go": 600, "server/server.go": 600}

func TestCentralFilesStayWithinTheirBudget(t *testing.T) {
	for name, budget := range budgets {
		content, err := os.ReadFile(filepath.Join(root, name))
		if err != nil {
			t.Error(err)
			continue
		}
		if lines := bytes.Count(content, []byte("\n")); lines > budget {
			t.Errorf("%s has %d lines, the budget is %d: split it by noun", name, lines, budget)
		}
	}
}

func TestEveryPackageSaysWhatItProvides(t *testing.T) {
	for _, p := range packages(t) {
		if name, _ := local(p.ImportPath); p.Doc == "" && len(p.GoFiles) > 0 && !strings.Contains(name, "/gen/") {
			t.Errorf("%s has no package comment", name)
		}
	}
}

func TestNothingRegistersItselfAtStart(t *testing.T) {
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() && (entry.Name() == "gen" || entry.Name() == ".git" || entry.Name() == "bin") {
			return fs.SkipDir
		}
		if !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return nil
		}
		content, err := os.ReadFile(path)
		if bytes.Contains(content, []byte("\nfunc init() {")) {
			t.Errorf("%s has an init function; wiring is explicit, in cmd/cove", path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestTheProtocolIsGeneratedFromItsSources(t *testing.T) {
	wire := filepath.Join(root, "guest/wire")
	fresh := t.TempDir()
	for _, name := range []string{"process", "filesystem", "guest"} {
		if err := os.CopyFS(filepath.Join(fresh, name), os.DirFS(filepath.Join(wire, name))); err != nil {
			t.Fatal(err)
		}
	}
	tool := filepath.Join(t.TempDir(), "generate")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", tool, "./guest/wire/generate")
	build.Dir = root
	if output, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, output)
	}
	absolute, err := filepath.Abs(root)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), tool, "process/process.proto", "filesystem/filesystem.proto", "guest/guest.proto")
	cmd.Dir = fresh
	cmd.Env = append(os.Environ(), "COVE_MODULE_DIR="+absolute)
	if output, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("generate: %v\n%s", err, output)
	}
	want, got := tree(t, filepath.Join(fresh, "gen")), tree(t, filepath.Join(wire, "gen"))
	for name := range want {
		if want[name] != got[name] {
			t.Errorf("guest/wire/gen/%s is not what the .proto files say: run go generate ./guest/wire", name)
		}
	}
	for name := range got {
		if _, ok := want[name]; !ok {
			t.Errorf("guest/wire/gen/%s is generated from nothing: run go generate ./guest/wire", name)
		}
	}
}

func tree(t *testing.T, dir string) map[string]string {
	t.Helper()
	files := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		content, err := os.ReadFile(path)
		name, _ := filepath.Rel(dir, path)
		files[name] = string(content)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}
