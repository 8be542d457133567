package intercept

import (
	"encoding/base64"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"

	"github.com/covehq/cove"
)

// inPath is a place in which no secret may be.
const inPath cove.SecretPlace = "path"

// usage is the names of the secrets that were put into a request.
type usage struct {
	mu    sync.Mutex
	names []string
}

func (u *usage) add(name string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if !slices.Contains(u.names, name) {
		u.names = append(u.names, name)
	}
}

func (u *usage) list() []string {
	u.mu.Lock()
	defer u.mu.Unlock()
	return slices.Clone(u.names)
}

// putIn replaces the placeholders in the head of a request. Its error is *misplaced.
func (s *secrets) putIn(header http.Header, target *url.URL, used *usage) error {
	if s.out == nil {
		return nil
	}
	if err := s.putInPath(target, used); err != nil {
		return err
	}
	if err := s.putInHeader(header, used); err != nil {
		return err
	}
	query, err := s.putInQuery(target.RawQuery, used)
	target.RawQuery = query
	return err
}

func (s *secrets) admitIn(place cove.SecretPlace, used *usage) func(int) error {
	return func(i int) error { return s.admit(i, place, used) }
}

func (s *secrets) putInPath(target *url.URL, used *usage) error {
	for _, path := range []string{target.Path, target.EscapedPath()} {
		if _, err := s.out.replace(path, s.admitIn(inPath, used)); err != nil {
			return err
		}
	}
	return nil
}

// putInTrailer is putIn for the trailer of a request.
func (s *secrets) putInTrailer(trailer http.Header, used *usage) error {
	if s.out == nil {
		return nil
	}
	return s.putInHeader(trailer, used)
}

func (s *secrets) putInHeader(header http.Header, used *usage) error {
	admit := s.admitIn(cove.SecretInHeader, used)
	for _, values := range header {
		for i, value := range values {
			swapped, err := s.out.replace(value, admit)
			if err == nil && swapped == value {
				swapped, err = s.putInBasic(value, admit)
			}
			if err != nil {
				return err
			}
			values[i] = swapped
		}
	}
	return nil
}

// putInBasic replaces placeholders in Basic credentials, RFC 7617.
func (s *secrets) putInBasic(value string, admit func(int) error) (string, error) {
	scheme, encoded, ok := strings.Cut(value, " ")
	if !ok || !strings.EqualFold(scheme, "basic") {
		return value, nil
	}
	encoded = strings.TrimSpace(encoded)
	for _, encoding := range []*base64.Encoding{base64.StdEncoding, base64.RawStdEncoding, base64.URLEncoding, base64.RawURLEncoding} {
		decoded, err := encoding.DecodeString(encoded)
		if err != nil {
			continue
		}
		swapped, err := s.out.replace(string(decoded), admit)
		if err != nil || swapped == string(decoded) {
			return value, err
		}
		return scheme + " " + encoding.EncodeToString([]byte(swapped)), nil
	}
	return value, nil
}

// putInQuery replaces placeholders in a query, however they are encoded there. What has
// none stays as it was written.
func (s *secrets) putInQuery(query string, used *usage) (string, error) {
	if len(query) < minPattern {
		return query, nil
	}
	admit := s.admitIn(cove.SecretInQuery, used)
	pairs := strings.Split(query, "&")
	for i, pair := range pairs {
		key, value, hasValue := strings.Cut(pair, "=")
		key, err := s.putInTerm(key, admit)
		if err != nil {
			return "", err
		}
		value, err = s.putInTerm(value, admit)
		if err != nil {
			return "", err
		}
		if pairs[i] = key; hasValue {
			pairs[i] = key + "=" + value
		}
	}
	return strings.Join(pairs, "&"), nil
}

func (s *secrets) putInTerm(term string, admit func(int) error) (string, error) {
	decoded, err := url.QueryUnescape(term)
	if err != nil {
		decoded = term // no encoding then, and read by servers in ways of their own
	}
	swapped, err := s.out.replace(decoded, admit)
	if err != nil {
		return "", err
	}
	if swapped == decoded {
		return term, nil
	}
	return url.QueryEscape(swapped), nil
}

// takeOut puts placeholders back in place of values, in the header or trailer of a reply.
func (s *secrets) takeOut(header http.Header) {
	if s.back == nil {
		return
	}
	for _, values := range header {
		for i, value := range values {
			values[i], _ = s.back.replace(value, nil)
		}
	}
}
