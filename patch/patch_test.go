package patch

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/covehq/cove"
)

// node is a file of a test's tree.
type node struct {
	mode    fs.FileMode // with fs.ModeSymlink
	content string
}

// tree is a test's tree by name. Directories are implied.
type tree map[string]node

func (t tree) archive(tb testing.TB) *bytes.Buffer {
	tb.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	made := map[string]bool{}
	for _, name := range slices.Sorted(maps.Keys(t)) {
		for i, c := range name {
			if dir := name[:i]; c == '/' && !made[dir] {
				made[dir] = true
				must(tb, w.WriteHeader(&tar.Header{Name: dir + "/", Typeflag: tar.TypeDir, Mode: 0o755}))
			}
		}
		n := t[name]
		h := &tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: int64(n.mode.Perm()), Size: int64(len(n.content))}
		if n.mode&fs.ModeSymlink != 0 {
			h.Typeflag, h.Linkname, h.Size = tar.TypeSymlink, n.content, 0
		}
		must(tb, w.WriteHeader(h))
		if h.Typeflag == tar.TypeReg {
			_, err := io.WriteString(w, n.content)
			must(tb, err)
		}
	}
	must(tb, w.Close())
	return &b
}

func (t tree) read(tb testing.TB) *Tree {
	tb.Helper()
	read, err := Read(tb.Context(), t.archive(tb), spool(tb))
	must(tb, err)
	return read
}

func spool(tb testing.TB) *os.File {
	tb.Helper()
	file, err := os.CreateTemp(tb.TempDir(), "")
	must(tb, err)
	tb.Cleanup(func() { file.Close() })
	return file
}

// write makes the tree on the disk.
func (t tree) write(tb testing.TB, dir string) {
	tb.Helper()
	for name, n := range t {
		at := filepath.Join(dir, name)
		must(tb, os.MkdirAll(filepath.Dir(at), 0o755))
		if n.mode&fs.ModeSymlink != 0 {
			must(tb, os.Symlink(n.content, at))
			continue
		}
		must(tb, os.WriteFile(at, []byte(n.content), 0o600))
		must(tb, os.Chmod(at, n.mode.Perm()))
	}
}

// onDisk is the tree in a directory.
func onDisk(tb testing.TB, dir string) tree {
	tb.Helper()
	t := tree{}
	must(tb, filepath.WalkDir(dir, func(at string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		name, err := filepath.Rel(dir, at)
		if err != nil {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		if info.Mode()&fs.ModeSymlink != 0 {
			target, err := os.Readlink(at)
			t[name] = node{fs.ModeSymlink, target}
			return err
		}
		content, err := os.ReadFile(at)
		t[name] = node{info.Mode().Perm(), string(content)}
		return err
	}))
	return t
}

func must(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}

// git runs git apart from whatever is configured here.
func git(tb testing.TB, dir, input string, args ...string) error {
	tb.Helper()
	cmd := exec.CommandContext(tb.Context(), "git", args...)
	cmd.Dir, cmd.Stdin = dir, strings.NewReader(input)
	cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_SYSTEM=/dev/null", "GIT_CEILING_DIRECTORIES="+filepath.Dir(dir))
	if output, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("git %s: %w\n%s", strings.Join(args, " "), err, output)
	}
	return nil
}

// check applies the patch of two trees to the first, and in reverse to the second.
func check(t *testing.T, before, after tree) string {
	t.Helper()
	var patch strings.Builder
	must(t, Compare(before.read(t), after.read(t)).WritePatch(&patch))
	for _, way := range []struct {
		from, to tree
		args     []string
	}{
		{before, after, []string{"apply", "--whitespace=nowarn"}},
		{after, before, []string{"apply", "--whitespace=nowarn", "-R"}},
	} {
		dir := t.TempDir()
		way.from.write(t, dir)
		if patch.Len() > 0 {
			if err := git(t, dir, patch.String(), way.args...); err != nil {
				t.Fatalf("%v\nbefore %v\nafter %v\npatch:\n%s", err, before, after, patch.String())
			}
		}
		if got := onDisk(t, dir); !maps.Equal(got, way.to) {
			t.Fatalf("git %v made\n%v\nwant\n%v\nof patch:\n%s", way.args, got, way.to, patch.String())
		}
	}
	return patch.String()
}

const (
	plain = fs.FileMode(0o644)
	exe   = fs.FileMode(0o755)
	link  = fs.ModeSymlink
)

func TestGitAppliesWhatChanged(t *testing.T) {
	for name, test := range map[string]struct {
		before, after tree
		want          []string // lines of the patch
	}{
		"nothing":                          {tree{"a": {plain, "x\n"}}, tree{"a": {plain, "x\n"}}, nil},
		"a line":                           {tree{"a": {plain, "1\n2\n3\n"}}, tree{"a": {plain, "1\ntwo\n3\n"}}, []string{"-2", "+two"}},
		"a new file":                       {tree{"a": {plain, "x\n"}}, tree{"a": {plain, "x\n"}, "d/e/f": {plain, "new\n"}}, []string{"new file mode 100644", "--- /dev/null"}},
		"an empty new file":                {tree{"a": {plain, "x\n"}}, tree{"a": {plain, "x\n"}, "e": {plain, ""}}, []string{"new file mode 100644"}},
		"an emptied file":                  {tree{"a": {plain, "x\n"}}, tree{"a": {plain, ""}}, []string{"@@ -1,1 +0,0 @@"}},
		"a deleted file":                   {tree{"a": {plain, "x\n"}, "b": {plain, "y\n"}}, tree{"a": {plain, "x\n"}}, []string{"deleted file mode 100644"}},
		"a deleted empty file":             {tree{"a": {plain, "x\n"}, "b": {plain, ""}}, tree{"a": {plain, "x\n"}}, []string{"deleted file mode 100644"}},
		"a renamed file":                   {tree{"a": {plain, "x\n"}}, tree{"d/b": {plain, "x\n"}}, []string{"rename from a", "rename to d/b", "similarity index 100%"}},
		"a renamed file with another mode": {tree{"a": {plain, "x\n"}}, tree{"b": {exe, "x\n"}}, []string{"rename from a", "new mode 100755"}},
		"a mode":                           {tree{"a": {plain, "x\n"}}, tree{"a": {exe, "x\n"}}, []string{"old mode 100644", "new mode 100755"}},
		"mode and content":                 {tree{"a": {plain, "x\n"}}, tree{"a": {exe, "y\n"}}, []string{"old mode 100644", "+y"}},
		"a dotfile":                        {tree{".a": {plain, "x\n"}}, tree{".a": {plain, "y\n"}, ".b/.c": {plain, "z\n"}}, []string{"+y", "+z"}},
		"no newline at the end":            {tree{"a": {plain, "x\ny"}}, tree{"a": {plain, "x\nz"}}, []string{"\\ No newline at end of file"}},
		"a newline at the end":             {tree{"a": {plain, "x\ny"}}, tree{"a": {plain, "x\ny\n"}}, []string{"\\ No newline at end of file"}},
		"lines that end as on Windows":     {tree{"a": {plain, "x\r\ny\r\n"}}, tree{"a": {plain, "x\r\nz\r\n"}}, []string{"+z\r"}},
		"a binary file":                    {tree{"a": {plain, "\x00\x01"}}, tree{"a": {plain, "\x00\x02\xff"}}, []string{"GIT binary patch", "literal 3", "literal 2"}},
		"a new binary file":                {tree{"x": {plain, ""}}, tree{"x": {plain, ""}, "a": {exe, "\x00\x02"}}, []string{"new file mode 100755", "GIT binary patch"}},
		"text that is not UTF-8":           {tree{"a": {plain, "caf\xe9\n"}}, tree{"a": {plain, "th\xe9\n"}}, []string{"GIT binary patch"}},
		"a symlink":                        {tree{"a": {plain, "x\n"}}, tree{"a": {plain, "x\n"}, "l": {link, "a"}}, []string{"new file mode 120000"}},
		"a symlink to elsewhere":           {tree{"l": {link, "a"}}, tree{"l": {link, "b"}}, []string{"-a", "+b"}},
		"a file that became a symlink":     {tree{"a": {plain, "x\n"}, "b": {plain, "y\n"}}, tree{"a": {link, "b"}, "b": {plain, "y\n"}}, []string{"deleted file mode 100644", "new file mode 120000"}},
		"a file that became a directory":   {tree{"a": {plain, "x\n"}}, tree{"a/b": {plain, "y\n"}}, nil},
		"a directory that became a file":   {tree{"a/b": {plain, "x\n"}}, tree{"a": {plain, "y\n"}}, nil},
		"names with all sorts of bytes":    {tree{"a b": {plain, "x\n"}, "q\"\\": {plain, "x\n"}}, tree{"a b": {plain, "y\n"}, "tab\tnl\n": {plain, "z\n"}, "é ü/\xff": {plain, "z\n"}, "q\"\\": {exe, "x\n"}, " ": {plain, "s\n"}}, nil},
		"a renamed name with blanks":       {tree{"a b": {plain, "x\n"}}, tree{"c d": {plain, "x\n"}}, []string{"rename to c d"}},
		"a long literal":                   {tree{"x": {plain, ""}}, tree{"x": {plain, ""}, "a": {plain, chance(7, 5000)}}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			patch := "\n" + check(t, test.before, test.after)
			for _, want := range test.want {
				if !strings.Contains(patch, "\n"+want+"\n") {
					t.Errorf("the patch has no line %q:%s", want, patch)
				}
			}
		})
	}
}

func chance(seed uint64, n int) string {
	r := rand.New(rand.NewPCG(seed, 0))
	content := make([]byte, n)
	for i := range content {
		content[i] = byte(r.Uint32())
	}
	return string(content)
}

// grow makes a tree of random files, some of them those of another.
func grow(r *rand.Rand, from tree) tree {
	t := tree{}
	dirs := []string{"", "d/", "d/e/", ".hid/", "sp ace/"}
	put := func(name string, n node) {
		for other := range t { // no file may be a directory too
			if strings.HasPrefix(other, name+"/") || strings.HasPrefix(name, other+"/") {
				return
			}
		}
		t[name] = n
	}
	for _, name := range slices.Sorted(maps.Keys(from)) {
		n := from[name]
		switch r.IntN(6) {
		case 0: // deleted
		case 1:
			put(fmt.Sprintf("%smoved%d", dirs[r.IntN(len(dirs))], r.IntN(100)), n)
		case 2:
			put(name, random(r))
		case 3:
			if n.mode&fs.ModeSymlink == 0 {
				lines := strings.SplitAfter(n.content, "\n")
				lines[r.IntN(len(lines))] = fmt.Sprintf("edited %d\n", r.IntN(10))
				n.content = strings.Join(lines, "")
			}
			put(name, n)
		default:
			put(name, n)
		}
	}
	for range r.IntN(6) {
		put(fmt.Sprintf("%sf%d", dirs[r.IntN(len(dirs))], r.IntN(20)), random(r))
	}
	if r.IntN(4) == 0 {
		put("d", random(r)) // where a directory may have been
	}
	return t
}

func random(r *rand.Rand) node {
	mode := plain
	if r.IntN(4) == 0 {
		mode = exe
	}
	switch r.IntN(8) {
	case 0:
		return node{link, fmt.Sprintf("to/%d", r.IntN(5))}
	case 1:
		return node{mode, ""}
	case 2:
		return node{mode, chance(r.Uint64(), r.IntN(300))}
	case 3:
		return node{mode, "no newline"}
	}
	var b strings.Builder
	for range r.IntN(60) {
		fmt.Fprintf(&b, "line %d\n", r.IntN(8))
	}
	return node{mode, b.String()}
}

func TestGitMakesWhatIsAfterOfWhatWasBefore(t *testing.T) {
	trees := 60
	if testing.Short() {
		trees = 20
	}
	r := rand.New(rand.NewPCG(1, 2))
	for range trees {
		before := grow(r, grow(r, nil))
		check(t, before, grow(r, before))
	}
}

func TestTheArchiveHasWhatIsNew(t *testing.T) {
	before := tree{"same": {plain, "s"}, "gone": {plain, "g"}, "d/edited": {plain, "1"}, ".git/config": {plain, "a"}, "mode": {plain, "m"}}
	after := tree{
		"same": {plain, "s"}, "d/edited": {plain, "2"}, "d/.new": {exe, "n"}, "d/link": {link, "edited"},
		".git/config": {plain, "evil"}, "sub/.GIT/hooks/x": {exe, "evil"}, "mode": {0o600, "m"},
	}
	changes := Compare(before.read(t), after.read(t))
	var kinds []string
	for _, c := range changes.List() {
		kinds = append(kinds, fmt.Sprintf("%s %s %s %s", c.Kind, c.Type, c.Mode, c.Path))
	}
	want := []string{
		"added file 0755 d/.new", "modified file 0644 d/edited", "added symlink 0777 d/link", "deleted file 0644 gone",
		"modified file 0600 mode", "added directory 0755 sub",
	}
	if !slices.Equal(kinds, want) {
		t.Errorf("changes are\n%s\nwant\n%s", strings.Join(kinds, "\n"), strings.Join(want, "\n"))
	}
	for below, want := range map[string][]string{"": {"d/.new", "d/edited", "d/link", "mode", "sub/"}, "./d": {".new", "edited", "link"}, "none": nil} {
		var packed bytes.Buffer
		count, err := changes.WriteArchive(&packed, Selection{Below: below})
		must(t, err)
		plain, err := gzip.NewReader(&packed)
		must(t, err)
		var names []string
		for archive := tar.NewReader(plain); ; {
			header, err := archive.Next()
			if err == io.EOF {
				break
			}
			must(t, err)
			names = append(names, header.Name)
		}
		if !slices.Equal(names, want) || count != len(want) {
			t.Errorf("below %q the archive has %d: %q, want %q", below, count, names, want)
		}
	}
}

func TestT37T57ATreeThatIsHostileIsRefused(t *testing.T) {
	header := func(h tar.Header) *bytes.Buffer {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		must(t, w.WriteHeader(&h))
		return &b
	}
	twice := header(tar.Header{Name: "a", Typeflag: tar.TypeReg})
	twice.Write(tree{"a": {plain, ""}}.archive(t).Bytes())
	many := func(w io.Writer, n int, of tar.Header) {
		archive := tar.NewWriter(w)
		for i := range n {
			h := of
			h.Name = fmt.Sprintf("%s%d", of.Name, i)
			if archive.WriteHeader(&h) != nil {
				return
			}
		}
	}
	pipe := func(write func(io.Writer)) io.Reader {
		r, w := io.Pipe()
		t.Cleanup(func() { r.Close() })
		go func() {
			write(w)
			w.Close()
		}()
		return r
	}
	for name, test := range map[string]struct {
		tar  io.Reader
		want cove.Code
	}{
		"a name that leads up":     {header(tar.Header{Name: "../a", Typeflag: tar.TypeReg}), cove.Unavailable},
		"an absolute name":         {header(tar.Header{Name: "/a", Typeflag: tar.TypeReg}), cove.Unavailable},
		"a long name":              {header(tar.Header{Name: strings.Repeat("n/", 3000), Typeflag: tar.TypeDir}), cove.Unavailable},
		"a long link":              {header(tar.Header{Name: "l", Linkname: strings.Repeat("n/", 3000), Typeflag: tar.TypeSymlink}), cove.Unavailable},
		"a device":                 {header(tar.Header{Name: "a", Typeflag: tar.TypeChar}), cove.Unavailable},
		"a hard link":              {header(tar.Header{Name: "a", Linkname: "/etc/passwd", Typeflag: tar.TypeLink}), cove.Unavailable},
		"a name twice":             {twice, cove.Unavailable},
		"what is no tar":           {strings.NewReader(strings.Repeat("x", 2048)), cove.Unavailable},
		"too many entries":         {pipe(func(w io.Writer) { many(w, MaxEntries+1, tar.Header{Name: "f", Typeflag: tar.TypeReg}) }), cove.TooLarge},
		"names that are too long":  {pipe(func(w io.Writer) { many(w, 9000, tar.Header{Name: strings.Repeat("n/", 2000), Typeflag: tar.TypeDir}) }), cove.TooLarge},
		"a file that is too large": {io.MultiReader(header(tar.Header{Name: "f", Typeflag: tar.TypeReg, Size: 8 << 40}), zeros{}), cove.TooLarge},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := Read(t.Context(), test.tar, spool(t)); cove.CodeOf(err) != test.want {
				t.Errorf("got %v, want %s", err, test.want)
			}
		})
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Read(ended, header(tar.Header{Name: "a"}), spool(t)); !errors.Is(err, context.Canceled) {
		t.Errorf("a reading that was given up says %v", err)
	}
}

// zeros is an endless reader.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}
