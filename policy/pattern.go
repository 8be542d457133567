package policy

import (
	"slices"
	"strings"

	"github.com/covehq/cove"
)

// matchAny reports whether one of the patterns matches all of text. In a pattern, * stands
// for any characters but a slash, and ** for any.
func matchAny(patterns []string, text string) bool {
	for _, pattern := range patterns {
		if match(pattern, text) {
			return true
		}
	}
	return false
}

func match(pattern, text string) bool {
	literal, rest, star := strings.Cut(pattern, "*")
	if !strings.HasPrefix(text, literal) {
		return false
	}
	text = text[len(literal):]
	if !star {
		return text == ""
	}
	rest, deep := strings.CutPrefix(rest, "*")
	if rest == "" {
		return deep || !strings.Contains(text, "/")
	}
	for i := 0; i <= len(text); i++ {
		if match(rest, text[i:]) {
			return true
		}
		if i < len(text) && text[i] == '/' && !deep {
			return false
		}
	}
	return false
}

// maxStars bounds what a pattern may cost.
const maxStars = 4

// schemes are how images begin that are no names in a registry.
var schemes = []string{"rootfs", "docker-archive", "oci-archive", "oci", "docker-daemon"}

// fullImage writes the name of an image in a registry in full, as Docker's users leave out
// its registry and its tag: a list of images means the same image however it is written.
// Other images, and patterns that begin with a star, stay as they are.
func fullImage(image string) string {
	scheme, _, _ := strings.Cut(image, ":")
	if image == "" || image == cove.DefaultImage || image[0] == '*' || slices.Contains(schemes, scheme) {
		return image
	}
	last := strings.LastIndex(image, "/") + 1
	name, suffix := image, ""
	if i := strings.IndexAny(image[last:], ":@"); i >= 0 {
		name, suffix = image[:last+i], image[last+i:]
	}
	registry, repository, found := strings.Cut(name, "/")
	if !found || registry != "localhost" && !strings.ContainsAny(registry, ".:*") {
		registry, repository = "docker.io", name
	}
	if registry == "index.docker.io" {
		registry = "docker.io"
	}
	if registry == "docker.io" && !strings.Contains(repository, "/") && repository != "**" {
		repository = "library/" + repository
	}
	if suffix == "" && !strings.HasSuffix(repository, "*") {
		suffix = ":latest"
	}
	return registry + "/" + repository + suffix
}
