package cove

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// Limits bounds what a sandbox uses. A zero field means the default.
type Limits struct {
	CPUs   float64 `json:"cpus,omitempty" doc:"processors, in fractions of one; default 1" example:"1"`
	Memory Bytes   `json:"memory,omitempty" doc:"memory without swap, in bytes or with a unit; default 512MiB"`
	Pids   int     `json:"pids,omitempty" doc:"processes and threads inside; default 256" example:"256"`
	Disk   Bytes   `json:"disk,omitempty" doc:"bytes written to the root filesystem, which is discarded; default 2GiB"`
	Shm    Bytes   `json:"shm,omitempty" doc:"size of /dev/shm, within the memory limit; default 64MiB"`
}

// Bytes is a size. It reads "512MiB", "512m", "1.5g" or a plain number, and is written
// to JSON as a number of bytes. Units are powers of 1024, with or without "iB" or "B".
type Bytes int64

// Sizes.
const (
	KiB Bytes = 1 << 10
	MiB Bytes = 1 << 20
	GiB Bytes = 1 << 30
	TiB Bytes = 1 << 40
)

// ParseBytes reads a size.
func ParseBytes(s string) (Bytes, error) {
	text := strings.ToLower(strings.TrimSpace(s))
	digits := strings.TrimRight(text, "abcdefghijklmnopqrstuvwxyz ")
	unit := Bytes(1)
	switch strings.TrimSpace(text[len(digits):]) {
	case "", "b":
	case "k", "kb", "kib":
		unit = KiB
	case "m", "mb", "mib":
		unit = MiB
	case "g", "gb", "gib":
		unit = GiB
	case "t", "tb", "tib":
		unit = TiB
	default:
		return 0, fmt.Errorf("size %q has an unknown unit, use one of k m g t, as in 512m", s)
	}
	number, err := strconv.ParseFloat(digits, 64)
	if err != nil || math.IsNaN(number) || math.IsInf(number, 0) || strings.ContainsAny(digits, "xpe_") {
		return 0, fmt.Errorf("size %q is not a number with an optional unit, as in 512m", s)
	}
	if number < 0 {
		return 0, fmt.Errorf("size %q is negative", s)
	}
	if number*float64(unit) > math.MaxInt64/2 {
		return 0, fmt.Errorf("size %q is too large", s)
	}
	return Bytes(number * float64(unit)), nil
}

// String returns the size in the largest unit that divides it: "512MiB".
func (b Bytes) String() string {
	units := []struct {
		size Bytes
		name string
	}{{TiB, "TiB"}, {GiB, "GiB"}, {MiB, "MiB"}, {KiB, "KiB"}}
	for _, unit := range units {
		if b != 0 && b%unit.size == 0 {
			return strconv.FormatInt(int64(b/unit.size), 10) + unit.name
		}
	}
	return strconv.FormatInt(int64(b), 10)
}

// UnmarshalJSON reads a number of bytes or a string as ParseBytes does.
func (b *Bytes) UnmarshalJSON(data []byte) error {
	text := string(data)
	if len(data) > 0 && data[0] == '"' {
		if err := json.Unmarshal(data, &text); err != nil {
			return err
		}
	} else if text == "null" {
		return nil
	}
	size, err := ParseBytes(text)
	if err != nil {
		return err
	}
	*b = size
	return nil
}

// Set reads a flag's value; with String and Type it is a pflag.Value.
func (b *Bytes) Set(s string) (err error) {
	*b, err = ParseBytes(s)
	return err
}

// Type names the flag's value in help texts.
func (*Bytes) Type() string { return "size" }

// Duration is a span of time in the API. It reads a number of seconds, "90s", "1h30m" or
// "never", and is written to JSON as a number of seconds or "never".
type Duration time.Duration

// Never is the Duration without end.
const Never Duration = math.MinInt64

// ParseDuration reads a duration.
func ParseDuration(s string) (Duration, error) {
	text := strings.ToLower(strings.TrimSpace(s))
	if text == "never" {
		return Never, nil
	}
	if seconds, err := strconv.ParseFloat(text, 64); err == nil {
		if math.IsNaN(seconds) || seconds < 0 || seconds > math.MaxInt64/2/float64(time.Second) {
			return 0, fmt.Errorf("duration %q is out of range", s)
		}
		return Duration(seconds * float64(time.Second)), nil
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		return 0, fmt.Errorf("duration %q is not a number of seconds, a duration as in 90s or 1h30m, or never", s)
	}
	if d < 0 {
		return 0, fmt.Errorf("duration %q is negative", s)
	}
	return Duration(d), nil
}

// String returns the duration as in "1h30m0s", or "never".
func (d Duration) String() string {
	if d == Never {
		return "never"
	}
	return time.Duration(d).String()
}

// MarshalJSON writes seconds or "never".
func (d Duration) MarshalJSON() ([]byte, error) {
	if d == Never {
		return []byte(`"never"`), nil
	}
	return strconv.AppendFloat(nil, time.Duration(d).Seconds(), 'f', -1, 64), nil
}

// UnmarshalJSON reads a number of seconds or a string as ParseDuration does.
func (d *Duration) UnmarshalJSON(data []byte) error {
	text := string(data)
	if len(data) > 0 && data[0] == '"' {
		if err := json.Unmarshal(data, &text); err != nil {
			return err
		}
	} else if text == "null" {
		return nil
	} else if text == "true" || text == "false" {
		return errors.New("duration is not a number of seconds")
	}
	parsed, err := ParseDuration(text)
	if err != nil {
		return err
	}
	*d = parsed
	return nil
}

// Set reads a flag's value; with String and Type it is a pflag.Value.
func (d *Duration) Set(s string) (err error) {
	*d, err = ParseDuration(s)
	return err
}

// Type names the flag's value in help texts.
func (*Duration) Type() string { return "duration" }
