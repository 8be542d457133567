package server

import (
	"bytes"
	"encoding/json"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/danielgtaylor/huma/v2"
)

func TestTheCommittedDocumentIsWhatTheHandlersSay(t *testing.T) {
	want, err := OpenAPI()
	if err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile("../api/openapi.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Error("api/openapi.yaml differs from what the handlers say; run go generate ./server")
	}
}

// operationsOf returns the operations of a path.
func operationsOf(item *huma.PathItem) []*huma.Operation {
	return slices.DeleteFunc([]*huma.Operation{
		item.Get, item.Head, item.Post, item.Put, item.Patch, item.Delete, item.Options, item.Trace,
	}, func(op *huma.Operation) bool { return op == nil })
}

func TestEveryRouteIsInTheDocumentAndTheOtherWayRound(t *testing.T) {
	s := New(Options{})
	documented := map[string]bool{}
	for path, item := range s.api.OpenAPI().Paths {
		for _, op := range operationsOf(item) {
			documented[op.Method+" "+path] = true
		}
	}
	routed := map[string]bool{}
	for _, pattern := range s.routes {
		if pattern == portRoute {
			for _, method := range portMethods {
				routed[method+" "+strings.TrimSuffix(portRoute, "...}")+"}"] = true
			}
			continue
		}
		routed[pattern] = true
	}
	for route := range routed {
		if !documented[route] {
			t.Errorf("%s is served, but not in the document", route)
		}
	}
	for route := range documented {
		if !routed[route] {
			t.Errorf("%s is in the document, but not served", route)
		}
	}
	if len(routed) < 40 {
		t.Errorf("only %d routes were walked", len(routed))
	}
}

func TestEveryDocumentedRouteIsServed(t *testing.T) {
	s := New(Options{})
	braces := regexp.MustCompile(`\{[^}]*\}`)
	for path, item := range s.api.OpenAPI().Paths {
		for _, op := range operationsOf(item) {
			at := strings.ReplaceAll(braces.ReplaceAllString(path, "1"), "…", "")
			r := httptest.NewRequest(op.Method, at, nil)
			if _, ok := parsePortPath(at); ok {
				continue // served before the mux
			}
			if _, pattern := s.mux.Handler(r); pattern != op.Method+" "+path {
				t.Errorf("%s %s goes to %q", op.Method, at, pattern)
			}
		}
	}
}

func TestEveryOperationIsDescribed(t *testing.T) {
	document := New(Options{}).api.OpenAPI()
	seen := map[string]bool{}
	for path, item := range document.Paths {
		for _, op := range operationsOf(item) {
			at := op.Method + " " + path
			if op.OperationID == "" || seen[op.OperationID] || op.Summary == "" || len(op.Tags) != 1 {
				t.Errorf("%s has id %q, summary %q, tags %v", at, op.OperationID, op.Summary, op.Tags)
			}
			seen[op.OperationID] = true
			if op.Responses["default"] == nil {
				t.Errorf("%s does not say what an error is", at)
			}
			for _, parameter := range op.Parameters {
				if parameter.Description == "" {
					t.Errorf("%s: parameter %s is not described", at, parameter.Name)
				}
			}
		}
	}
}

func TestSchemasOfOurTypes(t *testing.T) {
	schemas := New(Options{}).api.OpenAPI().Components.Schemas.Map()
	for _, at := range []struct{ schema, property, format string }{
		{"Limits", "memory", formatBytes}, {"Spec", "ttl", formatDuration}, {"SandboxUpdate", "idle", formatDuration},
		{"ExecRequest", "command", formatCommand}, {"ProcessRequest", "command", formatCommand},
	} {
		property := schemas[at.schema].Properties[at.property]
		if property == nil || property.Format != at.format || len(property.OneOf) != 2 || property.Description == "" {
			t.Errorf("%s.%s has the schema %+v", at.schema, at.property, property)
		}
	}
	for name, strict := range map[string]bool{"Spec": true, "Limits": true, "ExecRequest": true, "TerminalSize": true, "Sandbox": false, "ExecResult": false, "ErrorBody": false} {
		if got := schemas[name].AdditionalProperties == false; got != strict {
			t.Errorf("%s refuses what it does not know: %v, want %v", name, got, strict)
		}
	}
	if schemas["ErrorModel"] != nil {
		t.Error("the document has huma's error")
	}
}

func TestTheDocumentIsServed(t *testing.T) {
	s := New(Options{})
	reply := httptest.NewRecorder()
	s.ServeHTTP(reply, httptest.NewRequest(http.MethodGet, "/openapi.json", nil))
	var document struct {
		OpenAPI string         `json:"openapi"`
		Paths   map[string]any `json:"paths"`
	}
	if err := json.Unmarshal(reply.Body.Bytes(), &document); err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(document.OpenAPI, "3.1") || len(document.Paths) < 25 {
		t.Errorf("the document is of version %q and has %d paths", document.OpenAPI, len(document.Paths))
	}
}

func TestTheDocsNeedNoNetwork(t *testing.T) {
	s := New(Options{})
	elsewhere := regexp.MustCompile(`(?i)(https?:)?//[a-z0-9.-]+\.[a-z]`)
	inline := regexp.MustCompile(`(?i)<script[^>]*>[^<]|<style|\son[a-z]+\s*=|\sstyle\s*=|javascript:|innerHTML`)
	pages := map[string]string{"index.html": "/docs"}
	entries, err := fs.ReadDir(docsFiles, "docs")
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range entries {
		if _, ok := pages[entry.Name()]; !ok {
			pages[entry.Name()] = "/docs/" + entry.Name()
		}
	}
	for name, path := range pages {
		reply := httptest.NewRecorder()
		s.ServeHTTP(reply, httptest.NewRequest(http.MethodGet, path, nil))
		body := reply.Body.String()
		if reply.Code != http.StatusOK || len(body) < 100 {
			t.Errorf("%s: status %d with %d bytes", path, reply.Code, len(body))
		}
		if policy := reply.Header().Get("Content-Security-Policy"); !strings.Contains(policy, "default-src 'self'") || strings.Contains(policy, "unsafe") {
			t.Errorf("%s: policy %q", path, policy)
		}
		if found := elsewhere.FindString(body); found != "" {
			t.Errorf("%s names another host: %s", name, found)
		}
		if found := inline.FindString(body); found != "" {
			t.Errorf("%s has what its policy forbids: %s", name, found)
		}
	}
}
