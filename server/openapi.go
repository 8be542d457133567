package server

import (
	"net/http"
	"path"
	"reflect"
	"strconv"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"github.com/covehq/cove/internal/httpapi"
)

//go:generate go run ./openapi ../api/openapi.yaml

// The tags that group operations in the document, in its order.
const (
	tagSandboxes = "sandboxes"
	tagCommands  = "commands"
	tagFiles     = "files"
	tagTools     = "tools"
	tagPorts     = "ports"
	tagNetwork   = "network"
	tagImages    = "images"
	tagKeys      = "keys"
	tagDaemon    = "daemon"
)

// metadataSchemas is where an operation finds the registry of schemas.
const metadataSchemas = "schemas"

// OpenAPI returns the API's OpenAPI 3.1 document as YAML.
func OpenAPI() ([]byte, error) {
	return New(Options{}).api.OpenAPI().YAML()
}

func openAPIConfig() huma.Config {
	schemas := huma.NewMapRegistry("#/components/schemas/", huma.DefaultSchemaNamer)
	aliasSchemas(schemas)
	return huma.Config{
		OpenAPI: &huma.OpenAPI{
			OpenAPI: "3.1.0",
			Info: &huma.Info{
				Title:   "Cove",
				Version: "v1",
				Description: "Sandboxes for AI agents: create one, run commands in it, move files, reach its ports, throw it away.\n\n" +
					"A reply with a status of 400 or above has the body `{\"error\": {\"code\", \"message\", \"cause\", \"hint\"}}`. " +
					"Every reply carries `X-Request-Id`; a harmless one of the request's is kept.\n\n" +
					"Over the network every request needs a key, whose scope has to include the operation's `x-scope`: `read`, `run`, `admin`. " +
					"A key sees its owner's sandboxes, one with the scope `admin` everybody's. Through the Unix socket no key is needed.",
				License: &huma.License{Name: "Apache-2.0", Identifier: "Apache-2.0"},
			},
			Servers: []*huma.Server{{URL: "/", Description: "this daemon"}},
			Tags: []*huma.Tag{
				{Name: tagSandboxes, Description: "Isolated computers: create, find, change, destroy."},
				{Name: tagCommands, Description: "Run a command and wait, or start a process and come back to it."},
				{Name: tagFiles, Description: "Files inside. A relative path is below the sandbox's working directory."},
				{Name: tagTools, Description: "What a model can call: run, read, write, edit, search."},
				{Name: tagPorts, Description: "What listens inside."},
				{Name: tagNetwork, Description: "What sandboxes may reach, what they did, and secrets that they use without seeing them."},
				{Name: tagImages, Description: "Root filesystems of sandboxes: fetch, import, find, remove."},
				{Name: tagKeys, Description: "Who may call the daemon over the network."},
				{Name: tagDaemon, Description: "The daemon and its host."},
			},
			Components: &huma.Components{Schemas: schemas, SecuritySchemes: securitySchemes()},
			Security:   []map[string][]string{{securityBearer: {}}, {securityHeader: {}}},
		},
		Formats: map[string]huma.Format{
			httpapi.TypeJSON: huma.DefaultJSONFormat,
			"json":           huma.DefaultJSONFormat,
		},
		DefaultFormat:                httpapi.TypeJSON,
		RejectUnknownQueryParameters: true,
	}
}

// The names of the ways to show a key.
const (
	securityBearer = "bearer"
	securityHeader = "header"
)

func securitySchemes() map[string]*huma.SecurityScheme {
	return map[string]*huma.SecurityScheme{
		securityBearer: {Type: "http", Scheme: "bearer", BearerFormat: "cove_<id>_<secret>", Description: "Authorization: Bearer KEY. Not needed through the Unix socket."},
		securityHeader: {Type: "apiKey", In: "header", Name: "X-API-Key", Description: "X-API-Key: KEY, in its place."},
	}
}

// documentScopes says of every operation which scope it needs.
func documentScopes(document *huma.OpenAPI) {
	table := scopes()
	for at, item := range document.Paths {
		for _, op := range []*huma.Operation{item.Get, item.Head, item.Post, item.Put, item.Patch, item.Delete, item.Options} {
			if op == nil {
				continue
			}
			scope, known := table[op.Method+" "+at]
			if !known && strings.HasPrefix(at, portsPath) {
				scope = table[portRoute]
			}
			if scope == anybody {
				op.Security = []map[string][]string{{}}
				continue
			}
			if op.Extensions == nil {
				op.Extensions = map[string]any{}
			}
			op.Extensions["x-scope"] = string(scope)
		}
	}
}

// tidyOpenAPI brings what huma generated into its final form.
func tidyOpenAPI(document *huma.OpenAPI) {
	documentScopes(document)
	schemas := document.Components.Schemas.Map()
	// huma registers its own error, which no reply of ours has.
	delete(schemas, "ErrorModel")
	delete(schemas, "ErrorDetail")
	requested := map[string]bool{}
	for _, item := range document.Paths {
		for _, op := range []*huma.Operation{item.Post, item.Put, item.Patch} {
			if op != nil && takesJSON(op) {
				collectSchemas(schemas, op.RequestBody.Content[httpapi.TypeJSON].Schema, requested)
			}
		}
	}
	for name, schema := range schemas {
		if !requested[name] && schema.AdditionalProperties == false {
			schema.AdditionalProperties = nil // a reply may say more one day
		}
		for _, property := range schema.Properties {
			if property.Type == huma.TypeArray {
				property.Nullable = false // an empty list is written as [], or left out
			}
		}
	}
}

// collectSchemas notes the names of all schemas that a schema consists of.
func collectSchemas(schemas map[string]*huma.Schema, at *huma.Schema, found map[string]bool) {
	if at == nil {
		return
	}
	if name := path.Base(at.Ref); at.Ref != "" {
		if !found[name] {
			found[name] = true
			collectSchemas(schemas, schemas[name], found)
		}
		return
	}
	for _, property := range at.Properties {
		collectSchemas(schemas, property, found)
	}
	collectSchemas(schemas, at.Items, found)
	if values, ok := at.AdditionalProperties.(*huma.Schema); ok {
		collectSchemas(schemas, values, found)
	}
}

// schemaOf returns a reference to the schema of a type.
func schemaOf[T any](s *Server) *huma.Schema {
	return s.api.OpenAPI().Components.Schemas.Schema(reflect.TypeFor[T](), true, "")
}

func content(mediaType string, schema *huma.Schema) map[string]*huma.MediaType {
	return map[string]*huma.MediaType{mediaType: {Schema: schema}}
}

// binary is the schema of bytes as they are.
func binary() *huma.Schema { return &huma.Schema{Type: huma.TypeString, Format: "binary"} }

// text is the schema of a body that is text of another format than JSON.
func text(description string) *huma.Schema {
	return &huma.Schema{Type: huma.TypeString, Description: description}
}

// operation starts the description of an operation; with adds to it.
func operation(id, method, path, tag, summary, description string) huma.Operation {
	return huma.Operation{
		OperationID: id, Method: method, Path: path,
		Tags: []string{tag}, Summary: summary, Description: description,
		Responses: map[string]*huma.Response{},
	}
}

// uploads declares the body of a request that is not JSON.
func uploads(op huma.Operation, mediaType, description string) huma.Operation {
	op.RequestBody = &huma.RequestBody{
		Description: description, Required: true, Content: content(mediaType, binary()),
	}
	return op
}

// replies declares a reply that the handler writes itself.
func replies(op huma.Operation, status int, description string, types map[string]*huma.MediaType) huma.Operation {
	if op.DefaultStatus == 0 {
		op.DefaultStatus = status
	}
	op.Responses[strconv.Itoa(status)] = &huma.Response{Description: description, Content: types}
	return op
}

// noContent declares that a reply has no body.
func noContent(op huma.Operation) huma.Operation {
	op.DefaultStatus = http.StatusNoContent
	return op
}
