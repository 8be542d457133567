package cli

import (
	"errors"
	"fmt"
	"math"
	"os"
	"strconv"
	"strings"

	"github.com/covehq/cove"
)

// amount is a flag whose value is more than zero: whoever writes --cpus 0 did not mean
// the default, which is what zero says in a Spec.
type amount[T int | float64 | cove.Bytes | cove.Duration] struct {
	to    *T
	parse func(string) (T, error)
	kind  string
}

// Set implements pflag.Value.
func (a amount[T]) Set(text string) error {
	value, err := a.parse(text)
	if err != nil {
		return err
	}
	if never, ok := any(value).(cove.Duration); value <= 0 && !(ok && never == cove.Never) {
		return fmt.Errorf("%s must be more than 0", quote(text))
	}
	*a.to = value
	return nil
}

// String implements pflag.Value. It is empty for the default, which the daemon knows.
func (a amount[T]) String() string {
	if a.to == nil || *a.to == 0 {
		return ""
	}
	return fmt.Sprint(*a.to)
}

// Type implements pflag.Value.
func (a amount[T]) Type() string { return a.kind }

func bytesFlag(to *cove.Bytes) amount[cove.Bytes] {
	return amount[cove.Bytes]{to: to, parse: cove.ParseBytes, kind: "size"}
}

func durationFlag(to *cove.Duration) amount[cove.Duration] {
	return amount[cove.Duration]{to: to, parse: cove.ParseDuration, kind: "duration"}
}

func cpusFlag(to *float64) amount[float64] {
	return amount[float64]{to: to, kind: "number", parse: func(text string) (float64, error) {
		cpus, err := strconv.ParseFloat(text, 64)
		if err != nil || math.IsNaN(cpus) || math.IsInf(cpus, 0) {
			return 0, fmt.Errorf("%s is not a number of processors, as in 2 or 0.5", quote(text))
		}
		return cpus, nil
	}}
}

func countFlag(to *int) amount[int] {
	return amount[int]{to: to, kind: "count", parse: func(text string) (int, error) {
		count, err := strconv.Atoi(text)
		if err != nil {
			return 0, fmt.Errorf("%s is not a whole number", quote(text))
		}
		return count, nil
	}}
}

// environment is the flag --env, which may be given often.
type environment struct{ to *map[string]string }

// Set implements pflag.Value: KEY=VALUE, or KEY for the value that the caller has. A
// variable that the caller doesn't have is left out.
func (e environment) Set(text string) error {
	key, value, given := strings.Cut(text, "=")
	if key == "" {
		return errors.New("a variable needs a name, as in KEY=VALUE")
	}
	if !given {
		if value, given = os.LookupEnv(key); !given {
			return nil
		}
	}
	put(e.to, key, value)
	return nil
}

// String implements pflag.Value. Values of variables are nobody's business.
func (environment) String() string { return "" }

// Type implements pflag.Value.
func (environment) Type() string { return "KEY=VALUE" }

// labels is the flag --label, which may be given often.
type labels struct{ to *map[string]string }

// Set implements pflag.Value.
func (l labels) Set(text string) error {
	key, value, given := strings.Cut(text, "=")
	if key == "" || !given {
		return fmt.Errorf("%s is not KEY=VALUE", quote(text))
	}
	put(l.to, key, value)
	return nil
}

// String implements pflag.Value.
func (labels) String() string { return "" }

// Type implements pflag.Value.
func (labels) Type() string { return "KEY=VALUE" }

func put(to *map[string]string, key, value string) {
	if *to == nil {
		*to = map[string]string{}
	}
	(*to)[key] = value
}
