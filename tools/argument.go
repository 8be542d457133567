package tools

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/google/jsonschema-go/jsonschema"

	"github.com/covehq/cove"
)

// decode reads the arguments of a call. Models make mistakes: each is answered with what
// would be right.
func decode(arguments json.RawMessage, into any, schema *jsonschema.Schema) error {
	if len(bytes.TrimSpace(arguments)) == 0 {
		arguments = json.RawMessage("{}")
	}
	var given map[string]json.RawMessage
	if err := json.Unmarshal(arguments, &given); err != nil || given == nil {
		return invalid("the arguments are not a JSON object", "send an object with "+parameters(schema))
	}
	for name := range given {
		if schema.Properties[name] == nil {
			return invalid("there is no parameter "+strconv.Quote(cut(name, 100)), "the parameters are "+parameters(schema))
		}
	}
	for _, name := range schema.Required {
		if value, ok := given[name]; !ok || string(value) == "null" {
			return invalid("the parameter "+name+" is missing", "give it: "+schema.Properties[name].Description)
		}
	}
	err := json.Unmarshal(arguments, into)
	var mismatch *json.UnmarshalTypeError
	if errors.As(err, &mismatch) {
		name, _, _ := strings.Cut(mismatch.Field, ".")
		if property := schema.Properties[name]; property != nil {
			return invalid(fmt.Sprintf("the parameter %s is a %s", name, mismatch.Value), "give it as "+property.Type)
		}
	}
	if known := (*cove.Error)(nil); errors.As(err, &known) {
		return known
	}
	if err != nil {
		return invalid(err.Error(), "the parameters are "+parameters(schema))
	}
	return nil
}

func parameters(schema *jsonschema.Schema) string { return strings.Join(schema.PropertyOrder, ", ") }

func invalid(message, hint string) error { return cove.Errorf(cove.Invalid, "", "", message, hint) }

// or returns what a parameter was given, else its default.
func or[T any](given *T, standard T) T {
	if given == nil {
		return standard
	}
	return *given
}

// between checks a number against its bounds.
func between(name string, value, least, most int) error {
	if value < least || value > most {
		return invalid(fmt.Sprintf("%s is %d", name, value), fmt.Sprintf("give a number from %d to %d", least, most))
	}
	return nil
}

// cut shortens text to a number of bytes, and no rune is split.
func cut(text string, most int) string {
	if len(text) <= most {
		return text
	}
	for most > 0 && !utf8.RuneStart(text[most]) {
		most--
	}
	return text[:most] + "…"
}

// fileMode is the permission bits of a file. It reads octal digits as text, and a number
// as programs send it, where 420 is 0644.
type fileMode uint32

// UnmarshalJSON reads a mode.
func (m *fileMode) UnmarshalJSON(data []byte) error {
	var text string
	base := 8
	if json.Unmarshal(data, &text) != nil {
		text, base = string(data), 10
	}
	bits, err := strconv.ParseUint(strings.TrimPrefix(text, "0o"), base, 12)
	if err != nil || bits == 0 || bits > 0o777 {
		return invalid("the mode "+cut(text, 20)+" is none", "give octal digits, as in 0644 or 0755")
	}
	*m = fileMode(bits)
	return nil
}
