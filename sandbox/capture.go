package sandbox

import (
	"encoding/base64"
	"strings"
	"unicode/utf8"

	"github.com/covehq/cove"
)

// capture keeps the beginning and the end of a stream, half of the limit each, however
// long the stream is. It grows with what it keeps.
type capture struct {
	limit  int
	head   []byte
	tail   []byte // a ring once it has tailSize bytes
	oldest int    // where the ring begins
	next   uint64 // the offset that follows what came
	lost   bool   // bytes between head and tail are missing
}

func (c *capture) headSize() int { return c.limit - c.limit/2 }
func (c *capture) tailSize() int { return c.limit / 2 }

// write takes what came at an offset. Where the guest dropped bytes before it, the tail
// begins anew, so that both parts are free of holes.
func (c *capture) write(offset uint64, data []byte) {
	if offset != c.next {
		c.lost = true
		c.tail, c.oldest = c.tail[:0], 0
	}
	c.next = offset + uint64(len(data))
	if !c.lost && len(c.tail) == 0 {
		n := min(c.headSize()-len(c.head), len(data))
		c.head, data = append(c.head, data[:n]...), data[n:]
	}
	if skip := len(data) - c.tailSize(); skip > 0 {
		// None of the ring's bytes and not all of these can stay.
		c.lost = true
		c.tail, c.oldest = c.tail[:0], 0
		data = data[skip:]
	}
	n := min(c.tailSize()-len(c.tail), len(data))
	c.tail, data = append(c.tail, data[:n]...), data[n:]
	c.lost = c.lost || len(data) > 0
	for len(data) > 0 {
		n := copy(c.tail[c.oldest:], data)
		c.oldest, data = (c.oldest+n)%len(c.tail), data[n:]
	}
}

// text returns what was kept. In UTF-8, runes that leaving out bytes has cut are left out
// too, and other invalid bytes are replaced.
func (c *capture) text(encoding cove.Encoding) string {
	var tail strings.Builder
	tail.Grow(len(c.tail))
	tail.Write(c.tail[c.oldest:])
	tail.Write(c.tail[:c.oldest])
	head, end := string(c.head), tail.String()
	if encoding == cove.EncodingBase64 {
		return base64.StdEncoding.EncodeToString([]byte(head + end))
	}
	if c.lost {
		head, end = trimRune(head), trimContinuation(end)
	}
	return strings.ToValidUTF8(head+end, "\uFFFD")
}

// trimContinuation cuts off the rest of a rune at the beginning of text.
func trimContinuation(text string) string {
	for range utf8.UTFMax - 1 {
		if text == "" || utf8.RuneStart(text[0]) {
			break
		}
		text = text[1:]
	}
	return text
}
