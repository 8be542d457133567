package server

import (
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"

	"github.com/covehq/cove/internal/httpapi"
)

// newPreviewProxy returns the way from a preview to its port. What is between a browser
// and the program inside passes, cookies included, except for what is ours.
func (s *Server) newPreviewProxy(transport http.RoundTripper) *httputil.ReverseProxy {
	return &httputil.ReverseProxy{
		Rewrite:        s.rewriteForPreview,
		ModifyResponse: modifyFromPreview,
		FlushInterval:  -1, // what listens inside decides when something is worth sending
		ErrorHandler:   s.portFailed,
		Transport:      transport,
	}
}

// rewriteForPreview makes the request that goes inside. To the program there, its page is
// one of localhost's.
func (s *Server) rewriteForPreview(p *httputil.ProxyRequest) {
	hop := *hopOf(p.In.Context())
	hop.rest = p.In.URL.EscapedPath()
	leadInside(p, &hop)
	header := p.Out.Header
	header.Set("X-Forwarded-Proto", s.previews.scheme())
	header.Del(httpapi.HeaderPreviewToken)
	keepCookies(header)
	for _, name := range []string{"Origin", "Referer"} {
		if value := header.Get(name); value != "" {
			header.Set(name, insideAddress(value, p.In.Host, p.Out.Host))
		}
	}
	if strings.Contains(header.Get("Referer"), httpapi.QueryPreviewToken) {
		header.Del("Referer")
	}
}

// insideAddress returns an address below the host outside as one of the host inside.
func insideAddress(address, outside, inside string) string {
	target, err := url.Parse(address)
	if err != nil || !strings.EqualFold(target.Host, outside) {
		return address
	}
	target.Scheme, target.Host = "http", inside
	return target.String()
}

// keepCookies takes our cookie out of a request, and leaves the others as they are.
func keepCookies(header http.Header) {
	var kept []string
	for _, line := range header.Values("Cookie") {
		for pair := range strings.SplitSeq(line, ";") {
			pair = strings.TrimSpace(pair)
			if name, _, _ := strings.Cut(pair, "="); pair != "" && !isOurCookie(name) {
				kept = append(kept, pair)
			}
		}
	}
	header.Del("Cookie")
	if len(kept) > 0 {
		header.Set("Cookie", strings.Join(kept, "; "))
	}
}

func isOurCookie(name string) bool {
	name = strings.TrimSpace(name)
	return name == previewCookie(true) || name == previewCookie(false)
}

// modifyFromPreview makes the reply that goes out: its cookies are for the one preview, and
// ours is not theirs to set.
func modifyFromPreview(reply *http.Response) error {
	set := reply.Header.Values("Set-Cookie")
	reply.Header.Del("Set-Cookie")
	for _, cookie := range set {
		if name, _, _ := strings.Cut(cookie, "="); !isOurCookie(name) {
			reply.Header.Add("Set-Cookie", withoutDomain(cookie))
		}
	}
	if location := reply.Header.Get("Location"); location != "" {
		reply.Header.Set("Location", outsideAddress(location, reply.Request.URL.Host))
	}
	return nil
}

// withoutDomain returns a cookie for the host alone that sets it.
func withoutDomain(cookie string) string {
	parts := strings.Split(cookie, ";")
	kept := parts[:1]
	for _, part := range parts[1:] {
		if name, _, _ := strings.Cut(part, "="); !strings.EqualFold(strings.TrimSpace(name), "domain") {
			kept = append(kept, part)
		}
	}
	return strings.Join(kept, ";")
}

// outsideAddress returns a redirect to the program itself as one within the preview.
func outsideAddress(location, host string) string {
	target, err := url.Parse(location)
	if err != nil {
		return location
	}
	_, port, _ := net.SplitHostPort(host)
	if target.Host != "localhost:"+port && target.Host != "127.0.0.1:"+port {
		return location
	}
	target.Scheme, target.Host, target.User = "", "", nil
	if path := target.String(); strings.HasPrefix(path, "/") && !strings.HasPrefix(path, "//") {
		return path
	}
	return "/"
}
