package cli

import "strings"

// place is one side of cp: a path in a sandbox, or one of this machine.
type place struct {
	sandbox string // "": this machine
	path    string
}

// parsePlace reads ID:PATH or PATH. As for rsync and scp, a colon after a slash, or after
// a leading dot, belongs to a path of this machine.
func parsePlace(text string) (place, error) {
	id, rest, ok := strings.Cut(text, ":")
	switch {
	case text == "":
		return place{}, usage("a path is empty", "write - for standard input or output")
	case !ok || strings.Contains(id, "/") || strings.HasPrefix(id, "."):
		return place{path: text}, nil
	case id == "":
		return place{}, usage(quote(text)+" names no sandbox", "write ID:/path, or ./"+text+" for a file of this machine")
	case rest == "":
		return place{}, usage(quote(text)+" has no path", "write "+text+". for the working directory of the sandbox")
	}
	return place{sandbox: id, path: rest}, nil
}

// stream reports whether the place is standard input or output.
func (p place) stream() bool { return p.sandbox == "" && p.path == "-" }

// directory reports whether the place is written as a directory that must be there.
func (p place) directory() bool { return strings.HasSuffix(p.path, "/") }
