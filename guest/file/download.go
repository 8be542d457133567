package file

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/covehq/cove"
	"github.com/covehq/cove/guest/disk"
)

// maxUnsized bounds what is read of a file that says it is empty and is not, as those in
// /proc do.
const maxUnsized = 4 << 20

// of resolves the path of a request, for the user in its query or its header.
func (s *Service) of(r *http.Request) (Place, error) {
	query := r.URL.Query()
	if name := query.Get("username"); name != "" {
		a, err := s.book.Lookup(name)
		if err != nil {
			return Place{}, err
		}
		return at(a, query.Get("path"))
	}
	return At(s.book, r.Header, query.Get("path"))
}

// Download answers GET and HEAD /files with a file. Ranges and conditions count as for any
// file over HTTP.
func (s *Service) Download(w http.ResponseWriter, r *http.Request) error {
	place, err := s.of(r)
	if err != nil {
		return err
	}
	file, info, err := s.open(place)
	if err != nil {
		return err
	}
	defer file.Close()
	content := s.disk.Reader(file)
	if info.Size() == 0 {
		text, err := io.ReadAll(io.LimitReader(content, maxUnsized+1))
		if err != nil {
			return Failure(place.Path, err)
		}
		if len(text) > maxUnsized {
			return cove.Errorf(cove.TooLarge, "", place.Path, fmt.Sprintf("path '%s' has no size and does not end", place.Path), "read it with a command")
		}
		content = bytes.NewReader(text)
	}
	header := w.Header()
	header.Set("Content-Type", "application/octet-stream")
	header.Set("X-Content-Type-Options", "nosniff")
	header.Set("Vary", "Accept-Encoding")
	header.Set("Etag", etag(info))
	encoding, err := encodingOf(r)
	if err != nil {
		return err
	}
	if encoding == "gzip" && info.Size() >= worthCompressing {
		header.Set("Content-Encoding", "gzip")
		header.Set("Etag", strings.TrimSuffix(etag(info), `"`)+`-gzip"`)
		return s.compress(w, r, content)
	}
	http.ServeContent(pieceWriter{w, s.disk}, r, "", info.ModTime(), content)
	return nil
}

// open opens a regular file. It never waits, as for a writer of a pipe.
func (s *Service) open(place Place) (file *os.File, info os.FileInfo, err error) {
	err = s.book.As(place.Account, func() error {
		file, err = os.OpenFile(place.Path, os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
		return err
	})
	if err == nil {
		info, err = file.Stat()
	}
	if err == nil && !info.Mode().IsRegular() {
		err = irregular(place.Path, info.Mode())
	}
	if err != nil {
		if file != nil {
			_ = file.Close()
		}
		if errors.Is(err, syscall.ENXIO) { // a socket
			err = irregular(place.Path, os.ModeSocket)
		}
		return nil, nil, Failure(place.Path, err)
	}
	return file, info, nil
}

func irregular(path string, mode os.FileMode) error {
	if mode.IsDir() {
		return Failure(path, syscall.EISDIR)
	}
	return cove.Errorf(cove.Invalid, "", path, fmt.Sprintf("path '%s' is not a regular file", path), "use a command for pipes, sockets and devices")
}

// etag changes with every change of a file.
func etag(info os.FileInfo) string {
	inode := uint64(0)
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		inode = st.Ino
	}
	return fmt.Sprintf(`"%x-%x-%x"`, info.ModTime().UnixNano(), info.Size(), inode)
}

// worthCompressing is the size of a file from which gzip pays.
const worthCompressing = 1400

// encodingOf chooses between gzip and identity. A part of a file is never compressed.
func encodingOf(r *http.Request) (string, error) {
	weights := map[string]float64{}
	for item := range strings.SplitSeq(strings.Join(r.Header.Values("Accept-Encoding"), ","), ",") {
		name, parameter, _ := strings.Cut(strings.ToLower(strings.TrimSpace(item)), ";")
		weight := 1.0
		if q, ok := strings.CutPrefix(strings.TrimSpace(parameter), "q="); ok {
			weight, _ = strconv.ParseFloat(q, 64)
		}
		weights[strings.TrimSpace(name)] = weight
	}
	weightOf := func(name string, absent float64) float64 {
		if weight, ok := weights[name]; ok {
			return weight
		}
		if weight, ok := weights["*"]; ok {
			return weight
		}
		return absent
	}
	gzipped, plain := weightOf("gzip", 0), weightOf("identity", 0.001)
	switch {
	case gzipped > 0 && gzipped >= plain && r.Header.Get("Range") == "" && r.Method == http.MethodGet:
		return "gzip", nil
	case plain > 0 || r.Header.Get("Range") != "" || gzipped > 0:
		return "identity", nil
	}
	return "", notAcceptable{cove.Errorf(cove.NotSupported, "", "", "no encoding that the request accepts is known here", "accept gzip or identity")}
}

// notAcceptable has a status of its own, which E2B's clients know.
type notAcceptable struct{ error }

// Status returns the HTTP status.
func (notAcceptable) Status() int { return http.StatusNotAcceptable }

// Unwrap returns the error itself.
func (e notAcceptable) Unwrap() error { return e.error }

// compress sends content with gzip.
func (s *Service) compress(w http.ResponseWriter, r *http.Request, content io.Reader) error {
	if r.Header.Get("If-None-Match") == w.Header().Get("Etag") {
		w.WriteHeader(http.StatusNotModified)
		return nil
	}
	compressor, err := gzip.NewWriterLevel(w, gzip.BestSpeed)
	if err != nil {
		return err
	}
	if _, err := s.disk.Copy(compressor, content); err != nil {
		return err
	}
	return compressor.Close()
}

// pieceWriter makes http.ServeContent copy in large pieces.
type pieceWriter struct {
	http.ResponseWriter
	disk *disk.Disk
}

// ReadFrom copies from r.
func (w pieceWriter) ReadFrom(r io.Reader) (int64, error) {
	return w.disk.Copy(w.ResponseWriter, r)
}
