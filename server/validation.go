package server

import (
	"net/http"
	"slices"
	"strings"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/validation"

	"github.com/covehq/cove"
	"github.com/covehq/cove/internal/httpapi"
)

// transformError is the huma.Transformer that puts huma's own errors, which are about a
// request that doesn't match its schema, into the envelope. All problems are listed.
func transformError(ctx huma.Context, _ string, v any) (any, error) {
	model, ok := v.(*huma.ErrorModel)
	if !ok {
		return v, nil
	}
	p := problemOf(ctx, model)
	if a, ok := ctx.(*adapted); ok {
		a.problem = p
	}
	return p.ErrorReply, nil
}

func problemOf(ctx huma.Context, model *huma.ErrorModel) *problem {
	switch {
	case model.Status == http.StatusRequestEntityTooLarge:
		return newProblem(ctx.Context(), cove.Errorf(cove.TooLarge, "", "",
			"the body is larger than this request may be",
			"send large input as a stream: to a process's stdin, or as a file"))
	case model.Status == http.StatusRequestTimeout:
		return newProblem(ctx.Context(), cove.Errorf(cove.Timeout, "", "", "the body did not arrive in time", "send it faster"))
	case model.Detail == "cannot read request body":
		return newProblem(ctx.Context(), cove.Errorf(cove.Invalid, "", "", "the body broke off", "send it whole"))
	case model.Status >= http.StatusInternalServerError:
		return newProblem(ctx.Context(), model)
	}
	var problems cove.Problems
	for _, detail := range model.Errors {
		if detail == nil {
			continue
		}
		if text := explain(ctx.Operation(), detail); !slices.Contains(problems, text) {
			problems.Add(text)
		}
	}
	if len(problems) == 0 {
		problems.Add(model.Detail)
	}
	const hint = "see /docs for what this request takes"
	return newProblem(ctx.Context(), problems.Err(cove.Invalid, "", hint))
}

// explain returns one of huma's findings in our words. It never quotes the value, which
// may be a secret or a megabyte, except where that is one of our own small types.
func explain(op *huma.Operation, detail *huma.ErrorDetail) string {
	text := strings.TrimPrefix(detail.Message, "expected ")
	if text != detail.Message {
		text = "must be " + text
		if name, ok := strings.CutPrefix(text, "must be required property "); ok {
			text = "lacks " + strings.TrimSuffix(name, " to be present")
		}
	}
	if detail.Message == validation.MsgExpectedMatchExactlyOneSchema {
		text = explainOneOf(op, detail, text)
	}
	where, rest, _ := strings.Cut(detail.Location, ".")
	switch {
	case where == "body" && rest != "":
		return rest + ": " + text
	case rest != "":
		return where + " parameter " + rest + ": " + text
	case where != "":
		return where + ": " + text
	}
	return text
}

// explainOneOf says what is wrong with a value that has several spellings, by parsing it
// as the type that its schema's format names.
func explainOneOf(op *huma.Operation, detail *huma.ErrorDetail, otherwise string) string {
	format := formatAt(op, detail.Location)
	text, isText := detail.Value.(string)
	var err error
	switch {
	case format == formatBytes && isText:
		_, err = cove.ParseBytes(text)
	case format == formatDuration && isText:
		_, err = cove.ParseDuration(text)
	}
	switch {
	case err != nil:
		return err.Error()
	case format == formatBytes:
		return "must be a number of bytes, or a string as in \"512MiB\""
	case format == formatDuration:
		return "must be a number of seconds, or a string as in \"90s\", \"1h30m\" or \"never\""
	case format == formatCommand:
		return "must be a string that is not empty, or an array of strings that is not empty"
	}
	return otherwise
}

// formatAt returns the format of the schema at a location like body.limits.memory, or "".
func formatAt(op *huma.Operation, location string) string {
	if !takesJSON(op) {
		return ""
	}
	schemas, _ := op.Metadata[metadataSchemas].(huma.Registry)
	if schemas == nil {
		return ""
	}
	at := op.RequestBody.Content[httpapi.TypeJSON].Schema
	_, path, _ := strings.Cut(location, ".")
	for _, name := range strings.Split(path, ".") {
		for at != nil && at.Ref != "" {
			at = schemas.SchemaFromRef(at.Ref)
		}
		if at == nil {
			return ""
		}
		at = at.Properties[name]
	}
	if at == nil {
		return ""
	}
	return at.Format
}
