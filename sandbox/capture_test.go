package sandbox

import (
	"bytes"
	"encoding/base64"
	"math/rand/v2"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/covehq/cove"
)

func TestCaptureKeepsHeadAndTail(t *testing.T) {
	tests := []struct {
		name   string
		limit  int
		pieces []string
		want   string
		lost   bool
	}{
		{"nothing is nothing", 10, nil, "", false},
		{"what fits is whole", 10, []string{"01234", "56789"}, "0123456789", false},
		{"one byte more loses the middle", 10, []string{"0123456789a"}, "01234" + "6789a", true},
		{"in pieces as well", 10, []string{"0123", "4567", "89ab"}, "01234" + "789ab", true},
		{"the odd byte is the head's", 5, []string{"0123456789"}, "012" + "89", true},
		{"a limit of one is a head alone", 1, []string{"0", "1", "2"}, "0", true},
		{"a piece longer than the ring replaces it", 4, []string{"01", "23", "456789"}, "01" + "89", true},
		{"a piece as long as the ring replaces it", 4, []string{"01", "23", "45"}, "01" + "45", true},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			c := capture{limit: test.limit}
			for _, piece := range test.pieces {
				c.write(c.next, []byte(piece))
			}
			if got := c.text(cove.EncodingUTF8); got != test.want || c.lost != test.lost {
				t.Errorf("captured %q (lost: %v), want %q (%v)", got, c.lost, test.want, test.lost)
			}
		})
	}
}

// However a stream is cut into pieces, what is kept is its beginning and its end.
func TestCaptureDoesNotDependOnThePieces(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for range 500 {
		data := make([]byte, random.IntN(300))
		for i := range data {
			data[i] = byte(random.Uint32())
		}
		c := capture{limit: 1 + random.IntN(120)}
		for rest := data; len(rest) > 0; {
			n := 1 + random.IntN(len(rest))
			c.write(c.next, rest[:n])
			rest = rest[n:]
		}
		want := data
		if len(data) > c.limit {
			want = append(bytes.Clone(data[:c.headSize()]), data[len(data)-c.tailSize():]...)
		}
		got, err := base64.StdEncoding.DecodeString(c.text(cove.EncodingBase64))
		if err != nil || !bytes.Equal(got, want) || c.lost != (len(data) > c.limit) {
			t.Fatalf("kept %d of %d bytes with limit %d, lost %v (%v): %x\nwant %x", len(got), len(data), c.limit, c.lost, err, got, want)
		}
	}
}

func TestCaptureHasNoHolesInItsParts(t *testing.T) {
	tests := []struct {
		name  string
		write func(*capture)
		want  string
	}{
		{"the guest dropped bytes in the head", func(c *capture) { c.write(0, []byte("ab")); c.write(100, []byte("cd")) }, "ab" + "cd"},
		{"the guest dropped the beginning", func(c *capture) { c.write(7, []byte("ab")) }, "ab"},
		{
			"the guest dropped bytes in the tail",
			func(c *capture) { c.write(0, []byte("0123456")); c.write(100, []byte("xy")) }, "01234" + "xy",
		},
		{"the guest went back", func(c *capture) { c.write(5, []byte("ab")); c.write(0, []byte("cd")) }, "cd"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			c := capture{limit: 10}
			test.write(&c)
			if got := c.text(cove.EncodingUTF8); got != test.want || !c.lost {
				t.Errorf("captured %q (lost: %v), want %q and lost", got, c.lost, test.want)
			}
		})
	}
}

func TestCapturedTextIsUTF8(t *testing.T) {
	whole := capture{limit: 100}
	whole.write(0, []byte("a\xff\xfeb\xc3"))
	if got := whole.text(cove.EncodingUTF8); got != "a\uFFFDb\uFFFD" {
		t.Errorf("invalid bytes = %q, want them replaced", got)
	}
	// At whatever byte a long text is cut, no rune is split.
	for _, text := range []string{strings.Repeat("é", 50), strings.Repeat("€", 50), strings.Repeat("🙂", 50), strings.Repeat("aé€🙂", 20)} {
		for limit := 1; limit < 40; limit++ {
			c := capture{limit: limit}
			c.write(0, []byte(text))
			got := c.text(cove.EncodingUTF8)
			if !utf8.ValidString(got) || strings.ContainsRune(got, utf8.RuneError) {
				t.Errorf("limit %d of %q… = %q, want whole runes", limit, text[:8], got)
			}
			if len(got) > limit || len(got) < limit-6 {
				t.Errorf("limit %d of %q… keeps %d bytes", limit, text[:8], len(got))
			}
		}
	}
}
