package bundle

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/covehq/cove"
	"github.com/covehq/cove/image"
)

// HostsFile writes the sandbox's /etc/hosts into dir, where the spec adds names to it, and
// returns the bind that shows it; nil where it adds none.
func HostsFile(dir string, spec *cove.Spec) ([]image.Bind, error) {
	if len(spec.Hosts) == 0 {
		return nil, nil
	}
	text := strings.Builder{}
	text.WriteString(image.Hosts)
	for _, name := range slices.Sorted(maps.Keys(spec.Hosts)) {
		fmt.Fprintf(&text, "%s\t%s\n", spec.Hosts[name], name)
	}
	path := filepath.Join(dir, "hosts")
	if err := os.WriteFile(path, []byte(text.String()), 0o644); err != nil {
		return nil, err
	}
	return []image.Bind{{Source: path, Target: "/etc/hosts"}}, os.Chmod(path, 0o644) // past the umask
}
