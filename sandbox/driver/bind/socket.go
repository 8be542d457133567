package bind

import (
	"bufio"
	"fmt"
	"os"
	"strings"

	"github.com/covehq/cove"
)

// noSocket refuses a directory in which a Unix socket of this machine is bound, as the
// kernel lists them: looking through the directory could take for ever.
func noSocket(source, directory string) error {
	list, err := os.Open("/proc/net/unix")
	if err != nil {
		return fmt.Errorf("list sockets: %w", err)
	}
	defer list.Close()
	lines := bufio.NewScanner(list)
	for lines.Scan() {
		path := socketPath(lines.Text())
		if !strings.HasPrefix(path, "/") || !Beneath(directory, path) {
			continue
		}
		if info, err := os.Lstat(path); err != nil || info.Mode()&os.ModeSocket == 0 {
			continue // its name is gone, and nobody can connect by it any more
		}
		return refuse(cove.Forbidden, source, "the socket "+path+" lies in it, and who sees it can connect",
			"choose a directory without sockets; the operator may allow them for one, with sockets: true")
	}
	return lines.Err()
}

// socketPath returns the last field of a line of /proc/net/unix, which may have spaces:
// Num RefCount Protocol Flags Type St Inode Path.
func socketPath(line string) string {
	for range 7 {
		_, line, _ = strings.Cut(strings.TrimLeft(line, " "), " ")
	}
	return line
}
