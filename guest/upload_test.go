package guest_test

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"errors"
	"io"
	"mime/multipart"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/covehq/cove"
)

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

type counter struct{ n uint64 }

func (c *counter) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = byte(c.n ^ c.n>>8 ^ c.n>>16)
		c.n++
	}
	return len(p), nil
}
