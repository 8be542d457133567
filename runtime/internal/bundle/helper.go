package bundle

import (
	"bytes"
	"strings"
)

// HelperEnv is the whole environment of every helper program: the daemon's own holds
// secrets, and gVisor's gofer keeps what it is given.
var HelperEnv = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}

// longestSaid bounds what is kept of a helper program's words.
const longestSaid = 4 << 10

// Said keeps the first 4 KiB of what a helper program says, and drops the rest. It is the
// program's standard output and standard error at once: package exec has one writer then, so
// that it needs no lock. The zero value is ready.
type Said struct{ text bytes.Buffer }

// Write implements io.Writer.
func (s *Said) Write(p []byte) (int, error) {
	if room := longestSaid - s.text.Len(); room > 0 {
		s.text.Write(p[:min(room, len(p))])
	}
	return len(p), nil
}

// String returns what is kept, without white space around it. It is for when the program has
// ended.
func (s *Said) String() string { return strings.TrimSpace(s.text.String()) }
