package guest_test

import (
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"syscall"
	"testing"
)

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
