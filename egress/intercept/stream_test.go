package intercept

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"
)

func finderOf(pairs ...string) *finder {
	var list []pattern
	for i := 0; i < len(pairs); i += 2 {
		list = append(list, pattern{text: pairs[i], with: pairs[i+1], secret: i / 2})
	}
	return newFinder(list)
}

// pieces reads a text in pieces of the sizes that cuts give, over and over.
type pieces struct {
	text string
	cuts []byte
	i    int
}

func (p *pieces) Read(b []byte) (int, error) {
	if p.text == "" {
		return 0, io.EOF
	}
	n := len(p.text)
	if len(p.cuts) > 0 {
		n = min(n, int(p.cuts[p.i%len(p.cuts)])%17) // nothing at all now and then
		p.i++
	}
	n = copy(b, p.text[:n])
	p.text = p.text[n:]
	return n, nil
}

func FuzzStreamIsReplaceAllForAnyPieces(f *testing.F) {
	f.Add("abcdabcdxxabc", "abcd", []byte{1, 2, 3})
	f.Add("aaaaaaaaaaa", "aaaa", []byte{1})
	f.Add("xabababab", "abab", []byte{3, 1})
	f.Add(strings.Repeat("ghp_0123456789", 40), "ghp_0123456789", []byte{16, 7})
	f.Fuzz(func(t *testing.T, text, old string, cuts []byte) {
		if len(old) < minPattern || len(old) > 1000 {
			return
		}
		if !bytes.ContainsFunc(cuts, func(r rune) bool { return r < 0x80 && r%17 != 0 }) {
			cuts = append(cuts, 5)
		}
		with := strings.Repeat("=", len(old))
		s := &stream{src: &pieces{text: text, cuts: cuts}, finder: finderOf(old, with)}
		got, err := io.ReadAll(s)
		if want := strings.ReplaceAll(text, old, with); err != nil || string(got) != want {
			t.Errorf("%q with %q replaced, in pieces of %v = %q (%v), want %q", text, old, cuts, got, err, want)
		}
	})
}

func TestFinderFindsEachOfManyPatternsOfDifferentLengths(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	letters := func(n int) string {
		b := make([]byte, n)
		for i := range b {
			b[i] = 'a' + byte(random.IntN(3))
		}
		return string(b)
	}
	for range 200 {
		var pairs []string
		for range 1 + random.IntN(6) {
			text := letters(8)
			text += letters(random.IntN(40))
			pairs = append(pairs, text, strings.ToUpper(text))
		}
		text := letters(random.IntN(500))
		for range 5 {
			text += pairs[2*random.IntN(len(pairs)/2)] + letters(random.IntN(20))
		}
		got, err := finderOf(pairs...).replace(text, nil)
		want := naive(text, pairs)
		if err != nil || got != want {
			t.Fatalf("replace(%q) of %q = %q (%v), want %q", text, pairs, got, err, want)
		}
	}
}

// naive replaces the first pattern at each place.
func naive(text string, pairs []string) string {
	var b strings.Builder
next:
	for i := 0; i < len(text); {
		for p := 0; p < len(pairs); p += 2 {
			if strings.HasPrefix(text[i:], pairs[p]) {
				b.WriteString(pairs[p+1])
				i += len(pairs[p])
				continue next
			}
		}
		b.WriteByte(text[i])
		i++
	}
	return b.String()
}

// background is the owner of a stream's reads.
type background struct{ sync.WaitGroup }

func (b *background) spawn(f func()) bool {
	b.Go(f)
	return true
}

func TestEndOfAMessageThatOnlyLooksLikeABeginningIsLetGo(t *testing.T) {
	reader, writer := io.Pipe()
	var owner background
	s := &stream{src: reader, finder: finderOf("secret-value", "SECRET-VALUE"), spawn: owner.spawn}
	go writer.Write([]byte("yes")) // and nothing for as long as nobody answers
	got := make([]byte, 3)
	if _, err := io.ReadFull(s, got); err != nil || string(got) != "yes" {
		t.Fatalf("read %q, %v, want yes without more coming", got, err)
	}
	go func() {
		writer.Write([]byte("ecret-value"))
		writer.Close()
	}()
	rest, err := io.ReadAll(s)
	if err != nil || string(rest) != "ECRET-VALUE" {
		t.Errorf("the rest = %q, %v: what followed of the value has to be replaced", rest, err)
	}
	owner.Wait()
}

func TestPlaceholderInPiecesTooFarApartEndsTheBody(t *testing.T) {
	reader, writer := io.Pipe()
	var owner background
	s := &stream{src: reader, finder: finderOf("placeholder!", "secret-value"), spawn: owner.spawn, whole: true}
	go writer.Write([]byte("xpl"))
	got := make([]byte, 3)
	if _, err := io.ReadFull(s, got); err != nil {
		t.Fatal(err)
	}
	go writer.Write([]byte("aceholder!"))
	if rest, err := io.ReadAll(s); !errors.Is(err, errPieces) || len(rest) > 0 {
		t.Errorf("the rest = %q, %v, want %v", rest, err, errPieces)
	}
	reader.Close()
	owner.Wait()
}

func TestMostOfAPatternIsKeptForAsLongAsItTakes(t *testing.T) {
	reader, writer := io.Pipe()
	var owner background
	s := &stream{src: reader, finder: finderOf("secret-value", "SECRET-VALUE"), spawn: owner.spawn}
	go func() {
		writer.Write([]byte("a secret-valu"))
		time.Sleep(3 * pause) // longer than a short beginning is kept
		writer.Write([]byte("e"))
		writer.Close()
	}()
	if got, err := io.ReadAll(s); err != nil || string(got) != "a SECRET-VALUE" {
		t.Errorf("read %q, %v", got, err)
	}
	owner.Wait()
}

func TestStreamHasBoundedMemory(t *testing.T) {
	s := &stream{src: io.LimitReader(zeros{}, 100<<20), finder: finderOf("\x00\x00\x00\x01", "ABCD")}
	n, err := io.Copy(io.Discard, s)
	if err != nil || n != 100<<20 || len(s.buf) > 2*chunk {
		t.Errorf("passed %d bytes (%v) with a buffer of %d", n, err, len(s.buf))
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

func BenchmarkStream(b *testing.B) {
	f := finderOf("ghp_0123456789abcdefghij0123456789abcdef", "ghp_0123456789abcdefghij0123456789abcdeX")
	b.SetBytes(64 << 20)
	for b.Loop() {
		io.Copy(io.Discard, struct{ io.Reader }{&stream{src: io.LimitReader(zeros{}, 64<<20), finder: f}})
	}
}
