package intercept

import (
	"net/url"
	"path"
	"slices"
	"strings"
	"unicode/utf8"
)

const (
	// maxPath bounds the paths that rules are matched with; servers take no longer ones.
	maxPath = 8 << 10
	// maxEncoded bounds how often a path may have been encoded.
	maxEncoded = 3
	// encodedSlash stands for a slash that was encoded, in the reading that takes it for a
	// part of a segment. A path that has it otherwise is refused.
	encodedSlash = "\x00"
)

// readings returns what servers may take an encoded path for, the usual reading first:
// decoded, with dots and double slashes resolved. Others leave those alone, or hold an
// encoded slash for a part of its segment, decode twice, take a backslash for a slash, or
// cut parameters from segments. A rule has to mean all of them, or a request could be one
// to the rules and another to the server. It returns false for a path that can't be read.
func readings(escaped string) ([]string, bool) {
	if escaped == "*" { // of OPTIONS
		return []string{"*"}, true
	}
	if escaped == "" {
		escaped = "/"
	}
	if len(escaped) > maxPath || escaped[0] != '/' {
		return nil, false
	}
	decoded, err := url.PathUnescape(escaped)
	if err != nil {
		return nil, false
	}
	list := []string{clean(decoded)}
	add := func(reading string) {
		if !slices.Contains(list, reading) {
			list = append(list, reading)
		}
	}
	literal, err := url.PathUnescape(strings.NewReplacer("%2f", "%00", "%2F", "%00").Replace(escaped))
	if err != nil || strings.Contains(strings.ToLower(escaped), "%00") {
		return nil, false
	}
	add(literal)
	for range maxEncoded {
		if !readable(decoded) {
			return nil, false
		}
		add(clean(decoded))
		add(clean(withoutParameters(strings.ReplaceAll(decoded, `\`, "/"))))
		again, err := url.PathUnescape(decoded)
		if err != nil || again == decoded {
			return list, true // no encoding is left
		}
		decoded = again
	}
	return nil, false
}

// clean resolves dots and double slashes, and keeps a slash at the end.
func clean(decoded string) string {
	cleaned := path.Clean("/" + decoded)
	directory := strings.HasSuffix(decoded, "/") || strings.HasSuffix(decoded, "/.") || strings.HasSuffix(decoded, "/..")
	if directory && cleaned != "/" {
		cleaned += "/"
	}
	return cleaned
}

// withoutParameters cuts ;name=value from each segment, as servers of Java do.
func withoutParameters(decoded string) string {
	if !strings.Contains(decoded, ";") {
		return decoded
	}
	segments := strings.Split(decoded, "/")
	for i, segment := range segments {
		segments[i], _, _ = strings.Cut(segment, ";")
	}
	return strings.Join(segments, "/")
}

// readable says that a decoded path has nothing that servers read in ways of their own.
func readable(decoded string) bool {
	return utf8.ValidString(decoded) && !strings.ContainsFunc(decoded, func(r rune) bool { return r < ' ' || r == 0x7f })
}

// matchGlob says whether a glob means a path: * is any characters within a segment, **
// those of any number of segments. /** at the end means what is before it as well, and /**/
// also means a single slash. The time that it takes is the product of the two lengths.
func matchGlob(glob, reading string) bool {
	if stem, ok := strings.CutSuffix(glob, "/**"); ok && matchGlob(stem, reading) {
		return true
	}
	// at[i] says that what has been read of the glob can mean reading[:i].
	start := strings.IndexByte(glob, '*')
	if start < 0 {
		return glob == reading
	}
	if !strings.HasPrefix(reading, glob[:start]) {
		return false
	}
	at := make([]bool, len(reading)+1)
	at[start] = true
	segmentBegins := start == 0 || glob[start-1] == '/'
	glob = glob[start:]
	for glob != "" {
		literal := glob[0] != '*'
		switch {
		case literal:
			step(at, reading, glob[0])
			segmentBegins, glob = glob[0] == '/', glob[1:]
		case segmentBegins && strings.HasPrefix(glob, "**/"):
			glob = glob[len("**/"):] // nothing, or any segments and a slash
			spreadSegments(at, reading)
		case strings.HasPrefix(glob, "**"):
			glob, segmentBegins = strings.TrimLeft(glob, "*"), false
			spread(at, reading, false)
		default:
			glob, segmentBegins = glob[1:], false
			spread(at, reading, true)
		}
		if literal && !slices.Contains(at, true) {
			return false
		}
	}
	return at[len(reading)]
}

// step moves every place past one byte.
func step(at []bool, reading string, c byte) {
	for i := len(reading); i > 0; i-- {
		at[i] = at[i-1] && reading[i-1] == c
	}
	at[0] = false
}

// spread lets every place move on, within its segment or across.
func spread(at []bool, reading string, within bool) {
	for i := 1; i < len(at); i++ {
		at[i] = at[i] || at[i-1] && (!within || reading[i-1] != '/')
	}
}

// spreadSegments lets every place move on to the beginnings of later segments.
func spreadSegments(at []bool, reading string) {
	reached := at[0]
	for i := 1; i < len(at); i++ {
		was := at[i]
		at[i] = was || reached && reading[i-1] == '/'
		reached = reached || was
	}
}
