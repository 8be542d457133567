package server

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"mime/multipart"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/covehq/cove"
	"github.com/covehq/cove/run"
)

// pack makes a tar of files by name.
func pack(t testing.TB, files map[string]string) *bytes.Buffer {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, name := range slices.Sorted(maps.Keys(files)) {
		content := files[name]
		if err := w.WriteHeader(&tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(content))}); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, content); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return &b
}

func gzipped(t testing.TB, plain []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	if _, err := w.Write(plain); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// contents returns the regular files in a gzipped tar by name.
func contents(t testing.TB, packed []byte) map[string]string {
	t.Helper()
	plain, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{}
	for archive := tar.NewReader(plain); ; {
		header, err := archive.Next()
		if err == io.EOF {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(archive)
		if err != nil {
			t.Fatal(err)
		}
		if header.Typeflag == tar.TypeReg {
			files[header.Name] = string(content)
		}
	}
}

// lines makes commands of shell lines.
func lines(of ...string) []cove.Command {
	commands := make([]cove.Command, 0, len(of))
	for _, line := range of {
		commands = append(commands, cove.Command{Line: line})
	}
	return commands
}

// none checks that no sandbox is left.
func (w *world) none() {
	w.t.Helper()
	if n := w.host.Len(); n != 0 {
		w.t.Errorf("%d sandboxes are left", n)
	}
}

func TestARunReturnsWhatAllItsCommandsChanged(t *testing.T) {
	w := newWorld(t, Options{})
	before := map[string]string{"a.txt": "one\ntwo\n", "gone": "x", "old name": "moved\n", "d/bin": "\x00\x01", ".dot": "dot\n", "empty": ""}
	result, err := w.client.Run(t.Context(), cove.RunRequest{
		Spec: w.spec(), Return: cove.ReturnBoth,
		Commands: append(lines(
			"echo three >>a.txt; rm gone", "mv 'old name' 'd/new name'; chmod +x .dot; printf '\\000\\002' >d/bin", "ln -s a.txt link; : >d/new; echo out; echo err >&2; exit 3",
		), cove.Command{Argv: []string{"printf", "%s", "a b"}}, cove.Command{Argv: []string{"no-such-program"}}),
	}, bytes.NewReader(gzipped(t, pack(t, before).Bytes())))
	if err != nil {
		t.Fatal(err)
	}
	w.none()
	var codes []int
	for _, r := range result.Results {
		codes = append(codes, r.ExitCode)
	}
	if want := []int{0, 0, 3, 0, 127}; !slices.Equal(codes, want) {
		t.Errorf("exit codes %v, want %v", codes, want)
	}
	if r := result.Results[2]; r.Stdout != "out\n" || r.Stderr != "err\n" || r.Attempts != 1 {
		t.Errorf("the third result is %+v", r)
	}
	if r := result.Results[3]; r.Stdout != "a b" || !slices.Equal(r.Command.Argv, []string{"printf", "%s", "a b"}) {
		t.Errorf("the fourth result is %+v", r)
	}
	var kinds []string
	for _, c := range result.Changes {
		kinds = append(kinds, fmt.Sprintf("%s %s%s", c.Kind, strings.TrimSuffix(c.From+">", ">"), c.Path))
	}
	want := []string{"modified .dot", "modified a.txt", "modified d/bin", "added d/new", "renamed old named/new name", "deleted gone", "added link"}
	if !slices.Equal(kinds, want) {
		t.Errorf("changes %q, want %q", kinds, want)
	}
	if got, want := contents(t, result.Archive), (map[string]string{
		"a.txt": "one\ntwo\nthree\n", "d/new name": "moved\n", "d/bin": "\x00\x02", ".dot": "dot\n", "d/new": "",
	}); !maps.Equal(got, want) {
		t.Errorf("the archive has %q, want %q", got, want)
	}
	dir := t.TempDir()
	for name, content := range before {
		write(t, filepath.Join(dir, name), content)
	}
	apply := exec.CommandContext(t.Context(), "git", "apply")
	apply.Dir, apply.Stdin = dir, strings.NewReader(*result.Patch)
	if output, err := apply.CombinedOutput(); err != nil {
		t.Fatalf("git apply: %v\n%s\n%s", err, output, *result.Patch)
	}
	if got, err := os.ReadFile(filepath.Join(dir, "d/bin")); string(got) != "\x00\x02" {
		t.Errorf("after git apply the binary file is %q, %v", got, err)
	}
	if _, err := os.Lstat(filepath.Join(dir, "gone")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("after git apply, what was deleted is there: %v", err)
	}
}

func write(t testing.TB, at, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(at, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestARunThatChangesNothingReturnsNull(t *testing.T) {
	w := newWorld(t, Options{})
	body, err := json.Marshal(cove.RunRequest{Spec: w.spec(), Archive: pack(t, map[string]string{"a": "x"}).Bytes(), Commands: lines("cat a"), Return: cove.ReturnBoth})
	if err != nil {
		t.Fatal(err)
	}
	reply, text := w.request(http.MethodPost, "/v1/run", jsonHeader(), bytes.NewReader(body))
	var got map[string]json.RawMessage
	if err := json.Unmarshal([]byte(text), &got); err != nil || reply.StatusCode != http.StatusOK {
		t.Fatalf("status %d, %v: %s", reply.StatusCode, err, text)
	}
	for name, want := range map[string]string{"archive": "null", "patch": "null", "changes": "[]"} {
		if strings.TrimSpace(string(got[name])) != want {
			t.Errorf("%s is %s, want %s", name, got[name], want)
		}
	}
	if !strings.Contains(string(got["results"]), `"stdout":"x"`) {
		t.Errorf("results are %s", got["results"])
	}
	w.none()
}

func TestARunGoesByItsRequest(t *testing.T) {
	w := newWorld(t, Options{})
	for name, test := range map[string]struct {
		request cove.RunRequest
		want    []string // of each result: exit code, attempts, stdout
	}{
		"all commands run": {cove.RunRequest{Commands: lines("exit 1", "echo 2")}, []string{"1 1 ", "0 1 2\n"}},
		"fail fast":        {cove.RunRequest{Commands: lines("echo 1", "exit 2", "echo 3"), FailFast: true}, []string{"0 1 1\n", "2 1 "}},
		"a directory below": {
			cove.RunRequest{Commands: lines("cat in"), Cwd: "d/e"}, []string{"0 1 deep"},
		},
		"again until it works": {
			cove.RunRequest{Commands: lines("echo x >>tries; test $(wc -l <tries) = 3 && echo ok"), Retry: cove.Retry{Attempts: 5, Backoff: 1}}, []string{"0 3 ok\n"},
		},
		"again as often as asked": {
			cove.RunRequest{Commands: lines("exit 4"), Retry: cove.Retry{Attempts: 3, Backoff: 1}}, []string{"4 3 "},
		},
		"again only after some exit codes": {
			cove.RunRequest{Commands: lines("exit 4", "exit 5"), Retry: cove.Retry{Attempts: 3, Backoff: 1, ExitCodes: []int{5}}}, []string{"4 1 ", "5 3 "},
		},
		"what timed out is not run again": {
			cove.RunRequest{Commands: lines("sleep 60", "echo on"), Timeout: cove.Duration(100 * time.Millisecond), Retry: cove.Retry{Attempts: 3, Backoff: 1}}, []string{"-1 1 ", "0 1 on\n"},
		},
		"bounded output": {
			cove.RunRequest{Commands: lines("printf 1234567890"), MaxOutput: 4}, []string{"0 1 1290"},
		},
		"nothing back": {cove.RunRequest{Commands: lines("echo x >new"), Return: cove.ReturnNone}, []string{"0 1 "}},
	} {
		t.Run(name, func(t *testing.T) {
			test.request.Spec = w.spec()
			test.request.Spec.Workdir = t.TempDir()
			result, err := w.client.Run(t.Context(), test.request, pack(t, map[string]string{"d/e/in": "deep"}))
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, r := range result.Results {
				got = append(got, fmt.Sprintf("%d %d %s", r.ExitCode, r.Attempts, r.Stdout))
			}
			if !slices.Equal(got, test.want) {
				t.Errorf("results %q, want %q", got, test.want)
			}
			if test.request.Return == cove.ReturnNone && len(result.Changes)+len(result.Archive) > 0 {
				t.Errorf("changes came back: %v", result.Changes)
			}
			w.none()
		})
	}
}

func TestARunOfAWrongRequestIsRefused(t *testing.T) {
	w := newWorld(t, Options{})
	form := func(parts ...string) (string, string) {
		var b bytes.Buffer
		m := multipart.NewWriter(&b)
		for i := 0; i < len(parts); i += 2 {
			if err := m.WriteField(parts[i], parts[i+1]); err != nil {
				t.Fatal(err)
			}
		}
		m.Close()
		return m.FormDataContentType(), b.String()
	}
	plain := func(body string) func() (string, string) {
		return func() (string, string) { return "application/json", body }
	}
	parts := func(parts ...string) func() (string, string) {
		return func() (string, string) { return form(parts...) }
	}
	spec := fmt.Sprintf(`{"user":%q,"workdir":%q}`, user(), t.TempDir())
	const fine = `{"commands":["true"]}`
	for name, test := range map[string]struct {
		body func() (string, string)
		want string
	}{
		"no body":                 {plain(""), "not JSON"},
		"no JSON":                 {plain("{"), "not JSON"},
		"no commands":             {plain(`{}`), "lacks commands"},
		"an empty list":           {plain(`{"commands":[]}`), "commands"},
		"an empty command":        {plain(`{"commands":[""]}`), "commands"},
		"a field that is none":    {plain(`{"commands":["true"],"command":1}`), "command"},
		"a cwd that leads out":    {plain(`{"commands":["true"],"cwd":"../x"}`), "cwd is not below"},
		"an absolute cwd":         {plain(`{"commands":["true"],"cwd":"/etc"}`), "cwd is not below"},
		"too many tries":          {plain(`{"commands":["true"],"retry":{"attempts":11}}`), "retry.attempts"},
		"a pause without an end":  {plain(`{"commands":["true"],"retry":{"backoff":"never"}}`), "retry.backoff"},
		"an archive that is none": {plain(`{"commands":["true"],"archive":"bm8gdGFy","spec":` + spec + `}`), "archive"},
		"a spec that is wrong":    {plain(`{"commands":["true"],"spec":{"user":"no user"}}`), "user"},
		"another type of body":    {func() (string, string) { return "text/plain", fine }, "neither as JSON nor as a form"},
		"a form without request":  {parts("archive", "x"), "no part request"},
		"a part that is none":     {parts("request", fine, "other", "x"), "none of request and archive"},
		"a part twice":            {parts("request", fine, "request", fine), "twice"},
		"a form that breaks off":  {func() (string, string) { kind, body := form("request", fine); return kind, body[:len(body)-10] }, "can't be read"},
		"an empty archive":        {parts("request", fine, "archive", ""), "empty"},
		"an archive by xz":        {parts("request", fine, "archive", "\xfd7zXZ\x00rest"), "xz"},
		"an archive cut off":      {parts("request", fine, "archive", string(gzipped(t, make([]byte, 4096))[:20])), "damaged"},
	} {
		t.Run(name, func(t *testing.T) {
			kind, body := test.body()
			reply, text := w.request(http.MethodPost, "/v1/run", http.Header{"Content-Type": {kind}}, strings.NewReader(body))
			if (reply.StatusCode != http.StatusBadRequest && reply.StatusCode != http.StatusUnprocessableEntity) || !strings.Contains(text, test.want) {
				t.Errorf("status %d, want 400 or 422 with %q: %s", reply.StatusCode, test.want, text)
			}
			w.none()
		})
	}
}

func TestT37T56HostileArchivesAreRefusedByARun(t *testing.T) {
	w := newWorld(t, Options{})
	hostile := func(headers ...tar.Header) io.Reader {
		var b bytes.Buffer
		archive := tar.NewWriter(&b)
		for _, h := range headers {
			if err := archive.WriteHeader(&h); err != nil {
				t.Fatal(err)
			}
		}
		if err := archive.Close(); err != nil {
			t.Fatal(err)
		}
		return &b
	}
	// A stream of gzip may have many parts, so that the same MiB is packed once alone.
	packed := func(write func(io.Writer)) []byte {
		var b bytes.Buffer
		w := gzip.NewWriter(&b)
		write(w)
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		return b.Bytes()
	}
	header := packed(func(w io.Writer) {
		_ = tar.NewWriter(w).WriteHeader(&tar.Header{Name: "bomb", Typeflag: tar.TypeReg, Size: 8 << 40, Format: tar.FormatGNU})
	})
	zeros := packed(func(w io.Writer) { _, _ = w.Write(make([]byte, 1<<20)) })
	bomb := io.MultiReader(bytes.NewReader(header), bytes.NewReader(bytes.Repeat(zeros, 1100))) // of MiB; the limit is 1 GiB
	for name, test := range map[string]struct {
		archive io.Reader
		want    cove.Code
	}{
		"a name that leads up": {hostile(tar.Header{Name: "../escape", Typeflag: tar.TypeReg}), cove.Invalid},
		"an absolute name":     {hostile(tar.Header{Name: "/escape", Typeflag: tar.TypeReg}), cove.Invalid},
		"through a symlink": {hostile(tar.Header{Name: "l", Linkname: "/tmp", Typeflag: tar.TypeSymlink},
			tar.Header{Name: "l/escape", Typeflag: tar.TypeReg}), cove.Invalid},
		"a hard link outside":      {hostile(tar.Header{Name: "h", Linkname: "../../etc/passwd", Typeflag: tar.TypeLink}), cove.Invalid},
		"a device":                 {hostile(tar.Header{Name: "dev", Typeflag: tar.TypeChar}), cove.Invalid},
		"a pipe":                   {hostile(tar.Header{Name: "fifo", Typeflag: tar.TypeFifo}), cove.Invalid},
		"a bomb":                   {bomb, cove.TooLarge},
		"what is neither":          {strings.NewReader(strings.Repeat("x", 4096)), cove.Invalid},
		"a stream that breaks off": {bytes.NewReader(pack(t, map[string]string{"a": strings.Repeat("x", 9000)}).Bytes()[:2000]), cove.Invalid},
	} {
		t.Run(name, func(t *testing.T) {
			spec := w.spec()
			_, err := w.client.Run(t.Context(), cove.RunRequest{Spec: spec, Commands: lines("true")}, test.archive)
			if cove.CodeOf(err) != test.want {
				t.Errorf("got %v, want %s", err, test.want)
			}
			if _, err := os.Lstat("/tmp/escape"); err == nil {
				t.Error("a file was written through a symlink")
			}
			if _, err := os.Lstat(filepath.Join(filepath.Dir(spec.Workdir), "escape")); err == nil {
				t.Error("a file was written outside")
			}
			w.none()
		})
	}
}

func TestARunThatIsCutOffLeavesNothing(t *testing.T) {
	w := newWorld(t, Options{})
	spec := w.spec()
	begun := filepath.Join(spec.Workdir, "begun")
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		_, err := w.client.Run(ctx, cove.RunRequest{Spec: spec, Commands: lines("echo >begun; sleep 600")}, nil)
		ended <- err
	}()
	eventually(t, "the command begins", func() bool { _, err := os.Stat(begun); return err == nil })
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("the run ended with %v", err)
	}
	eventually(t, "the sandbox is gone", func() bool { return w.host.Len() == 0 })
}

func TestAProjectOf5000FilesGoesInAndOut(t *testing.T) {
	const files = 5000
	w := newWorld(t, Options{})
	in, out := t.TempDir(), t.TempDir()
	for i := range files {
		write(t, filepath.Join(in, "d"+strconv.Itoa(i%50), "f"+strconv.Itoa(i)), fmt.Sprintf("file %d\n", i))
	}
	result, err := w.client.RunFiles(t.Context(), cove.RunRequest{
		Spec:     w.spec(),
		Commands: lines("find . -type f | wc -l", "for f in d*/*; do echo more >>$f; done", "rm d7/*; rmdir d7; mkdir -p .n; echo new >.n/x; mv d8/f8 d8/moved"),
	}, in, out)
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.TrimSpace(result.Results[0].Stdout); got != strconv.Itoa(files) {
		t.Errorf("%s files went in", got)
	}
	kinds := map[cove.ChangeKind]int{}
	for _, c := range result.Changes {
		kinds[c.Kind]++
	}
	if want := map[cove.ChangeKind]int{cove.ChangeModified: 4899, cove.ChangeDeleted: 102, cove.ChangeAdded: 3}; !maps.Equal(kinds, want) {
		t.Errorf("changes %v, want %v", kinds, want)
	}
	if got, err := os.ReadFile(filepath.Join(out, "d9/f4959")); string(got) != "file 4959\nmore\n" {
		t.Errorf("a file came out as %q, %v", got, err)
	}
	// The same in the place of what went in.
	if _, err := w.client.RunFiles(t.Context(), cove.RunRequest{
		Spec: w.spec(), Commands: lines("rm -r d7; rm d8/f8; mkdir d8/f8; echo x >d8/f8/x; rm -r d10; echo file >d10"),
	}, in, in); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"d7": "", "d8/f8/x": "x\n", "d10": "file\n", "d9/f9": "file 9\n"} {
		got, err := os.ReadFile(filepath.Join(in, name))
		if string(got) != want || (err == nil) != (want != "") {
			t.Errorf("%s is %q, %v; want %q", name, got, err, want)
		}
	}
	w.none()
}

func TestT38ARunBeyondWhatTheHostMayHaveIsRefused(t *testing.T) {
	w := newWorld(t, Options{})
	w.server.runs = run.New(run.Options{Host: w.host, Most: 1})
	begun, err := w.server.runs.Begin()
	if err != nil {
		t.Fatal(err)
	}
	body := `{"commands":["true"],"spec":` + fmt.Sprintf(`{"user":%q,"workdir":%q}}`, user(), t.TempDir())
	reply, text := w.request(http.MethodPost, "/v1/run", jsonHeader(), strings.NewReader(body))
	if reply.StatusCode != http.StatusTooManyRequests || reply.Header.Get("Retry-After") == "" {
		t.Errorf("status %d, Retry-After %q: %s", reply.StatusCode, reply.Header.Get("Retry-After"), text)
	}
	if err := begun.Close(); err != nil {
		t.Fatal(err)
	}
	if reply, text := w.request(http.MethodPost, "/v1/run", jsonHeader(), strings.NewReader(body)); reply.StatusCode != http.StatusOK {
		t.Errorf("after the other run has ended, status %d: %s", reply.StatusCode, text)
	}
	w.none()
}

func TestARunKeepsNothingOnTheHost(t *testing.T) {
	spool := t.TempDir()
	w := newWorld(t, Options{Spool: spool})
	for _, commands := range [][]cove.Command{lines("echo x >new"), lines("mkfifo p; exit 1"), {{Argv: []string{""}}}} {
		_, _ = w.client.Run(t.Context(), cove.RunRequest{Spec: w.spec(), Commands: commands}, pack(t, map[string]string{"a": "x"}))
	}
	left, err := os.ReadDir(spool)
	if err != nil || len(left) > 0 {
		t.Errorf("files are left: %v, %v", left, err)
	}
	open, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range open {
		if at, err := os.Readlink("/proc/self/fd/" + fd.Name()); err == nil && strings.HasPrefix(at, spool) {
			t.Errorf("a file is still open: %s", at)
		}
	}
	w.none()
}
