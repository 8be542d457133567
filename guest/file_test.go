package guest_test

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"mime/multipart"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/covehq/cove"
	"github.com/covehq/cove/guest"
	"github.com/covehq/cove/guest/dial"
)

// newFiles starts an agent, and returns ways to it and a directory for files.
func newFiles(t testing.TB) (*dial.Client, dial.Dialer, string) {
	t.Helper()
	d := newAgent(t, guest.Options{})
	return initialized(t, d), d, t.TempDir()
}

func mustWrite(t testing.TB, path, text string) string {
	t.Helper()
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o644)); err != nil {
		t.Fatal(err)
	}
	return path
}

func mustRead(t testing.TB, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func TestDownload(t *testing.T) {
	_, d, dir := newFiles(t)
	long := strings.Repeat("0123456789", 100_000)
	mustWrite(t, dir+"/plain", "0123456789")
	mustWrite(t, dir+"/empty", "")
	mustWrite(t, dir+"/long", long)
	mustWrite(t, dir+"/ü nicode", "u")
	if err := errors.Join(
		os.Symlink("plain", dir+"/link"), os.Symlink("nothing", dir+"/dangling"), os.Symlink("loop", dir+"/loop"),
		syscall.Mkfifo(dir+"/pipe", 0o666), os.WriteFile(dir+"/forbidden", nil, 0o000),
	); err != nil {
		t.Fatal(err)
	}
	for _, version := range []string{"HTTP/1.1", "HTTP/2"} {
		client := httpClient(d, version == "HTTP/2")
		for _, test := range []struct {
			name, path string
			header     http.Header
			method     string
			status     int
			body       string
			want       map[string]string // headers of the reply
		}{
			{name: "a file", path: dir + "/plain", status: 200, body: "0123456789", want: map[string]string{"Content-Length": "10", "Content-Type": "application/octet-stream", "Accept-Ranges": "bytes"}},
			{name: "an empty file has a length", path: dir + "/empty", status: 200, want: map[string]string{"Content-Length": "0"}},
			{name: "an empty file, compressed on request", path: dir + "/empty", header: http.Header{"Accept-Encoding": {"gzip"}}, status: 200, want: map[string]string{"Content-Length": "0", "Content-Encoding": ""}},
			{name: "through a symlink", path: dir + "/link", status: 200, body: "0123456789"},
			{name: "a name beyond ASCII", path: dir + "/ü nicode", status: 200, body: "u"},
			{name: "a range", path: dir + "/plain", header: http.Header{"Range": {"bytes=2-4"}}, status: 206, body: "234", want: map[string]string{"Content-Range": "bytes 2-4/10"}},
			{name: "a suffix", path: dir + "/plain", header: http.Header{"Range": {"bytes=-3"}}, status: 206, body: "789"},
			{name: "a range beyond the end", path: dir + "/plain", header: http.Header{"Range": {"bytes=20-"}}, status: 416, body: "*"},
			{name: "a range is never compressed", path: dir + "/long", header: http.Header{"Range": {"bytes=0-1"}, "Accept-Encoding": {"gzip"}}, status: 206, body: "01", want: map[string]string{"Content-Encoding": ""}},
			{name: "the head alone", path: dir + "/plain", method: http.MethodHead, status: 200, want: map[string]string{"Content-Length": "10"}},
			{name: "a file of the kernel's, which says it is empty", path: "/proc/self/stat", status: 200, body: "*"},
			{name: "a missing file", path: dir + "/missing", status: 404, body: fmt.Sprintf(`{"code":404,"message":"path '%s/missing' does not exist"}`, dir)},
			{name: "a dangling symlink", path: dir + "/dangling", status: 404, body: "*"},
			{name: "a loop", path: dir + "/loop", status: 400, body: "*"},
			{name: "a directory", path: dir, status: 400, body: fmt.Sprintf(`{"code":400,"message":"path '%s' is a directory"}`, dir)},
			{name: "a path through a file", path: dir + "/plain/x", status: 400, body: "*"},
			{name: "a pipe", path: dir + "/pipe", status: 400, body: "*"},
			{name: "an endless device", path: "/dev/zero", status: 400, body: "*"},
			{name: "a zero byte", path: "/\x00", status: 400, body: "*"},
			{name: "a name that is too long", path: "/" + strings.Repeat("x", 300), status: 400, body: "*"},
			{name: "no acceptable encoding", path: dir + "/plain", header: http.Header{"Accept-Encoding": {"br, *;q=0"}}, status: 406, body: "*"},
			{name: "an unknown user", path: dir + "/plain&username=nosuchuser", status: 401, body: "*"},
			{name: "a header that is no user", path: dir + "/plain", header: http.Header{"Authorization": {"Bearer x"}}, status: 401, body: "*"},
		} {
			t.Run(version+"/"+test.name, func(t *testing.T) {
				path, query, _ := strings.Cut(test.path, "&")
				method := http.MethodGet
				if test.method != "" {
					method = test.method
				}
				request, err := http.NewRequestWithContext(t.Context(), method, "http://guest/files?path="+url.QueryEscape(path)+"&"+query, nil)
				if err != nil {
					t.Fatal(err)
				}
				if test.header != nil {
					request.Header = test.header
				}
				response, err := client.Do(request)
				if err != nil {
					t.Fatal(err)
				}
				defer response.Body.Close()
				body, err := io.ReadAll(response.Body)
				if err != nil {
					t.Fatal(err)
				}
				if response.StatusCode != test.status || test.body != "*" && string(body) != test.body {
					t.Errorf("got %d %.200q, want %d %.200q", response.StatusCode, body, test.status, test.body)
				}
				for name, want := range test.want {
					if got := response.Header.Get(name); got != want {
						t.Errorf("got %s %q, want %q", name, got, want)
					}
				}
			})
		}
	}
}

func TestConditions(t *testing.T) {
	c, _, dir := newFiles(t)
	path := mustWrite(t, dir+"/file", "one")
	first, err := c.ReadFile(t.Context(), path, "", nil)
	if err != nil {
		t.Fatal(err)
	}
	_ = first.Body.Close()
	same := http.Header{"If-None-Match": {first.Header.Get("Etag")}}
	again, err := c.ReadFile(t.Context(), path, "", same)
	if err != nil || again.StatusCode != http.StatusNotModified {
		t.Fatalf("the same file: got %v, %v; want 304", again, err)
	}
	_ = again.Body.Close()
	mustWrite(t, path, "other")
	changed, err := c.ReadFile(t.Context(), path, "", same)
	if err != nil || changed.StatusCode != http.StatusOK {
		t.Fatalf("a changed file: got %v, %v; want 200", changed, err)
	}
	_ = changed.Body.Close()
}

func TestCompressedDownload(t *testing.T) {
	_, d, dir := newFiles(t)
	text := strings.Repeat("all work and no play ", 10_000)
	path := mustWrite(t, dir+"/file", text)
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://guest/files?path="+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Accept-Encoding", "deflate, gzip;q=0.8")
	response, err := httpClient(d, false).Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if got := response.Header.Get("Content-Encoding"); got != "gzip" {
		t.Fatalf("got encoding %q", got)
	}
	plain, err := gzip.NewReader(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(plain); err != nil || string(got) != text {
		t.Errorf("got %d bytes, %v; want the file", len(got), err)
	}
}

func TestWriteFile(t *testing.T) {
	c, _, dir := newFiles(t)
	existing := mustWrite(t, dir+"/existing", "old and longer")
	target := mustWrite(t, dir+"/target", "old")
	if err := errors.Join(
		os.Chmod(existing, 0o751), os.Symlink("target", dir+"/link"), os.Symlink("made", dir+"/dangling"),
		os.Mkdir(dir+"/sub", 0o755), os.Symlink("sub", dir+"/sublink"), os.Symlink("../made-above", dir+"/sub/up"),
	); err != nil {
		t.Fatal(err)
	}
	mode := func(m uint32) *uint32 { return &m }
	for _, test := range []struct {
		name, path, text string
		mode             *uint32
		at               string // where the text is then
		perm             os.FileMode
	}{
		{name: "a new file", path: "/new", text: "text", perm: 0o644},
		{name: "a new file with a mode", path: "/script", text: "#!/bin/sh", mode: mode(0o755), perm: 0o755},
		{name: "a mode never gives the rights of the owner", path: "/setuid", text: "x", mode: mode(0o4755), perm: 0o755},
		{name: "an empty file", path: "/empty", perm: 0o644},
		{name: "an existing file keeps its mode", path: "/existing", text: "new", perm: 0o751},
		{name: "an existing file can get another mode", path: "/existing", text: "newer", mode: mode(0o600), perm: 0o600},
		{name: "missing directories are made", path: "/a/b/c", text: "deep", perm: 0o644},
		{name: "through a symlink", path: "/link", text: "new", at: "/target", perm: 0o644},
		{name: "through a dangling symlink", path: "/dangling", text: "new", at: "/made", perm: 0o644},
		{name: "through a symlink to a directory", path: "/sublink/up", text: "new", at: "/made-above", perm: 0o644},
	} {
		t.Run(test.name, func(t *testing.T) {
			info, err := c.WriteFile(t.Context(), dir+test.path, "", strings.NewReader(test.text), test.mode)
			if err != nil {
				t.Fatal(err)
			}
			if info.Path != dir+test.path || info.Name != filepath.Base(test.path) || info.Type != cove.TypeFile {
				t.Errorf("got %+v", info)
			}
			at := dir + test.path
			if test.at != "" {
				at = dir + test.at
			}
			if got := mustRead(t, at); got != test.text {
				t.Errorf("got %q, want %q", got, test.text)
			}
			if st, err := os.Stat(at); err != nil || st.Mode() != test.perm {
				t.Errorf("got mode %v, %v; want %v", st.Mode(), err, test.perm)
			}
		})
	}
	if got := mustRead(t, target); got != "new" {
		t.Errorf("the target of the symlink: got %q", got)
	}
	if info, err := os.Lstat(dir + "/link"); err != nil || info.Mode()&os.ModeSymlink == 0 {
		t.Errorf("the symlink is not one any more: %v, %v", info.Mode(), err)
	}
	if left, _ := filepath.Glob(dir + "/.cove-*"); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestWriteFileThatFails(t *testing.T) {
	c, _, dir := newFiles(t)
	old := mustWrite(t, dir+"/old", "old")
	if err := errors.Join(syscall.Mkfifo(dir+"/pipe", 0o666), os.Symlink("loop", dir+"/loop")); err != nil {
		t.Fatal(err)
	}
	broken := io.MultiReader(strings.NewReader("the beginning"), breaking(func() {
		eventually(t, "the agent has begun to write", func() bool {
			begun, _ := filepath.Glob(dir + "/.cove-*")
			return len(begun) > 0
		})
	}))
	for _, test := range []struct {
		name, path string
		body       io.Reader
		code       cove.Code
	}{
		{"to a directory", dir, strings.NewReader("x"), cove.Invalid},
		{"to a pipe", dir + "/pipe", strings.NewReader("x"), cove.Invalid},
		{"to a device", "/dev/full", strings.NewReader("x"), cove.Invalid},
		{"to a loop of symlinks", dir + "/loop", strings.NewReader("x"), cove.Invalid},
		{"below a file", old + "/x", strings.NewReader("x"), cove.Invalid},
		{"with a zero byte", dir + "/\x00", strings.NewReader("x"), cove.Invalid},
		{"without a path", "", strings.NewReader("x"), cove.Invalid},
		{"by a client that breaks off", old, broken, cove.Unavailable},
		{"by an unknown user", old, strings.NewReader("x"), cove.Invalid},
	} {
		t.Run(test.name, func(t *testing.T) {
			user := ""
			if test.name == "by an unknown user" {
				user = "nosuchuser"
			}
			_, err := c.WriteFile(t.Context(), test.path, user, test.body, nil)
			if !errors.Is(err, test.code) {
				t.Errorf("got %v (%s), want %s", err, cove.CodeOf(err), test.code)
			}
		})
	}
	if got := mustRead(t, old); got != "old" {
		t.Errorf("the old file has become %q", got)
	}
	eventually(t, "nothing is left behind", func() bool {
		left, _ := filepath.Glob(dir + "/.cove-*")
		return len(left) == 0
	})
}

// breaking is a reader that fails, after it has called its function.
type breaking func()

func (b breaking) Read([]byte) (int, error) {
	b()
	return 0, errors.New("the caller's side broke")
}

func TestReadersSeeOldOrNew(t *testing.T) {
	c, _, dir := newFiles(t)
	versions := [2]string{strings.Repeat("a", 300_000), strings.Repeat("b", 500_000)}
	path := mustWrite(t, dir+"/file", versions[0])
	stop := make(chan struct{})
	var reader sync.WaitGroup
	reader.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			data, err := os.ReadFile(path)
			if err != nil || string(data) != versions[0] && string(data) != versions[1] {
				t.Errorf("got a mixture of %d bytes, %v", len(data), err)
				return
			}
		}
	})
	for i := range 40 {
		if _, err := c.WriteFile(t.Context(), path, "", strings.NewReader(versions[i%2]), nil); err != nil {
			t.Fatal(err)
		}
	}
	close(stop)
	reader.Wait()
}

func TestFullDisk(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can mount a small filesystem")
	}
	c, _, dir := newFiles(t)
	if err := syscall.Mount("small", dir, "tmpfs", 0, "size=1m"); err != nil {
		t.Skipf("mount: %v", err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(dir, syscall.MNT_DETACH) })
	path := mustWrite(t, dir+"/file", "old")
	for _, body := range []io.Reader{io.LimitReader(zeros{}, 64<<20), bytes.NewReader(make([]byte, 2<<20))} {
		_, err := c.WriteFile(t.Context(), path, "", body, nil)
		if !errors.Is(err, cove.NoSpace) {
			t.Errorf("got %v (%s), want no space", err, cove.CodeOf(err))
		}
	}
	if got := mustRead(t, path); got != "old" {
		t.Errorf("got %q, want the old file", got)
	}
	if left, _ := filepath.Glob(dir + "/.cove-*"); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestUploads(t *testing.T) {
	_, d, dir := newFiles(t)
	parts := func(names ...string) (string, []byte) {
		var body bytes.Buffer
		w := multipart.NewWriter(&body)
		for _, name := range names {
			part, err := w.CreateFormFile("file", name)
			if err != nil {
				t.Fatal(err)
			}
			_, _ = part.Write([]byte("part " + filepath.Base(name)))
		}
		_ = w.Close()
		return w.FormDataContentType(), body.Bytes()
	}
	zipped := func(body []byte) []byte {
		var buffer bytes.Buffer
		w := gzip.NewWriter(&buffer)
		_, _ = w.Write(body)
		_ = w.Close()
		return buffer.Bytes()
	}
	type upload struct {
		name, query string
		header      http.Header
		body        []byte
		status      int
		reply       string // a part of it
		files       map[string]string
	}
	two, twoBody := parts(dir+"/p1", dir+"/sub/p2")
	one, oneBody := parts("ignored")
	_, cut := parts(dir + "/cut")
	octets := http.Header{"Content-Type": {"application/octet-stream"}}
	with := func(header http.Header, key, value string) http.Header {
		header = header.Clone()
		header.Set(key, value)
		return header
	}
	for _, test := range []upload{
		{name: "bytes", query: "path=" + dir + "/bytes", header: octets, body: []byte("bytes"), status: 200, reply: `"name":"bytes"`, files: map[string]string{"bytes": "bytes"}},
		{name: "compressed bytes", query: "path=" + dir + "/zip", header: with(octets, "Content-Encoding", "gzip"), body: zipped([]byte("zip")), status: 200, reply: `"type":"file"`, files: map[string]string{"zip": "zip"}},
		{name: "bytes without a type", query: "path=" + dir + "/untyped", body: []byte("x"), status: 200, files: map[string]string{"untyped": "x"}},
		{name: "several parts", header: http.Header{"Content-Type": {two}}, body: twoBody, status: 200, reply: `/sub/p2"`, files: map[string]string{"p1": "part p1", "sub/p2": "part p2"}},
		{name: "compressed parts", header: http.Header{"Content-Type": {two}, "Content-Encoding": {"gzip"}}, body: zipped(twoBody), status: 200, files: map[string]string{"p1": "part p1"}},
		{name: "one part to the path of the query", query: "path=" + dir + "/fixed", header: http.Header{"Content-Type": {one}}, body: oneBody, status: 200, files: map[string]string{"fixed": "part ignored"}},
		{name: "several parts to one path", query: "path=" + dir + "/one", header: http.Header{"Content-Type": {two}}, body: twoBody, status: 400},
		{name: "no parts", header: http.Header{"Content-Type": {"multipart/form-data; boundary=x"}}, body: []byte("--x--\r\n"), status: 400},
		{name: "parts without a boundary", header: http.Header{"Content-Type": {"multipart/form-data"}}, body: twoBody, status: 400},
		{name: "parts that are cut off", header: http.Header{"Content-Type": {two}}, body: cut[:len(cut)-30], status: 400},
		{name: "what is not gzip", query: "path=" + dir + "/bad", header: with(octets, "Content-Encoding", "gzip"), body: []byte("plain"), status: 400},
		{name: "gzip that is cut off", query: "path=" + dir + "/bad", header: with(octets, "Content-Encoding", "gzip"), body: zipped(make([]byte, 1000))[:20], status: 400, reply: "cut off"},
		{name: "an unknown encoding", query: "path=" + dir + "/bad", header: with(octets, "Content-Encoding", "br"), body: []byte("x"), status: 400},
		{name: "a mode that is none", query: "mode=abc&path=" + dir + "/bad", header: octets, status: 400},
		{name: "too much metadata", query: "path=" + dir + "/bad", header: with(octets, "X-Metadata-Long", strings.Repeat("x", 5000)), status: 400},
		{name: "metadata beyond ASCII", query: "path=" + dir + "/bad", header: with(octets, "X-Metadata-Name", "\xfc"), status: 400},
	} {
		for _, version := range []string{"HTTP/1.1", "HTTP/2"} {
			t.Run(version+"/"+test.name, func(t *testing.T) {
				request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://guest/files?"+test.query, bytes.NewReader(test.body))
				if err != nil {
					t.Fatal(err)
				}
				if test.header != nil {
					request.Header = test.header.Clone()
				}
				response, err := httpClient(d, version == "HTTP/2").Do(request)
				if err != nil {
					t.Fatal(err)
				}
				defer response.Body.Close()
				reply, _ := io.ReadAll(response.Body)
				if response.StatusCode != test.status || !strings.Contains(string(reply), test.reply) {
					t.Errorf("got %d %s, want %d with %q", response.StatusCode, reply, test.status, test.reply)
				}
				for name, text := range test.files {
					if got := mustRead(t, filepath.Join(dir, name)); got != text {
						t.Errorf("%s: got %q, want %q", name, got, text)
					}
				}
				if _, err := os.Stat(dir + "/bad"); err == nil {
					t.Error("a failed upload left a file")
				}
			})
		}
	}
}

func TestMetadata(t *testing.T) {
	c, d, dir := newFiles(t)
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://guest/files?path="+dir+"/file", strings.NewReader("x"))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("X-Metadata-Origin", "a test")
	response, err := httpClient(d, false).Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if response.StatusCode == http.StatusNotImplemented {
		t.Skip("this filesystem keeps no extended attributes")
	}
	info, err := c.Stat(t.Context(), dir+"/file", "")
	if err != nil || info.Metadata["origin"] != "a test" {
		t.Errorf("got %+v, %v", info.Metadata, err)
	}
}

func TestLargeTransfers(t *testing.T) {
	const size = 48 << 20
	c, _, dir := newFiles(t)
	want := sha256.New()
	body := io.TeeReader(io.LimitReader(&counter{}, size), want)
	info, err := c.WriteFile(t.Context(), dir+"/large", "", body, nil)
	if err != nil || info.Size != size {
		t.Fatalf("got %+v, %v", info, err)
	}
	response, err := c.ReadFile(t.Context(), dir+"/large", "", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	got := sha256.New()
	if n, err := io.Copy(got, response.Body); err != nil || n != size {
		t.Fatalf("got %d bytes, %v", n, err)
	}
	if !bytes.Equal(got.Sum(nil), want.Sum(nil)) {
		t.Error("what was read is not what was written")
	}
}

// counter is an endless stream whose bytes differ from place to place.
type counter struct{ n uint64 }

func (c *counter) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = byte(c.n ^ c.n>>8 ^ c.n>>16)
		c.n++
	}
	return len(p), nil
}

func TestFilesBelongToTheUser(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can act as another user")
	}
	c, _, _ := newFiles(t)
	dir, err := os.MkdirTemp("/tmp", "cove-files-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	mine, secret := dir+"/mine", mustWrite(t, dir+"/secret", "root's")
	shared := mustWrite(t, dir+"/shared", "old")
	if err := errors.Join(
		os.Chmod(dir, 0o755), os.Mkdir(mine, 0o755), os.Chown(mine, 65534, 65534), os.Chmod(secret, 0o600),
		os.Symlink("../secret", mine+"/trap"), os.Symlink("..", mine+"/up"), os.Chmod(shared, 0o666),
		os.WriteFile(mine+"/roots", []byte("root's"), 0o644),
	); err != nil {
		t.Fatal(err)
	}
	const user = "nobody"
	ctx := t.Context()
	write := func(path string) error {
		_, err := c.WriteFile(ctx, path, user, strings.NewReader("by nobody"), nil)
		return err
	}
	if err := write(mine + "/a/b"); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{mine + "/a", mine + "/a/b"} {
		info, err := c.Stat(ctx, path, "")
		if err != nil || info.Owner != "nobody" {
			t.Errorf("%s: got owner %q, %v", path, info.Owner, err)
		}
	}
	if err := write(shared); err != nil { // writable, in a directory that is not
		t.Errorf("a file that everybody may write: %v", err)
	}
	if st, err := os.Stat(shared); err != nil || st.Sys().(*syscall.Stat_t).Uid != 0 || mustRead(t, shared) != "by nobody" {
		t.Errorf("got %v, %v with %q; want root's file with new text", st, err, mustRead(t, shared))
	}
	for name, refused := range map[string]func() error{
		"a trap":                   func() error { return write(mine + "/trap") },
		"a directory of root's":    func() error { return write(dir + "/new") },
		"through a symlink upward": func() error { return write(mine + "/up/new") },
		"root's file in nobody's directory": func() error {
			return write(mine + "/roots")
		},
		"reading a secret": func() error { _, err := c.ReadFile(ctx, mine+"/trap", user, nil); return err },
		"making a directory": func() error {
			_, err := c.MakeDir(ctx, mine+"/up/dir", user)
			return err
		},
		"removing":  func() error { return c.Remove(ctx, secret, user) },
		"moving":    func() error { _, err := c.Move(ctx, secret, mine+"/got", user); return err },
		"archiving": func() error { _, err := c.Archive(ctx, secret, user); return err },
		"extracting": func() error {
			return c.Extract(ctx, dir, user, bytes.NewReader(tarOf(t, entry{name: "new", text: "x"})))
		},
		"watching": func() error {
			if err := os.Mkdir(dir+"/private", 0o700); err != nil {
				return err
			}
			_, err := c.Watch(ctx, dir+"/private", false, user)
			return err
		},
	} {
		t.Run("refuses "+name, func(t *testing.T) {
			if err := refused(); !errors.Is(err, cove.Forbidden) {
				t.Errorf("got %v (%s), want forbidden", err, cove.CodeOf(err))
			}
		})
	}
	if got := mustRead(t, secret); got != "root's" {
		t.Errorf("the secret has become %q", got)
	}
	// The agent's threads are root's again.
	for range 50 {
		if _, err := c.Stat(ctx, secret, ""); err != nil {
			t.Fatal(err)
		}
		if response, err := c.ReadFile(ctx, secret, "", nil); err != nil {
			t.Fatal(err)
		} else {
			_ = response.Body.Close()
		}
	}
}

func TestDirectories(t *testing.T) {
	c, _, dir := newFiles(t)
	ctx := t.Context()
	made, err := c.MakeDir(ctx, dir+"/a/b", "")
	if err != nil || made.Type != cove.TypeDirectory || made.Path != dir+"/a/b" || made.Mode != 0o755 {
		t.Fatalf("making: got %+v, %v", made, err)
	}
	mustWrite(t, dir+"/a/b/file", "12345")
	mustWrite(t, dir+"/a/z", "")
	if err := errors.Join(os.Symlink("b", dir+"/a/link"), os.Symlink("none", dir+"/a/dangling"), os.Symlink("a", dir+"/root"), syscall.Chmod(dir+"/a/z", 0o4711)); err != nil {
		t.Fatal(err)
	}
	names := func(list []cove.FileInfo) string {
		var all []string
		for _, info := range list {
			rel, _ := filepath.Rel(dir, info.Path)
			all = append(all, rel+":"+string(info.Type))
		}
		return strings.Join(all, " ")
	}
	for _, test := range []struct {
		name, path string
		depth      int
		want       string
	}{
		{"one level", "/a", 1, "a/b:directory a/dangling:symlink a/link:symlink a/z:file"},
		{"a depth of 0 is 1", "/a", 0, "a/b:directory a/dangling:symlink a/link:symlink a/z:file"},
		{"two levels, and no symlink followed", "/a", 2, "a/b:directory a/b/file:file a/dangling:symlink a/link:symlink a/z:file"},
		{"a symlink as the root is followed", "/root", 1, "root/b:directory root/dangling:symlink root/link:symlink root/z:file"},
	} {
		t.Run(test.name, func(t *testing.T) {
			list, err := c.ListDir(ctx, dir+test.path, test.depth, "")
			if got := names(list); err != nil || got != test.want {
				t.Errorf("got %s, %v; want %s", got, err, test.want)
			}
		})
	}
	link, err := c.Stat(ctx, dir+"/a/link", "")
	if err != nil || link.Type != cove.TypeSymlink || link.Target != dir+"/a/b" || link.Name != "link" {
		t.Errorf("a symlink: got %+v, %v", link, err)
	}
	dangling, err := c.Stat(ctx, dir+"/a/dangling", "")
	if err != nil || dangling.Type != cove.TypeSymlink || dangling.Target != "none" {
		t.Errorf("a dangling symlink: got %+v, %v", dangling, err)
	}
	file, err := c.Stat(ctx, dir+"/a/z", "")
	if err != nil || file.Mode != 0o4711 || file.Type != cove.TypeFile {
		t.Errorf("a file: got %+v, %v", file, err)
	}
	moved, err := c.Move(ctx, dir+"/a/b/file", dir+"/new/place", "")
	if err != nil || moved.Path != dir+"/new/place" || moved.Size != 5 {
		t.Errorf("moving: got %+v, %v", moved, err)
	}
	if err := errors.Join(c.Remove(ctx, dir+"/a", ""), c.Remove(ctx, dir+"/a", "")); err != nil {
		t.Errorf("removing: %v", err)
	}
	if _, err := os.Lstat(dir + "/a"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("it is not removed: %v", err)
	}
}

func TestFileErrors(t *testing.T) {
	c, _, dir := newFiles(t)
	ctx := t.Context()
	file := mustWrite(t, dir+"/file", "")
	mustWrite(t, dir+"/full/x", "")
	if err := os.Mkdir(dir+"/dir", 0o755); err != nil {
		t.Fatal(err)
	}
	only := func(_ any, err error) error { return err }
	for _, test := range []struct {
		name string
		err  error
		code cove.Code
	}{
		{"stat of nothing", only(c.Stat(ctx, dir+"/none", "")), cove.NotFound},
		{"stat through a file", only(c.Stat(ctx, file+"/x", "")), cove.Invalid},
		{"stat with a zero byte", only(c.Stat(ctx, "a\x00b", "")), cove.Invalid},
		{"stat as an unknown user", only(c.Stat(ctx, file, "nosuchuser")), cove.Invalid},
		{"list of nothing", only(c.ListDir(ctx, dir+"/none", 1, "")), cove.NotFound},
		{"list of a file", only(c.ListDir(ctx, file, 1, "")), cove.Invalid},
		{"make what exists", only(c.MakeDir(ctx, dir+"/dir", "")), cove.Conflict},
		{"make where a file is", only(c.MakeDir(ctx, file, "")), cove.Conflict},
		{"make below a file", only(c.MakeDir(ctx, file+"/x", "")), cove.Invalid},
		{"move nothing", only(c.Move(ctx, dir+"/none", dir+"/to", "")), cove.NotFound},
		{"move over a full directory", only(c.Move(ctx, dir+"/dir", dir+"/full", "")), cove.Conflict},
		{"move into itself", only(c.Move(ctx, dir+"/full", dir+"/full/below", "")), cove.Invalid},
		{"move to a zero byte", only(c.Move(ctx, file, "\x00", "")), cove.Invalid},
		{"stat of what is not UTF-8", only(c.Stat(ctx, "\xff", "")), cove.Invalid},
		{"remove the root", c.Remove(ctx, "/", ""), cove.Invalid},
		{"remove below a file", c.Remove(ctx, file+"/x", ""), cove.Invalid},
		{"watch nothing", only(c.Watch(ctx, dir+"/none", true, "")), cove.NotFound},
		{"watch a file", only(c.Watch(ctx, file, true, "")), cove.Invalid},
		{"read nothing", only(c.ReadFile(ctx, dir+"/none", "", nil)), cove.NotFound},
		{"archive nothing", only(c.Archive(ctx, dir+"/none", "")), cove.NotFound},
		{"archive a device", only(c.Archive(ctx, "/dev/null", "")), cove.Invalid},
		{"extract below a file", c.Extract(ctx, file, "", bytes.NewReader(tarOf(t))), cove.Invalid},
	} {
		t.Run(test.name, func(t *testing.T) {
			var failed *cove.Error
			if !errors.Is(test.err, test.code) || !errors.As(test.err, &failed) || failed.Op == "" {
				t.Errorf("got %v (%s), want %s", test.err, cove.CodeOf(test.err), test.code)
			}
			if cove.HintOf(test.err) == "" {
				t.Errorf("%v has no hint", test.err)
			}
		})
	}
}

func TestPathsAgainstTheHome(t *testing.T) {
	dir := t.TempDir()
	uid := os.Geteuid()
	passwd := mustWrite(t, dir+"/passwd", fmt.Sprintf("me:x:%d:%d::%s/home:/bin/sh\n", uid, os.Getegid(), dir))
	c := dial.New(newAgent(t, guest.Options{Passwd: passwd}))
	mustWrite(t, dir+"/home/file", "")
	for _, path := range []string{"file", "./file", "~/file", "x/../file", dir + "/home/file"} {
		info, err := c.Stat(t.Context(), path, "me")
		if err != nil || info.Path != dir+"/home/file" {
			t.Errorf("%s: got %+v, %v", path, info, err)
		}
	}
	for _, path := range []string{"", "~", "."} {
		if info, err := c.Stat(t.Context(), path, "me"); err != nil || info.Path != dir+"/home" {
			t.Errorf("%q: got %+v, %v", path, info, err)
		}
	}
}
