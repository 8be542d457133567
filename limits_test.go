package cove_test

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/covehq/cove"
)

func TestParseBytes(t *testing.T) {
	tests := []struct {
		name, text string
		want       cove.Bytes
		wrong      string // part of the error
	}{
		{name: "a plain number is bytes", text: "1024", want: 1024},
		{name: "zero is zero", text: "0", want: 0},
		{name: "a unit of one letter is binary", text: "512m", want: 512 * cove.MiB},
		{name: "a unit with B is binary too", text: "2GB", want: 2 * cove.GiB},
		{name: "a unit with iB is binary", text: "3TiB", want: 3 * cove.TiB},
		{name: "B alone is bytes", text: "7b", want: 7},
		{name: "fractions count", text: "1.5g", want: 1536 * cove.MiB},
		{name: "spaces around and between don't matter", text: "  4 KiB ", want: 4 * cove.KiB},
		{name: "letters of any case are units", text: "1gIb", want: cove.GiB},
		{name: "an unknown unit is refused", text: "12x", wrong: "unknown unit"},
		{name: "a unit alone is refused", text: "m", wrong: "not a number"},
		{name: "nothing is refused", text: "", wrong: "not a number"},
		{name: "a negative size is refused", text: "-1m", wrong: "negative"},
		{name: "an exponent is refused", text: "1e3", wrong: "not a number"},
		{name: "hexadecimal is refused", text: "0x10", wrong: "not a number"},
		{name: "not a number is refused", text: "nan", wrong: "unknown unit"},
		{name: "infinity is refused", text: "inf", wrong: "unknown unit"},
		{name: "digits in groups are refused", text: "1_000", wrong: "not a number"},
		{name: "more than 64 bits hold is refused", text: "9999999999t", wrong: "too large"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			got, err := cove.ParseBytes(test.text)
			if test.wrong != "" {
				if err == nil || !strings.Contains(err.Error(), test.wrong) {
					t.Errorf("ParseBytes(%q) = %v, %v, want an error with %q", test.text, got, err, test.wrong)
				}
				return
			}
			if err != nil || got != test.want {
				t.Errorf("ParseBytes(%q) = %d, %v, want %d", test.text, got, err, test.want)
			}
		})
	}
}

func TestBytesStringIsReadBack(t *testing.T) {
	tests := []struct {
		size cove.Bytes
		want string
	}{
		{0, "0"}, {1, "1"}, {1023, "1023"}, {cove.KiB, "1KiB"}, {512 * cove.MiB, "512MiB"},
		{1536 * cove.MiB, "1536MiB"}, {2 * cove.GiB, "2GiB"}, {cove.TiB, "1TiB"},
	}
	for _, test := range tests {
		text := test.size.String()
		if text != test.want {
			t.Errorf("String of %d = %q, want %q", int64(test.size), text, test.want)
		}
		if back, err := cove.ParseBytes(text); err != nil || back != test.size {
			t.Errorf("ParseBytes(%q) = %d, %v, want %d", text, back, err, test.size)
		}
	}
}

func TestParseDuration(t *testing.T) {
	tests := []struct {
		name, text string
		want       cove.Duration
		wrong      string
	}{
		{name: "a number is seconds", text: "90", want: cove.Duration(90 * time.Second)},
		{name: "seconds may have fractions", text: "0.5", want: cove.Duration(500 * time.Millisecond)},
		{name: "units are Go's", text: "1h30m", want: cove.Duration(90 * time.Minute)},
		{name: "never is without end", text: "Never", want: cove.Never},
		{name: "spaces around don't matter", text: " 5s ", want: cove.Duration(5 * time.Second)},
		{name: "a negative number is refused", text: "-1", wrong: "out of range"},
		{name: "a negative duration is refused", text: "-1s", wrong: "negative"},
		{name: "a day is no unit", text: "1d", wrong: "not a number of seconds"},
		{name: "not a number is refused", text: "nan", wrong: "out of range"},
		{name: "infinity is refused", text: "inf", wrong: "out of range"},
		{name: "more than 64 bits hold is refused", text: "1e300", wrong: "out of range"},
		{name: "nothing is refused", text: "", wrong: "not a number of seconds"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			got, err := cove.ParseDuration(test.text)
			if test.wrong != "" {
				if err == nil || !strings.Contains(err.Error(), test.wrong) {
					t.Errorf("ParseDuration(%q) = %v, %v, want an error with %q", test.text, got, err, test.wrong)
				}
				return
			}
			if err != nil || got != test.want {
				t.Errorf("ParseDuration(%q) = %v, %v, want %v", test.text, got, err, test.want)
			}
		})
	}
}

func TestLimitsAndDurationsInJSON(t *testing.T) {
	type document struct {
		Memory cove.Bytes    `json:"memory"`
		TTL    cove.Duration `json:"ttl"`
	}
	tests := []struct {
		name, text string
		want       document
		written    string // how it is written again; "" where reading fails
	}{
		{
			name: "numbers are bytes and seconds",
			text: `{"memory": 1048576, "ttl": 1.5}`,
			want: document{cove.MiB, cove.Duration(1500 * time.Millisecond)}, written: `{"memory":1048576,"ttl":1.5}`,
		},
		{
			name: "strings have units",
			text: `{"memory": "1.5g", "ttl": "2m"}`,
			want: document{1536 * cove.MiB, cove.Duration(2 * time.Minute)}, written: `{"memory":1610612736,"ttl":120}`,
		},
		{name: "never stays a word", text: `{"ttl": "never"}`, want: document{TTL: cove.Never}, written: `{"memory":0,"ttl":"never"}`},
		{name: "null changes nothing", text: `{"memory": null, "ttl": null}`, written: `{"memory":0,"ttl":0}`},
		{name: "a size is no boolean", text: `{"memory": true}`},
		{name: "a duration is no boolean", text: `{"ttl": true}`},
		{name: "a size is no object", text: `{"memory": {}}`},
		{name: "a duration is no array", text: `{"ttl": []}`},
		{name: "a size has a known unit", text: `{"memory": "12x"}`},
		{name: "a duration is not negative", text: `{"ttl": -1}`},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			var got document
			err := json.Unmarshal([]byte(test.text), &got)
			if test.written == "" {
				if err == nil {
					t.Errorf("reading %s = %+v, want an error", test.text, got)
				}
				return
			}
			if err != nil || got != test.want {
				t.Fatalf("reading %s = %+v, %v, want %+v", test.text, got, err, test.want)
			}
			if written, err := json.Marshal(got); err != nil || string(written) != test.written {
				t.Errorf("written = %s, %v, want %s", written, err, test.written)
			}
		})
	}
}

func TestFlagsReadAsJSONDoes(t *testing.T) {
	var size cove.Bytes
	if err := size.Set("64k"); err != nil || size != 64*cove.KiB || size.Type() != "size" {
		t.Errorf("Set = %v, %v (%s), want 64KiB", size, err, size.Type())
	}
	if err := size.Set("64q"); err == nil {
		t.Error("Set of an unknown unit = nil, want an error")
	}
	var d cove.Duration
	if err := d.Set("1m"); err != nil || d.String() != "1m0s" || d.Type() != "duration" {
		t.Errorf("Set = %v, %v (%s), want 1m0s", d, err, d.Type())
	}
	if err := d.Set("soon"); err == nil {
		t.Error("Set of a word = nil, want an error")
	}
	if cove.Never.String() != "never" {
		t.Errorf("String of Never = %q, want never", cove.Never)
	}
}

func FuzzParseBytes(f *testing.F) {
	for _, seed := range []string{"512m", "1.5g", "-1", "9e9", "٣", "1 t"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		size, err := cove.ParseBytes(text)
		if err != nil {
			return
		}
		if size < 0 {
			t.Errorf("ParseBytes(%q) = %d, which is negative", text, size)
		}
		if back, err := cove.ParseBytes(size.String()); err != nil || back != size {
			t.Errorf("ParseBytes(%q) = %d, %v, want %d", size, back, err, size)
		}
	})
}
