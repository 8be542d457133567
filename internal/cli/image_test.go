package cli

import (
	"bytes"
	"slices"
	"strings"
	"testing"

	"github.com/covehq/cove"
)

func TestCommandOfAnImage(t *testing.T) {
	for name, test := range map[string]struct {
		image *cove.Image
		want  []string
		err   string
	}{
		"both":               {&cove.Image{Config: cove.ImageConfig{Entrypoint: []string{"/entry", "-x"}, Cmd: []string{"serve"}}}, []string{"/entry", "-x", "serve"}, ""},
		"a command alone":    {&cove.Image{Config: cove.ImageConfig{Cmd: []string{"sh"}}}, []string{"sh"}, ""},
		"none":               {&cove.Image{Reference: "app:1"}, nil, "the image app:1 names none"},
		"an empty one":       {&cove.Image{Reference: "app:1", Config: cove.ImageConfig{Cmd: []string{""}}}, nil, "names none"},
		"an escape sequence": {&cove.Image{Reference: "app\x1b[2J"}, nil, "the image app [2J names none"},
		"no image":           {nil, nil, "missing command"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := commandOf(test.image)
			if !slices.Equal(got, test.want) || (err == nil) != (test.err == "") || err != nil && !strings.Contains(err.Error(), test.err) {
				t.Errorf("got %q, %v, want %q, %q", got, err, test.want, test.err)
			}
		})
	}
}

func TestProgressStaysOnOneLine(t *testing.T) {
	var out bytes.Buffer
	line := &progressLine{to: &out, name: strings.Repeat("long/", 50)}
	line.clear()
	if out.Len() != 0 {
		t.Errorf("before anything is shown: got %q, want nothing", out.String())
	}
	line.show(cove.PullProgress{Phase: "pulling", Layers: 3, Complete: 1, Bytes: 5 << 20, Total: 10 << 20})
	line.show(cove.PullProgress{Phase: "done"})
	line.clear()
	shown := out.String()
	if strings.Contains(shown, "\n") || strings.Count(shown, "\r") != 2 || len(shown) > 90 || !strings.HasSuffix(shown, "\r\x1b[K") {
		t.Errorf("got %q, want one line, that is taken back", shown)
	}
	out.Reset()
	line.name = "app:1"
	line.show(cove.PullProgress{Phase: "pulling", Layers: 3, Complete: 1, Bytes: 5 << 20, Total: 1500 << 20})
	if want := "pulling app:1  5.0MiB of 1.5GiB  1 of 3 layers"; !strings.HasSuffix(out.String(), want) {
		t.Errorf("got %q, want %q", out.String(), want)
	}
}

func TestSizesAreShortForPeople(t *testing.T) {
	for size, want := range map[cove.Bytes]string{
		0: "0B", 999: "999B", 1000: "1.0KiB", 5 << 10: "5.0KiB", 50<<10 + 1: "50KiB", 829 << 20: "829MiB", 1023 << 20: "1.0GiB", 3 << 40: "3.0TiB",
	} {
		if got := sizeText(size); got != want {
			t.Errorf("%d: got %s, want %s", size, got, want)
		}
	}
}

func TestMirrorsAreReadInOrder(t *testing.T) {
	var m mirrors
	for _, text := range []string{"docker.io=one:5000  ghcr.io=two/path", "docker.io=three"} {
		if err := m.Set(text); err != nil {
			t.Error(err)
		}
	}
	if got, want := m.String(), "docker.io=one:5000 docker.io=three ghcr.io=two/path"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	for _, text := range []string{"docker.io", "=x", "x=", "docker.io=https://mirror"} {
		if err := m.Set(text); err == nil {
			t.Errorf("%s: got no error", text)
		}
	}
}
