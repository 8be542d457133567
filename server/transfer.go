package server

import (
	"context"
	"io"
	"net/http"
	"strconv"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"github.com/covehq/cove"
	"github.com/covehq/cove/internal/httpapi"
)

// copyBuffer is how much of a file is moved at once.
const copyBuffer = 256 << 10

func (s *Server) registerTransfers() {
	read := operation("read-file", http.MethodGet, filesPath, tagFiles, "Read a file", "Its bytes; `Range` and the conditional headers work.")
	read = replies(read, http.StatusOK, "The file.", content(httpapi.TypeBytes, binary()))
	read = replies(read, http.StatusPartialContent, "The range that was asked for.", content(httpapi.TypeBytes, binary()))
	read = replies(read, http.StatusNotModified, "Not modified.", nil)
	register(s, read, s.readFile)
	head := operation("head-file", http.MethodHead, filesPath, tagFiles, "Look at a file", "The headers of a GET.")
	register(s, replies(head, http.StatusOK, "The file can be read.", nil), s.readFile)
	register(s, uploads(operation("write-file", http.MethodPut, filesPath, tagFiles, "Write a file",
		"The body is the content, of any length, and is written as it arrives. Parents are made."), httpapi.TypeBytes, "the content"), s.writeFile)
	archive := operation("archive", http.MethodGet, filesPath+"/archive", tagFiles, "Download as a tar",
		"A file under its own name, or what is in a directory with names relative to it. An archive that can't be finished is cut off, not ended.")
	register(s, replies(archive, http.StatusOK, "A tar.", content(httpapi.TypeTar, binary())), s.archive)
	register(s, noContent(uploads(operation("extract", http.MethodPut, filesPath+"/archive", tagFiles, "Upload a tar",
		"It is unpacked below the directory, which is made where it is missing."), httpapi.TypeTar, "a tar")), s.extract)
}

type transferInput struct {
	exchange
	FileTarget
}

// passedUp are the headers of a request for a file that the guest gets, and passedDown
// those of its reply that the caller gets. The content type is not among them: bytes of a
// sandbox must not become a page of this server.
var (
	passedUp   = []string{"Range", "If-Range", "If-Match", "If-None-Match", "If-Modified-Since", "If-Unmodified-Since"}
	passedDown = []string{"Accept-Ranges", "Content-Length", "Content-Range", "Etag", "Last-Modified"}
)

func (s *Server) readFile(ctx context.Context, in *transferInput) (*huma.StreamResponse, error) {
	files, err := s.files(ctx, in.ID)
	if err != nil {
		return nil, err
	}
	header := http.Header{}
	for _, name := range passedUp {
		if values := in.r.Header.Values(name); len(values) > 0 {
			header[name] = values
		}
	}
	reply, err := files.Read(ctx, in.Path, in.User, header)
	if err != nil {
		return nil, err
	}
	return raw(func() {
		defer reply.Body.Close()
		for _, name := range passedDown {
			if values := reply.Header.Values(name); len(values) > 0 {
				in.w.Header()[name] = values
			}
		}
		if in.w.Header().Get("Content-Length") == "" && reply.ContentLength >= 0 {
			in.w.Header().Set("Content-Length", strconv.FormatInt(reply.ContentLength, 10))
		}
		kind := reply.Header.Get("Content-Type")
		if !strings.HasPrefix(kind, "multipart/byteranges;") {
			kind = httpapi.TypeBytes
		}
		s.send(in.w, in.r, reply.StatusCode, kind, reply.Body)
	})
}

// send answers with a body of any length. One that breaks off cuts the connection, so
// that the client can't take a part for the whole.
func (s *Server) send(w http.ResponseWriter, r *http.Request, status int, kind string, body io.Reader) {
	w.Header().Set("Content-Type", kind)
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	if r.Method == http.MethodHead || status == http.StatusNotModified {
		return
	}
	// The structs hide methods with which io.CopyBuffer would go past the buffer.
	_, err := io.CopyBuffer(struct{ io.Writer }{w}, struct{ io.Reader }{body}, make([]byte, copyBuffer))
	if err != nil {
		if out, ok := w.(*response); ok && out.writeErr == nil {
			describe(r.Context(), err) // logs what is ours to know
		}
		panic(http.ErrAbortHandler)
	}
}

type writeInput struct {
	exchange
	FileTarget
	Mode string `query:"mode" pattern:"^0?[0-7]{3}$" patternDescription:"three octal digits" doc:"permission bits; default 0644" example:"0755"`
}

func (s *Server) writeFile(ctx context.Context, in *writeInput) (*fileInfo, error) {
	var mode *uint32
	if in.Mode != "" {
		bits, err := strconv.ParseUint(in.Mode, 8, 32)
		if err != nil {
			return nil, cove.Errorf(cove.Invalid, "write file", in.Path, "mode is not octal", "write it as in 0644")
		}
		mode = new(uint32)
		*mode = uint32(bits)
	}
	files, err := s.files(ctx, in.ID)
	if err != nil {
		return nil, err
	}
	return infoReply(files.Write(ctx, in.Path, in.User, in.r.Body, mode))
}

func (s *Server) archive(ctx context.Context, in *transferInput) (*huma.StreamResponse, error) {
	files, err := s.files(ctx, in.ID)
	if err != nil {
		return nil, err
	}
	archive, err := files.Archive(ctx, in.Path, in.User)
	if err != nil {
		return nil, err
	}
	return raw(func() {
		defer archive.Close()
		s.send(in.w, in.r, http.StatusOK, httpapi.TypeTar, archive)
	})
}

func (s *Server) extract(ctx context.Context, in *transferInput) (*struct{}, error) {
	files, err := s.files(ctx, in.ID)
	if err != nil {
		return nil, err
	}
	return nil, files.Extract(ctx, in.Path, in.User, in.r.Body)
}
