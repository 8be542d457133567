package tools

import (
	"encoding/json"
	"slices"

	"github.com/google/jsonschema-go/jsonschema"

	"github.com/covehq/cove"
)

// Format is how definitions are handed out.
type Format string

// The formats.
const (
	// FormatCove is everything that there is to say of each tool, as in api/tools.json.
	FormatCove Format = "cove"
	// FormatOpenAI is a list for the parameter tools of Chat Completions, strict.
	FormatOpenAI Format = "openai"
	// FormatResponses is one for that of OpenAI's Responses API, strict.
	FormatResponses Format = "openai-responses"
	// FormatAnthropic is a list for the parameter tools of the Messages API.
	FormatAnthropic Format = "anthropic"
	// FormatMCP is what an MCP server lists.
	FormatMCP Format = "mcp"
)

// Formats returns all formats.
func Formats() []Format {
	return []Format{FormatCove, FormatOpenAI, FormatResponses, FormatAnthropic, FormatMCP}
}

// Export writes the definitions of the tools as indented JSON.
func Export(format Format, list []Tool) ([]byte, error) {
	var forms []any
	for _, t := range list {
		switch format {
		case FormatCove:
			forms = append(forms, t.full())
		case FormatOpenAI:
			forms = append(forms, openAI{Type: "function", Function: &function{t.Name, t.Description, t.Strict(), true}})
		case FormatResponses:
			forms = append(forms, openAIFlat{"function", function{t.Name, t.Description, t.Strict(), true}})
		case FormatAnthropic:
			forms = append(forms, anthropic{t.Name, t.Description, t.Parameters})
		case FormatMCP:
			forms = append(forms, mcp{t.Name, t.Title, t.Description, t.Parameters, t.Result, hints{t.ReadOnly, t.Idempotent, !t.ReadOnly}})
		default:
			return nil, cove.Errorf(cove.Invalid, "tools", string(format), "there is no such format", "use cove, openai, openai-responses, anthropic or mcp")
		}
	}
	data, err := json.MarshalIndent(forms, "", "  ")
	return append(data, '\n'), err
}

type openAI struct {
	Type     string    `json:"type"`
	Function *function `json:"function"`
}

type openAIFlat struct {
	Type string `json:"type"`
	function
}

type function struct {
	Name        string             `json:"name"`
	Description string             `json:"description"`
	Parameters  *jsonschema.Schema `json:"parameters"`
	Strict      bool               `json:"strict"`
}

type anthropic struct {
	Name        string             `json:"name"`
	Description string             `json:"description"`
	InputSchema *jsonschema.Schema `json:"input_schema"`
}

type mcp struct {
	Name         string             `json:"name"`
	Title        string             `json:"title"`
	Description  string             `json:"description"`
	InputSchema  *jsonschema.Schema `json:"inputSchema"`
	OutputSchema *jsonschema.Schema `json:"outputSchema"`
	Annotations  hints              `json:"annotations"`
}

type hints struct {
	ReadOnly    bool `json:"readOnlyHint"`
	Idempotent  bool `json:"idempotentHint"`
	Destructive bool `json:"destructiveHint"`
}

type full struct {
	Name        string             `json:"name"`
	Title       string             `json:"title"`
	Description string             `json:"description"`
	ReadOnly    bool               `json:"read_only"`
	Idempotent  bool               `json:"idempotent"`
	Parameters  *jsonschema.Schema `json:"parameters"`
	Strict      *jsonschema.Schema `json:"strict_parameters"`
	Result      *jsonschema.Schema `json:"result"`
}

func (t Tool) full() full {
	return full{t.Name, t.Title, t.Description, t.ReadOnly, t.Idempotent, t.Parameters, t.Strict(), t.Result}
}

// Strict returns the schema of the arguments as OpenAI's strict mode wants it: every
// parameter is required, and one that may be left out may be null instead.
func (t Tool) Strict() *jsonschema.Schema {
	strict := t.Parameters.CloneSchemas()
	for name, property := range strict.Properties {
		if !slices.Contains(strict.Required, name) {
			property.Types, property.Type = []string{property.Type, "null"}, ""
		}
	}
	strict.Required = slices.Clone(strict.PropertyOrder)
	return strict
}
