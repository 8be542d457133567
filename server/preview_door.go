package server

import (
	"context"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/covehq/cove"
	"github.com/covehq/cove/internal/httpapi"
	"github.com/covehq/cove/server/preview"
)

// servePreview answers one request on the listener of previews, where nothing else is
// served. Nothing of a request gets inside before its token was checked.
func (s *Server) servePreview(w http.ResponseWriter, r *http.Request) {
	s.answer(w, r, &s.previewed, func(reply *response, r *http.Request, info *requestInfo) {
		info.route, info.at = "preview", "/…"
		name, err := s.previewName(r)
		if err != nil {
			s.fail(reply, r, err)
			return
		}
		info.at = name.Label() + "/…"
		s.showPreview(reply, r, name)
	})
}

// previewName returns which preview a request names. All places where it may name one have
// to agree: what is between browser and daemon may have looked at another one.
func (s *Server) previewName(r *http.Request) (preview.Name, error) {
	elsewhere := slices.ContainsFunc(r.Header["Host"], func(host string) bool { return host != r.Host }) // HTTP/2 beside :authority
	if elsewhere || r.URL.Host != "" || r.URL.Scheme != "" || r.Method == http.MethodConnect || !strings.HasPrefix(r.URL.Path, "/") {
		return preview.Name{}, cove.Errorf(cove.Invalid, "", "", "the request does not name one preview as a browser does",
			"send the path alone, and the preview's name as the host")
	}
	name, ok := preview.Parse(r.Host, s.previews.Domain)
	if !ok {
		return name, cove.Errorf(cove.NotFound, "", "", "there is no preview by this name", "previews are at <port>-<id>."+s.previews.Domain+"; the API is not served here")
	}
	return name, nil
}

// showPreview lets a request that has a token of the preview inside.
func (s *Server) showPreview(w *response, r *http.Request, name preview.Name) {
	v := s.visit(r, name)
	linked, query := v.link()
	switch {
	case linked != "":
		if expires, ok := v.check(preview.ForLink, linked); ok {
			v.welcome(w, query, expires)
			return
		}
	case v.hasHeader() || v.hasCookie():
		hop := &portHop{host: net.JoinHostPort(name.ID, strconv.Itoa(name.Port))}
		s.previewProxy.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), portHopKey{}, hop)))
		return
	case v.foreign:
		s.fail(w, r, foreignOrigin())
		return
	}
	w.Header().Set("WWW-Authenticate", httpapi.HeaderPreviewToken)
	w.Header().Set("Cache-Control", "no-store")
	s.fail(w, r, cove.Errorf(cove.Unauthenticated, "", "", "this preview needs its token, and there is none, or one that is over",
		"open the address that cove port --preview prints"))
}

// visit is a request to a preview, of which the token is looked for.
type visit struct {
	request *http.Request
	name    preview.Name
	key     *preview.Key
	secure  bool
	epoch   uint64
	there   bool // the sandbox
	foreign bool // the cookie is good, but another origin's page uses it
}

func (s *Server) visit(r *http.Request, name preview.Name) *visit {
	v := &visit{request: r, name: name, key: s.previews.Key, secure: s.previews.secure()}
	box, err := s.host.Sandbox(r.Context(), name.ID)
	if err != nil || box.ID() != name.ID { // one that is named so
		return v
	}
	v.epoch, err = box.PreviewEpoch(name.Port)
	v.there = err == nil
	return v
}

// check reports whether a token is one of the preview, and until when. It looks as closely
// at one of a sandbox that is not there, so that nobody learns by it which there are.
func (v *visit) check(use preview.Use, token string) (expires time.Time, ok bool) {
	expires, ok = v.key.Check(preview.Grant{Use: use, Name: v.name, Epoch: v.epoch}, token, time.Now())
	return expires, ok && v.there
}

// link returns the token that the request's address has, and the rest of its query as it
// was written. A token that can't be one is "-".
func (v *visit) link() (token, query string) {
	var rest []string
	for part := range strings.SplitSeq(v.request.URL.RawQuery, "&") {
		key, value, _ := strings.Cut(part, "=")
		if name, err := url.QueryUnescape(key); err != nil || name != httpapi.QueryPreviewToken {
			rest = append(rest, part)
			continue
		}
		if token != "" || value == "" {
			value = "-" // of two, neither is the one
		}
		token = value
	}
	return token, strings.Join(rest, "&")
}

// welcome gives a browser a cookie for the token of its link, and leads it to the same
// address without the token.
func (v *visit) welcome(w http.ResponseWriter, query string, expires time.Time) {
	http.SetCookie(w, &http.Cookie{
		Name:  previewCookie(v.secure),
		Value: v.key.Sign(preview.Grant{Use: preview.ForCookie, Name: v.name, Epoch: v.epoch, Expires: expires}),
		Path:  "/", Expires: expires, Secure: v.secure, HttpOnly: true,
		SameSite: http.SameSiteLaxMode, // Strict would lose who follows a link from elsewhere
	})
	// With its host, since a path may begin with two slashes, and without a scheme, which a
	// proxy in front may have changed.
	target := "//" + v.request.Host + v.request.URL.EscapedPath()
	if query != "" {
		target += "?" + query
	}
	w.Header().Set("Location", target)
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("Referrer-Policy", "no-referrer")
	w.WriteHeader(http.StatusTemporaryRedirect)
}

// previewCookie is the name of the cookie. With its prefix, browsers take it only from
// this very host, by TLS.
func previewCookie(secure bool) string {
	if secure {
		return "__Host-cove_preview"
	}
	return "cove_preview"
}

// hasHeader reports whether the header has a token of the preview: it comes from a
// program, since pages of other origins may not set it.
func (v *visit) hasHeader() bool {
	values := v.request.Header.Values(httpapi.HeaderPreviewToken)
	if len(values) != 1 {
		return false
	}
	_, ok := v.check(preview.ForLink, values[0])
	return ok
}

// hasCookie reports whether a cookie has a token of the preview, and a page that may use
// it sent the request. There may be others of the name, which the page of another preview
// has set for the whole domain.
func (v *visit) hasCookie() bool {
	for _, cookie := range v.request.CookiesNamed(previewCookie(v.secure)) {
		if _, ok := v.check(preview.ForCookie, cookie.Value); ok {
			v.foreign = fromForeignPage(v.request)
			return !v.foreign
		}
	}
	return false
}

// fromForeignPage reports whether the page of another origin sent the request, and not
// for its user to go there. Previews of one domain are one site to a browser, which
// therefore sends a cookie also with what another preview's page asks for.
func fromForeignPage(r *http.Request) bool {
	if r.Header.Get("Origin") != "" {
		return !sameOrigin(r)
	}
	switch r.Header.Get("Sec-Fetch-Site") {
	case "", "none", "same-origin":
		return false
	}
	return r.Header.Get("Sec-Fetch-Mode") != "navigate" || r.Method != http.MethodGet && r.Method != http.MethodHead
}
