package image

import (
	"cmp"
	"errors"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"

	"github.com/covehq/cove"
)

// References describes the forms of a reference, for error texts.
const References = "host, rootfs:DIR, rootfs:TAR, a name in a registry such as python:3.12, docker-archive:TAR[:NAME], oci-archive:TAR[:NAME], oci:DIR[:NAME] or docker-daemon:NAME"

// scheme is where a reference leads to.
type scheme string

const (
	fromRegistry      scheme = ""
	fromDockerArchive scheme = "docker-archive"
	fromOCIArchive    scheme = "oci-archive"
	fromLayout        scheme = "oci"
	fromEngine        scheme = "docker-daemon"
)

// reference is a parsed reference to an image that a Store keeps.
type reference struct {
	scheme scheme
	path   string         // of an archive or layout on this machine; real
	inner  string         // the name within that, or the engine's; may be empty in an archive
	name   name.Reference // in a registry
}

// maxReference bounds a reference: a repository has at most 255 bytes, and so has a path
// of use.
const maxReference = 4096

// parseReference reads a reference other than host and rootfs:. The error is cove.Invalid.
func parseReference(text string) (reference, error) {
	if len(text) > maxReference || strings.ContainsRune(text, 0) {
		return reference{}, badReference(text[:min(len(text), 100)], "the reference is too long or has NUL")
	}
	kind, rest, found := strings.Cut(text, ":")
	switch t := scheme(kind); {
	case found && t == fromEngine:
		if _, err := parseName(rest); err != nil && !isDigest(rest) {
			return reference{}, badReference(text, "not the name of an image in an engine")
		}
		return reference{scheme: t, inner: rest}, nil
	case found && (t == fromDockerArchive || t == fromOCIArchive || t == fromLayout && strings.HasPrefix(rest, "/")):
		path, inner, _ := strings.Cut(rest, ":")
		if !filepath.IsAbs(path) {
			return reference{}, badReference(text, "path is not absolute")
		}
		return reference{scheme: t, path: filepath.Clean(path), inner: inner}, nil
	}
	parsed, err := parseName(text)
	if err != nil {
		return reference{}, badReference(text, "not a reference to an image")
	}
	return reference{name: parsed}, nil
}

func badReference(text, problem string) error {
	return cove.Errorf(cove.Invalid, "image", text, problem, "use "+References)
}

// parseName reads a name in a registry as Docker's users write it: without a registry it
// is one of Docker Hub, and without a tag it is the tag latest.
func parseName(text string) (name.Reference, error) {
	parsed, err := name.ParseReference(text, name.WeakValidation)
	if err != nil {
		return nil, err
	}
	if repository := parsed.Context(); !hostPattern.MatchString(repository.RegistryStr()) || !repositoryPattern.MatchString(repository.RepositoryStr()) {
		return nil, errors.New("not a name in a registry")
	}
	return parsed, nil
}

// What the specification of OCI registries allows, which the parser does not insist on.
var (
	hostPattern       = regexp.MustCompile(`^([A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9a-fA-F:]+\])(:[0-9]{1,5})?$`)
	repositoryPattern = regexp.MustCompile(`^[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*$`)
)

func isDigest(text string) bool {
	hex, ok := strings.CutPrefix(text, "sha256:")
	return ok && isHex(hex)
}

func isHex(text string) bool {
	return len(text) == 64 && strings.Trim(text, "0123456789abcdef") == ""
}

// String returns the reference in one form for all ways to write it, as short as people
// write it.
func (r reference) String() string {
	switch r.scheme {
	case fromRegistry:
		full := r.name.Name()
		if rest, ok := strings.CutPrefix(full, name.DefaultRegistry+"/"); ok {
			return strings.TrimPrefix(rest, "library/")
		}
		return full
	case fromEngine:
		return string(r.scheme) + ":" + r.inner
	}
	if r.inner == "" {
		return string(r.scheme) + ":" + r.path
	}
	return string(r.scheme) + ":" + r.path + ":" + r.inner
}

// pinned returns the digest that the reference itself names, or "".
func (r reference) pinned() string {
	if digest, ok := r.name.(name.Digest); ok {
		return digest.DigestStr()
	}
	return ""
}

// origins returns the repositories that may have the image, the best first: those of the
// mirrors of its registry, then its own.
func (r reference) origins(mirrors map[string][]string) ([]name.Repository, error) {
	own := r.name.Context()
	host := own.RegistryStr()
	configured := mirrors[host]
	if host == name.DefaultRegistry {
		configured = slices.Concat(configured, mirrors["docker.io"])
	}
	var list []name.Repository
	for _, mirror := range configured {
		repository, err := name.NewRepository(strings.TrimSuffix(mirror, "/") + "/" + own.RepositoryStr())
		if err != nil {
			return nil, cove.Errorf(cove.Invalid, "image", mirror, "not the address of a mirror", "write the mirrors of "+host+" as HOST[:PORT][/PATH]")
		}
		list = append(list, repository)
	}
	return append(list, own), nil
}

// identifier is the reference's tag or digest.
func (r reference) identifier() string { return cmp.Or(r.pinned(), r.name.Identifier()) }
