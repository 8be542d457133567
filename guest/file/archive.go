package file

import (
	"fmt"
	"io"
	"net/http"

	"github.com/covehq/cove"
	"github.com/covehq/cove/guest/archive"
	"github.com/covehq/cove/guest/wire"
)

// maxPadding is how much is read behind the end of a tar.
const maxPadding = 1 << 20

// Archive answers GET /cove/archive with a tar of a file or of what is in a directory. A
// trailer says whether it is whole.
func (s *Service) Archive(w http.ResponseWriter, r *http.Request) error {
	place, err := s.of(r)
	if err != nil {
		return err
	}
	header := w.Header()
	begun := false
	err = archive.Pack(r.Context(), w, place.Path, s.access(place), func() {
		header.Set("Content-Type", "application/x-tar")
		header.Set("Trailer", wire.ResultTrailer)
		w.WriteHeader(http.StatusOK)
		begun = true
	})
	switch {
	case err == nil:
		header.Set(wire.ResultTrailer, wire.ResultOK)
	case begun:
		failed := Failure(place.Path, err)
		header.Set(wire.ResultTrailer, printable(fmt.Sprintf("%s: %v", cove.CodeOf(failed), failed)))
	default:
		return Failure(place.Path, err)
	}
	return nil
}

// Extract answers PUT /cove/archive by unpacking a tar into a directory.
func (s *Service) Extract(w http.ResponseWriter, r *http.Request) error {
	place, err := s.of(r)
	if err != nil {
		return err
	}
	body, err := decoded(r)
	if err != nil {
		return err
	}
	if err := archive.Unpack(r.Context(), body, place.Path, s.access(place)); err != nil {
		return Failure(place.Path, err)
	}
	// What follows the end of a tar is padding: a client should get to the end of it.
	if _, err := io.CopyN(io.Discard, body, maxPadding); err != nil && err != io.EOF {
		return cutOff(err)
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// access is how archives reach the files at a place.
func (s *Service) access(place Place) archive.Access {
	return archive.Access{
		As:   func(f func() error) error { return s.book.As(place.Account, f) },
		Disk: s.disk,
	}
}

// printable makes a text fit for a header.
func printable(s string) string {
	text := []byte(s)
	for i, c := range text {
		if c < ' ' || c > '~' {
			text[i] = '?'
		}
	}
	return string(text[:min(len(text), 1<<10)])
}
