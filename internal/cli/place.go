package cli

import (
	"path"
	"strings"
)

// place is one side of cp: a path in a sandbox, or one of this machine.
type place struct {
	sandbox string // "": this machine
	path    string
	dir     bool // it was written with a final slash: a directory, or nothing
	inside  bool // it was written with a final /. : what is in it, and not itself
}

// parsePlace reads ID:PATH or PATH. As for rsync and scp, a colon after a slash, or after
// a leading dot, belongs to a path of this machine.
func parsePlace(text string) (place, error) {
	p := place{path: text}
	if id, rest, ok := strings.Cut(text, ":"); ok && !strings.Contains(id, "/") && !strings.HasPrefix(id, ".") {
		if id == "" {
			return p, usage(quote(text)+" names no sandbox", "write ID:/path, or ./"+text+" for a file of this machine")
		}
		p = place{sandbox: id, path: rest}
		if p.path == "" {
			p.path = "." // its working directory
		}
	}
	if p.path == "" {
		return p, usage("a path is empty", "write - for standard input or output")
	}
	p.dir = strings.HasSuffix(p.path, "/")
	p.inside = p.path == "." || strings.HasSuffix(p.path, "/.")
	return p, nil
}

// stream reports whether the place is standard input or output.
func (p place) stream() bool { return p.sandbox == "" && p.path == "-" }

// in returns the place's path inside a sandbox with this working directory.
func (p place) in(workdir string) string {
	if path.IsAbs(p.path) {
		return path.Clean(p.path)
	}
	return path.Join(workdir, p.path)
}
