package server

import (
	"context"
	"embed"
	"encoding/json"
	"net/http"
	"sync"

	"github.com/danielgtaylor/huma/v2"

	"github.com/covehq/cove"
)

// docsFiles is the page that shows the document. It needs no network.
//
//go:embed docs
var docsFiles embed.FS

const docsPolicy = "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

func (s *Server) registerDocs() {
	document := sync.OnceValues(func() ([]byte, error) { return json.Marshal(s.api.OpenAPI()) })
	op := operation("openapi", http.MethodGet, "/openapi.json", tagDaemon, "This document", "OpenAPI 3.1.")
	op = replies(op, http.StatusOK, "The document.", content("application/openapi+json", &huma.Schema{Type: huma.TypeObject}))
	register(s, op, func(_ context.Context, in *exchangeInput) (*huma.StreamResponse, error) {
		data, err := document()
		if err != nil {
			return nil, err
		}
		return raw(func() { in.static("application/openapi+json", data) })
	})
	page := operation("docs", http.MethodGet, "/docs", tagDaemon, "This document as a page", "")
	page = replies(page, http.StatusOK, "A page.", content("text/html", text("a page")))
	register(s, page, func(_ context.Context, in *exchangeInput) (*huma.StreamResponse, error) {
		return in.file("index.html", "text/html; charset=utf-8")
	})
	asset := operation("docs-asset", http.MethodGet, "/docs/{file}", tagDaemon, "What that page consists of", "")
	asset = replies(asset, http.StatusOK, "A part of the page.", map[string]*huma.MediaType{
		"text/css": {Schema: text("style")}, "text/javascript": {Schema: text("script")},
	})
	register(s, asset, func(_ context.Context, in *docsInput) (*huma.StreamResponse, error) {
		switch in.File {
		case "docs.css":
			return in.file(in.File, "text/css; charset=utf-8")
		case "docs.js":
			return in.file(in.File, "text/javascript; charset=utf-8")
		}
		return nil, cove.Errorf(cove.NotFound, "", "", "there is no such part of the page", "see /docs")
	})
}

type docsInput struct {
	exchange
	File string `path:"file" doc:"name of the part" example:"docs.js"`
}

// file answers with a file of the page.
func (e *exchange) file(name, kind string) (*huma.StreamResponse, error) {
	data, err := docsFiles.ReadFile("docs/" + name)
	if err != nil {
		return nil, err
	}
	return raw(func() { e.static(kind, data) })
}

// static answers with something that is the same for everybody.
func (e *exchange) static(kind string, data []byte) {
	header := e.w.Header()
	header.Set("Content-Type", kind)
	header.Set("Content-Security-Policy", docsPolicy)
	header.Set("X-Content-Type-Options", "nosniff")
	header.Set("Referrer-Policy", "no-referrer")
	header.Set("Cache-Control", "no-cache")
	_, _ = e.w.Write(data) // fails when the client is gone
}
