package sandbox

import (
	"fmt"
	"maps"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/covehq/cove"
)

// The bounds of a spec. The upper ones are far above any use; they keep a mistake or an
// attack from reaching a driver.
const (
	maxCPUs        = 1024
	maxSize        = 64 * cove.TiB
	maxPids        = 4 << 20 // the kernel's PID_MAX_LIMIT on 64 bits
	maxLabels      = 64
	maxLabelKey    = 63
	maxLabelValue  = 255
	maxEnvironment = 64 * cove.KiB
	maxPath        = 4096 // Linux's PATH_MAX
	maxDuration    = cove.Duration(10 * 365 * 24 * time.Hour)
	maxProblems    = 20
)

var (
	namePattern    = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,62}$`)
	runtimePattern = regexp.MustCompile(`^[a-z][a-z0-9-]{0,31}(:[A-Za-z0-9][A-Za-z0-9._-]{0,62})?$`)
	userPattern    = regexp.MustCompile(`^([A-Za-z_][A-Za-z0-9_.-]{0,31}|[0-9]{1,10}(:[0-9]{1,10})?)$`)
)

// problems collects what is wrong with a request and what to do about it.
type problems struct {
	texts cove.Problems
	hints []string
	code  cove.Code
}

// add notes a problem. The error's code is that of the first problem, except that
// cove.Invalid takes precedence, since such a request fails on every host, and after that
// cove.Forbidden, since it would fail with every runtime.
func (p *problems) add(code cove.Code, hint, format string, args ...any) {
	p.texts.Add(fmt.Sprintf(format, args...))
	if hint != "" && !slices.Contains(p.hints, hint) {
		p.hints = append(p.hints, hint)
	}
	if p.code == "" || code == cove.Invalid || code == cove.Forbidden && p.code != cove.Invalid {
		p.code = code
	}
}

// invalid notes a problem that is cove.Invalid.
func (p *problems) invalid(hint, format string, args ...any) {
	p.add(cove.Invalid, hint, format, args...)
}

// err returns nil, or one error that lists the problems.
func (p *problems) err(op string) error {
	texts := p.texts
	if more := len(texts) - maxProblems; more > 0 {
		texts = append(texts[:maxProblems:maxProblems], fmt.Sprintf("and %d more problems", more))
	}
	hints := p.hints[:min(len(p.hints), maxProblems)]
	return texts.Err(p.code, op, strings.Join(hints, "; "))
}

// checkSpec notes what is wrong with a complete spec wherever it may run.
func checkSpec(p *problems, s *cove.Spec) {
	if s.Name != "" && !namePattern.MatchString(s.Name) {
		p.invalid("use a name such as build-7", "name %s is not 1 to 63 of a-z, 0-9 and -, beginning with a letter or digit", quote(s.Name))
	}
	if !runtimePattern.MatchString(s.Runtime) {
		p.invalid("write a runtime as driver or driver:variant, such as gvisor", "runtime %s is not a runtime name", quote(s.Runtime))
	}
	checkImage(p, s)
	checkLimits(p, s.Limits)
	checkNetwork(p, s)
	checkEnv(p, s.Env)
	checkUser(p, s.User)
	const absolute = "use an absolute path, such as /workspace"
	checkText(p, "workdir", s.Workdir, absolute)
	if !strings.HasPrefix(s.Workdir, "/") {
		p.invalid(absolute, "workdir %s is not absolute", quote(s.Workdir))
	}
	checkLabels(p, s.Labels)
	checkLists(p, s)
	checkDuration(p, "timeout", s.Timeout)
	checkDuration(p, "ttl", s.TTL)
	checkDuration(p, "idle", s.Idle)
}

func checkLimits(p *problems, l cove.Limits) {
	const hint = "leave a limit out for its default: 1 cpu, 512MiB memory, 256 pids, 2GiB disk"
	switch {
	case math.IsNaN(l.CPUs) || math.IsInf(l.CPUs, 0):
		p.invalid(hint, "cpus is not a finite number")
	case l.CPUs <= 0:
		p.invalid(hint, "cpus %v is not above 0", l.CPUs)
	case l.CPUs > maxCPUs:
		p.invalid(hint, "cpus %v is above %d", l.CPUs, maxCPUs)
	}
	sizes := []struct {
		name string
		size cove.Bytes
	}{{"memory", l.Memory}, {"disk", l.Disk}}
	for _, limit := range sizes {
		if limit.size <= 0 {
			p.invalid(hint, "%s %v is not above 0", limit.name, limit.size)
		} else if limit.size > maxSize {
			p.invalid(hint, "%s %v is above %v", limit.name, limit.size, maxSize)
		}
	}
	if l.Pids <= 0 {
		p.invalid(hint, "pids %d is not above 0", l.Pids)
	} else if l.Pids > maxPids {
		p.invalid(hint, "pids %d is above %d", l.Pids, maxPids)
	}
}

func checkLabels(p *problems, labels map[string]string) {
	if len(labels) > maxLabels {
		p.invalid(fmt.Sprintf("keep at most %d labels", maxLabels), "%d labels are more than %d", len(labels), maxLabels)
		return
	}
	hint := fmt.Sprintf("keep label keys within %d bytes and values within %d, without control characters", maxLabelKey, maxLabelValue)
	for _, key := range slices.Sorted(maps.Keys(labels)) {
		value := labels[key]
		if key == "" || len(key) > maxLabelKey || !printable(key) {
			p.invalid(hint, "label key %s is empty, too long or has control characters", quote(key))
		}
		if len(value) > maxLabelValue || !printable(value) {
			p.invalid(hint, "value of label %s is too long or has control characters", quote(key))
		}
	}
}

func checkEnv(p *problems, env map[string]string) {
	var size cove.Bytes
	for _, name := range slices.Sorted(maps.Keys(env)) {
		value := env[name]
		size += cove.Bytes(len(name) + len(value) + len("=\x00"))
		if name == "" || strings.ContainsAny(name, "=\x00") || !utf8.ValidString(name) {
			p.invalid("name variables without = and NUL", "variable name %s is empty or has = or NUL", quote(name))
		}
		if strings.ContainsRune(value, 0) || !utf8.ValidString(value) {
			p.invalid("pass bytes that are not text as a file or by standard input", "value of variable %s has NUL or is not UTF-8", quote(name))
		}
	}
	if size > maxEnvironment {
		p.invalid("pass large values as files or by standard input", "the environment has %d bytes, more than %v", size, maxEnvironment)
	}
}

func checkUser(p *problems, user string) {
	const hint = "write a user as a name, a uid or uid:gid, such as 1000:1000"
	if !userPattern.MatchString(user) {
		p.invalid(hint, "user %s is not a user", quote(user))
		return
	}
	for id := range strings.SplitSeq(user, ":") {
		// The last two ids mean "no id" to the kernel, in 16 and in 32 bits.
		if n, err := strconv.ParseUint(id, 10, 64); err == nil && n >= math.MaxUint32 {
			p.invalid(hint, "user %s has an id above %d", quote(user), uint32(math.MaxUint32-1))
		}
	}
}

// isRoot reports whether the user or the group is root.
func isRoot(user string) bool {
	for id := range strings.SplitSeq(user, ":") {
		if n, err := strconv.ParseUint(id, 10, 64); id == "root" || err == nil && n == 0 {
			return true
		}
	}
	return false
}

// checkText notes a path or reference that is empty, overlong or unprintable.
func checkText(p *problems, name, value, hint string) {
	switch {
	case value == "":
		p.invalid(hint, "%s is empty", name)
	case len(value) > maxPath:
		p.invalid(hint, "%s is longer than %d bytes", name, maxPath)
	case !printable(value):
		p.invalid(hint, "%s %s has control characters or is not UTF-8", name, quote(value))
	}
}

func checkDuration(p *problems, name string, d cove.Duration) {
	const hint = "write a duration as seconds, 90s, 1h30m or never"
	switch {
	case d == cove.Never:
	case d <= 0:
		p.invalid(hint, "%s %v is not above 0", name, d)
	case d > maxDuration:
		p.invalid(hint, "%s %v is longer than ten years", name, d)
	}
}

// printable reports whether text is UTF-8 without control characters.
func printable(text string) bool {
	return utf8.ValidString(text) && !strings.ContainsFunc(text, unicode.IsControl)
}

// quote shows a caller's text in a message, on one line and not for ever.
func quote(text string) string {
	const most = 64
	if len(text) > most {
		return strconv.Quote(text[:most]) + "…"
	}
	return strconv.Quote(text)
}

// plain makes one short line of what a driver or a guest says.
func plain(text string) string {
	const most = 512
	text = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(text, "\uFFFD"))
	if len(text) > most {
		text = trimRune(text[:most]) + "…"
	}
	return strings.TrimSpace(text)
}

// trimRune cuts off a rune that is not whole at the end of text.
func trimRune(text string) string {
	for i := len(text) - 1; i >= 0 && i >= len(text)-utf8.UTFMax; i-- {
		if utf8.RuneStart(text[i]) {
			if !utf8.FullRuneInString(text[i:]) {
				return text[:i]
			}
			break
		}
	}
	return text
}
