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
		// Num RefCount Protocol Flags Type St Inode Path, where a path may have spaces.
		fields := strings.SplitN(strings.Join(strings.Fields(lines.Text()), " "), " ", 8)
		if len(fields) < 8 || !strings.HasPrefix(fields[7], "/") || !Beneath(directory, fields[7]) {
			continue
		}
		if info, err := os.Lstat(fields[7]); err != nil || info.Mode()&os.ModeSocket == 0 {
			continue // its name is gone, and nobody can connect by it any more
		}
		return refuse(cove.Forbidden, source, "the socket "+fields[7]+" lies in it, and who sees it can connect",
			"choose a directory without sockets; the operator may allow them for one, with sockets: true")
	}
	return lines.Err()
}
