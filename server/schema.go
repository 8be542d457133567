package server

import (
	"reflect"

	"github.com/danielgtaylor/huma/v2"

	"github.com/covehq/cove"
)

// The formats of our types with several spellings.
const (
	formatBytes    = "bytes"
	formatDuration = "seconds-or-duration"
	formatCommand  = "command"
)

// aliasSchemas gives the types of package cove that write their own JSON their schemas.
// That package imports the standard library only, so they can't say so themselves.
func aliasSchemas(registry huma.Registry) {
	registry.RegisterTypeAlias(reflect.TypeFor[cove.Bytes](), reflect.TypeFor[bytesSchema]())
	registry.RegisterTypeAlias(reflect.TypeFor[cove.Duration](), reflect.TypeFor[durationSchema]())
	registry.RegisterTypeAlias(reflect.TypeFor[cove.Command](), reflect.TypeFor[commandSchema]())
}

type bytesSchema struct{}

// Schema is a number or a string that cove.ParseBytes reads.
func (bytesSchema) Schema(huma.Registry) *huma.Schema {
	return &huma.Schema{
		Format: formatBytes,
		OneOf: []*huma.Schema{
			{Type: huma.TypeNumber, Minimum: new(float64), Description: "bytes"},
			{
				Type: huma.TypeString, Description: "with a unit of 1024: k, m, g, t, with or without iB or B",
				Pattern: `^\s*\+?([0-9]+\.?[0-9]*|\.[0-9]+)\s*([bB]|[kKmMgGtT]([iI]?[bB])?)?\s*$`,
			},
		},
		Examples: []any{"512MiB", 536870912},
	}
}

type durationSchema struct{}

// Schema is a number or a string that cove.ParseDuration reads.
func (durationSchema) Schema(huma.Registry) *huma.Schema {
	return &huma.Schema{
		Format: formatDuration,
		OneOf: []*huma.Schema{
			{Type: huma.TypeNumber, Minimum: new(float64), Description: "seconds"},
			{
				Type: huma.TypeString, Description: "seconds, a duration with units h, m, s, ms, us, ns, or never",
				Pattern: `^\s*(\+?[0-9.]+([eE][+-]?[0-9]+)?|\+?([0-9.]+([hHmMsS]|[mM][sS]|[uUnNµμ][sS]))+|[nN][eE][vV][eE][rR])\s*$`,
			},
		},
		Examples: []any{"90s", 90, "never"},
	}
}

type commandSchema struct{}

// Schema is a string or an array of strings.
func (commandSchema) Schema(huma.Registry) *huma.Schema {
	one := 1
	return &huma.Schema{
		Format: formatCommand,
		OneOf: []*huma.Schema{
			{Type: huma.TypeString, MinLength: &one, Description: "a line for the shell /bin/sh"},
			{
				Type: huma.TypeArray, MinItems: &one, Items: &huma.Schema{Type: huma.TypeString},
				Description: "program and arguments, that no shell sees",
			},
		},
		Examples: []any{"ls -l | wc -l", []string{"python3", "-c", "print(6*7)"}},
	}
}
