package file

import (
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"mime"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/covehq/cove"
	wire "github.com/covehq/cove/guest/wire/gen/filesystem"
)

// maxParts bounds how many files one multipart upload brings.
const maxParts = 1000

// uploaded is a file in the reply to an upload: what E2B's agent says of it, and what
// cove.FileInfo has beside.
type uploaded struct {
	Path       string            `json:"path"`
	Name       string            `json:"name"`
	Type       string            `json:"type"`
	Metadata   map[string]string `json:"metadata,omitempty"`
	Size       int64             `json:"size"`
	Mode       uint32            `json:"mode"`
	Owner      string            `json:"owner"`
	Group      string            `json:"group"`
	ModifiedAt time.Time         `json:"modified_at"`
}

// Upload answers POST /files by writing files: one from a body of bytes, or all parts
// named "file" of a multipart body, each to the path that its file name is unless the
// query has one.
func (s *Service) Upload(w http.ResponseWriter, r *http.Request) error {
	draft, err := s.draftOf(r)
	if err != nil {
		return err
	}
	body, err := decoded(r)
	if err != nil {
		return err
	}
	var written []*wire.EntryInfo
	kind, parameters, _ := mime.ParseMediaType(r.Header.Get("Content-Type"))
	switch {
	case kind == "multipart/form-data":
		written, err = s.writeParts(r, draft, body, parameters["boundary"])
	case r.URL.Query().Get("path") == "":
		err = cove.Errorf(cove.Invalid, "", "", "the request has no path", "add ?path=")
	default:
		var entry *wire.EntryInfo
		if entry, err = s.write(draft, body); err == nil {
			written = append(written, entry)
		}
	}
	if err != nil {
		return err
	}
	reply := []uploaded{}
	for _, e := range written {
		reply = append(reply, uploaded{
			Path: e.Path, Name: e.Name, Type: "file", Metadata: e.Metadata, Size: e.Size, Mode: e.Mode,
			Owner: e.Owner, Group: e.Group, ModifiedAt: e.ModifiedTime.AsTime(),
		})
	}
	text, err := json.Marshal(reply)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/json")
	_, err = w.Write(text)
	return err
}

// draftOf reads what a request says of the file to be written.
func (s *Service) draftOf(r *http.Request) (draft, error) {
	place, err := s.of(r)
	if err != nil {
		return draft{}, err
	}
	d := draft{place: place}
	if text := r.URL.Query().Get("mode"); text != "" {
		mode, err := strconv.ParseUint(text, 8, 12)
		if err != nil {
			return draft{}, cove.Errorf(cove.Invalid, "", "", fmt.Sprintf("mode %q is not one", text), "give it in octal, as in 644")
		}
		bits := uint32(mode) & 0o777 // no file gets the rights of its owner on who runs it
		d.mode = &bits
	}
	d.metadata, err = metadataOf(r.Header)
	return d, err
}

// metadataOf collects the X-Metadata- headers.
func metadataOf(header http.Header) (map[string]string, error) {
	metadata := map[string]string{}
	total := 0
	for name, values := range header {
		key, ok := strings.CutPrefix(name, "X-Metadata-")
		if !ok || key == "" {
			continue
		}
		key, value := strings.ToLower(key), strings.Join(values, ",")
		total += len(key) + len(value)
		if total > maxMetadata {
			return nil, cove.Errorf(cove.Invalid, "", "", fmt.Sprintf("metadata is longer than %d bytes", maxMetadata), "shorten it")
		}
		if strings.ContainsFunc(key+value, func(c rune) bool { return c < ' ' || c > '~' }) {
			return nil, cove.Errorf(cove.Invalid, "", "", fmt.Sprintf("metadata %q is not printable ASCII", key), "encode it")
		}
		metadata[key] = value
	}
	return metadata, nil
}

// maxMetadata is how many bytes of metadata a file has at most.
const maxMetadata = 4096

// decoded returns a request's body without its content encoding.
func decoded(r *http.Request) (io.Reader, error) {
	switch encoding := strings.ToLower(r.Header.Get("Content-Encoding")); encoding {
	case "", "identity":
		return r.Body, nil
	case "gzip":
		body, err := gzip.NewReader(r.Body)
		if err != nil {
			return nil, &cove.Error{Code: cove.Invalid, Err: fmt.Errorf("the body is not gzip: %w", err), Hint: "compress it, or leave Content-Encoding out"}
		}
		return body, nil
	default:
		return nil, cove.Errorf(cove.Invalid, "", "", fmt.Sprintf("content encoding %q is unknown", encoding), "use gzip or none")
	}
}

// writeParts writes the files of a multipart body.
func (s *Service) writeParts(r *http.Request, d draft, body io.Reader, boundary string) ([]*wire.EntryInfo, error) {
	if boundary == "" {
		return nil, cove.Errorf(cove.Invalid, "", "", "the multipart body has no boundary", "let your HTTP library set Content-Type")
	}
	r.Body = io.NopCloser(body)
	parts, err := r.MultipartReader()
	if err != nil {
		return nil, cove.Errorf(cove.Invalid, "", "", err.Error(), "send multipart/form-data")
	}
	var written []*wire.EntryInfo
	fixed := r.URL.Query().Get("path") != ""
	for {
		part, err := parts.NextPart()
		if err == io.EOF {
			break
		}
		if err != nil {
			return nil, cutOff(err)
		}
		if part.FormName() != "file" {
			continue
		}
		if len(written) == maxParts || fixed && len(written) == 1 {
			return nil, cove.Errorf(cove.Invalid, "", "", "the request brings more files than it may", "send one with a path in the query, or at most "+strconv.Itoa(maxParts))
		}
		if !fixed {
			// FileName would cut directories off, which here are meant.
			_, parameters, err := mime.ParseMediaType(part.Header.Get("Content-Disposition"))
			if err != nil || parameters["filename"] == "" {
				return nil, cove.Errorf(cove.Invalid, "", "", "a part has no file name", "name it by its path")
			}
			if d.place, err = at(d.place.Account, parameters["filename"]); err != nil {
				return nil, err
			}
		}
		entry, err := s.write(d, part)
		if err != nil {
			return nil, err
		}
		written = append(written, entry)
	}
	if len(written) == 0 {
		return nil, cove.Errorf(cove.Invalid, "", "", `the request has no part named "file"`, "add one")
	}
	return slices.Clip(written), nil
}

// cutOff is the error for a body that could not be read to its end.
func cutOff(err error) error {
	return &cove.Error{Code: cove.Invalid, Err: fmt.Errorf("the body is damaged or cut off: %w", err), Hint: "send it again"}
}
