package intercept

import "slices"

// pattern is a text to find, and what stands in its place: of the same length, so that a
// body keeps its length, and bytes that were passed on need not be taken back.
type pattern struct {
	text, with string
	secret     int // index of the secret that it belongs to
}

const (
	// minPattern is the shortest text that is looked for.
	minPattern = 4
	// maxWindow bounds by how much a finder can skip.
	maxWindow = 32
	hashSize  = 1 << 12
)

// finder finds any of its patterns, at the same speed for one or for hundreds: it looks at
// the last two bytes of a window as long as the shortest pattern, which tell how far on the
// next place is at which one can be (Wu and Manber, "A fast algorithm for multi-pattern
// searching", 1994).
type finder struct {
	patterns []pattern
	window   int
	longest  int
	shift    [hashSize]uint8
	ending   map[uint16][]int // patterns whose window ends in two bytes of this hash
	first    [256]bool        // bytes that patterns begin with
}

// newFinder returns nil without patterns, which finds nothing. Patterns that are too short,
// or whose replacement has another length, must not be among them.
func newFinder(patterns []pattern) *finder {
	if len(patterns) == 0 {
		return nil
	}
	f := &finder{patterns: patterns, window: maxWindow, ending: map[uint16][]int{}}
	for _, p := range patterns {
		f.window, f.longest = min(f.window, len(p.text)), max(f.longest, len(p.text))
		f.first[p.text[0]] = true
	}
	for i := range f.shift {
		f.shift[i] = uint8(f.window - 1)
	}
	for i, p := range patterns {
		for end := 1; end < f.window; end++ {
			h := hash(p.text[end-1], p.text[end])
			f.shift[h] = min(f.shift[h], uint8(f.window-1-end))
			if end == f.window-1 {
				f.ending[h] = append(f.ending[h], i)
			}
		}
	}
	return f
}

func hash(a, b byte) uint16 { return (uint16(a)<<5 ^ uint16(b)) & (hashSize - 1) }

// next returns where the first pattern in b begins at or after from, and which it is; -1
// where there is none.
func (f *finder) next(b []byte, from int) (at, which int) {
	for end := from + f.window - 1; end < len(b); {
		h := hash(b[end-1], b[end])
		if skip := int(f.shift[h]); skip > 0 {
			end += skip
			continue
		}
		start := end - f.window + 1
		for _, i := range f.ending[h] {
			if text := f.patterns[i].text; len(text) <= len(b)-start && string(b[start:start+len(text)]) == text {
				return start, i
			}
		}
		end++
	}
	return -1, -1
}

// partial returns where the part of b after from begins that may turn out to be a pattern
// when more comes; len(b) where nothing may.
func (f *finder) partial(b []byte, from int) int {
	for i := max(from, len(b)-f.longest+1); i < len(b); i++ {
		if f.first[b[i]] && slices.ContainsFunc(f.patterns, func(p pattern) bool {
			return len(p.text) > len(b)-i && p.text[:len(b)-i] == string(b[i:])
		}) {
			return i
		}
	}
	return len(b)
}

// replace returns s with every pattern replaced, unless found says otherwise for one; nil
// replaces all of them.
func (f *finder) replace(s string, found func(secret int) error) (string, error) {
	if f == nil || len(s) < f.window {
		return s, nil
	}
	b := []byte(s)
	changed := false
	for from := 0; ; {
		at, which := f.next(b, from)
		if at < 0 {
			break
		}
		p := f.patterns[which]
		if found != nil {
			if err := found(p.secret); err != nil {
				return "", err
			}
		}
		from = at + copy(b[at:], p.with)
		changed = true
	}
	if !changed {
		return s, nil
	}
	return string(b), nil
}
