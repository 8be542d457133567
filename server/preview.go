package server

import (
	"context"
	"crypto/tls"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/covehq/cove"
	"github.com/covehq/cove/internal/httpapi"
	"github.com/covehq/cove/server/preview"
)

// PreviewOptions says how previews are served: each port of each sandbox on an origin of
// its own, <port>-<id>.<domain>, to who has a token for it.
type PreviewOptions struct {
	// Key signs the tokens.
	Key *preview.Key
	// Domain is what their names end in, as preview.ParseDomain returns it.
	Domain string
	// Port is the one that browsers connect to; 0 for that of the scheme.
	Port int
	// TLS is what ServePreviews speaks; nil for none.
	TLS *tls.Config
	// BehindProxy says that a proxy in front speaks TLS.
	BehindProxy bool
}

// secure reports whether browsers see https.
func (o *PreviewOptions) secure() bool { return o.TLS != nil || o.BehindProxy }

func (o *PreviewOptions) scheme() string {
	if o.secure() {
		return "https"
	}
	return "http"
}

// url returns the address of a preview, with the token in it.
func (o *PreviewOptions) url(name preview.Name, token string) string {
	at := url.URL{
		Scheme: o.scheme(), Host: name.Label() + "." + o.Domain, Path: "/",
		RawQuery: url.Values{httpapi.QueryPreviewToken: {token}}.Encode(),
	}
	if o.Port != 0 {
		at.Host += ":" + strconv.Itoa(o.Port)
	}
	return at.String()
}

func (s *Server) registerPreviews() {
	create := operation("create-preview", http.MethodPost, "/v1/sandboxes/{id}/previews", tagPorts, "Open a port to browsers",
		"Returns an address on an origin of the port's own. Who has it can use the port until it expires, is revoked or the sandbox ends. "+
			"Nothing has to listen there yet.")
	create.DefaultStatus = http.StatusCreated
	register(s, create, s.createPreview)
	register(s, noContent(operation("revoke-previews", http.MethodDelete, "/v1/sandboxes/{id}/previews/{port}", tagPorts, "Revoke a port's previews",
		"Every address and token that was given out for the port is worthless from then on. Connections that are open stay so.")), s.revokePreviews)
}

type createPreviewInput struct {
	Target
	Body cove.PreviewRequest
}

type createPreviewOutput struct {
	CacheControl string `header:"Cache-Control"`
	Body         cove.Preview
}

func (s *Server) createPreview(ctx context.Context, in *createPreviewInput) (*createPreviewOutput, error) {
	const op = "preview"
	if s.previews == nil {
		return nil, cove.Errorf(cove.NotSupported, op, in.ID, "this daemon serves no previews",
			"set preview_listen in cove.yaml, or COVE_PREVIEW_LISTEN, for example to 127.0.0.1:7080, and start the daemon again; sandboxes outlive that")
	}
	ttl := in.Body.TTL
	if ttl == 0 {
		ttl = cove.DefaultPreviewTTL
	}
	if ttl < cove.Duration(time.Second) || ttl > cove.MaxPreviewTTL {
		return nil, cove.Errorf(cove.Invalid, op, in.ID, "ttl is not a duration from 1s to 30 days", "write it as in 24h, or leave it out")
	}
	box, err := s.host.Sandbox(ctx, in.ID)
	if err != nil {
		return nil, err
	}
	epoch, err := box.PreviewEpoch(in.Body.Port)
	if err != nil {
		return nil, err
	}
	grant := preview.Grant{
		Use: preview.ForLink, Name: preview.Name{Port: in.Body.Port, ID: box.ID()}, Epoch: epoch,
		Expires: time.Now().UTC().Add(time.Duration(ttl)).Truncate(time.Second),
	}
	token := s.previews.Key.Sign(grant)
	return &createPreviewOutput{CacheControl: "no-store", Body: cove.Preview{
		Port: in.Body.Port, URL: s.previews.url(grant.Name, token), Token: token, ExpiresAt: grant.Expires,
	}}, nil
}

type previewInput struct {
	Target
	Port string `path:"port" doc:"1 to 65535" example:"8000"`
}

func (s *Server) revokePreviews(ctx context.Context, in *previewInput) (*struct{}, error) {
	port, err := parsePort(in.Port)
	if err != nil {
		return nil, err
	}
	box, err := s.host.Sandbox(ctx, in.ID)
	if err != nil {
		return nil, err
	}
	return nil, box.RevokePreviews(ctx, port)
}
