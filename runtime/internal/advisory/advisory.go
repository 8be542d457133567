// Package advisory provides what is known to be wrong with versions of the programs that
// isolate. It says what a version number says: a distribution may have mended an older one.
package advisory

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// entry is one vulnerability that lets a sandbox reach its host.
type entry struct {
	program string
	id      string
	what    string
	// fixed are the first versions without it, one for each line of releases, in ascending
	// order. A later line than the last has never had it.
	fixed []string
}

// table has the programs' own advisories, by the release notes that they name as mended.
var table = []entry{
	{"runc", "CVE-2019-5736", "a sandbox can overwrite the runtime program", []string{"1.0.0"}},
	{"runc", "CVE-2021-30465", "a mount can be led out of the sandbox", []string{"1.0.0"}},
	{"runc", "CVE-2024-21626", "a working directory can lead out of the sandbox", []string{"1.1.12"}},
	{"runc", "CVE-2025-31133", "masked paths can be led to files of the host", []string{"1.2.8", "1.3.3", "1.4.0"}},
	{"runc", "CVE-2025-52565", "/dev/console can be led to files of the host", []string{"1.2.8", "1.3.3", "1.4.0"}},
	{"runc", "CVE-2025-52881", "writes to /proc can be led elsewhere", []string{"1.2.8", "1.3.3", "1.4.0"}},
	{"runc", "CVE-2026-41579", "an image's /dev can be led out of the sandbox", []string{"1.3.6", "1.4.3", "1.5.0"}},
	{"containerd", "CVE-2024-25621", "directories of containers are open to local users", []string{"1.7.29", "2.0.7", "2.1.5", "2.2.0"}},
	{"docker", "CVE-2024-41110", "authorization plugins can be passed by", []string{"23.0.15", "25.0.6", "26.1.5", "27.1.1"}},
}

// Of returns a warning for each vulnerability that a program of this version has: "runc",
// "containerd" or "docker". The version may have a prefix and a suffix, as in
// "1.1.5+ds1-1+deb12u1". One that can't be read has no warnings.
func Of(program, version string) []string {
	have, ok := parse(version)
	if !ok {
		return nil
	}
	var warnings []string
	for _, e := range table {
		if e.program == program && e.affects(have) {
			warnings = append(warnings, fmt.Sprintf("%s %s has %s: %s; mended in %s", program, have, e.id, e.what, strings.Join(e.fixed, ", ")))
		}
	}
	return warnings
}

// affects reports whether a version is older than the fix in its own line of releases, or,
// where that line has none, than the first line that has one.
func (e entry) affects(have number) bool {
	for _, text := range e.fixed {
		fixed, _ := parse(text)
		if have.major == fixed.major && have.minor == fixed.minor {
			return have.less(fixed)
		}
		if have.less(fixed) {
			return true
		}
	}
	return false
}

type number struct{ major, minor, patch int }

func (n number) String() string { return fmt.Sprintf("%d.%d.%d", n.major, n.minor, n.patch) }

func (n number) less(other number) bool {
	if n.major != other.major {
		return n.major < other.major
	}
	if n.minor != other.minor {
		return n.minor < other.minor
	}
	return n.patch < other.patch
}

var versionPattern = regexp.MustCompile(`(?:^|[^0-9.])([0-9]{1,4})\.([0-9]{1,4})\.([0-9]{1,4})`)

func parse(version string) (number, bool) {
	match := versionPattern.FindStringSubmatch(version)
	if match == nil {
		return number{}, false
	}
	var n number
	n.major, _ = strconv.Atoi(match[1])
	n.minor, _ = strconv.Atoi(match[2])
	n.patch, _ = strconv.Atoi(match[3])
	return n, true
}
