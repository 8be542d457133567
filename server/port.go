package server

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/covehq/cove"
	"github.com/covehq/cove/internal/duplex"
	"github.com/covehq/cove/internal/httpapi"
)

const (
	portsPath = "/v1/sandboxes/{id}/ports/{port}"
	portRoute = portsPath + "/{path...}"
	// portHeaderTimeout is how long what listens inside may think about a request before
	// it begins to answer, or is taken for dead.
	portHeaderTimeout = 5 * time.Minute
	// portHeaderBytes bounds the headers that it answers with.
	portHeaderBytes = 256 << 10
	portIdle        = 30 * time.Second
)

// portMethods are the methods that the document names for a proxied port; any other is
// passed on as well.
var portMethods = []string{
	http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut,
	http.MethodPatch, http.MethodDelete, http.MethodOptions,
}

func (s *Server) registerPorts() {
	tunnel := operation("dial-port", http.MethodGet, portsPath, tagPorts, "Open a TCP connection to a port",
		"With `Connection: Upgrade` and `Upgrade: "+httpapi.UpgradeTCP+"` the connection becomes one to the port on the loopback inside. "+
			"Without, a redirect to the proxy below.")
	tunnel = replies(tunnel, http.StatusSwitchingProtocols, "The bytes of the connection, both ways.", nil)
	tunnel = replies(tunnel, http.StatusPermanentRedirect, "The same address with a slash at its end.", nil)
	tunnel.SkipValidateParams = true // the query is that of the program behind the redirect
	register(s, tunnel, s.dialPort)
	s.routes = append(s.routes, portRoute)
	for _, method := range portMethods {
		op := operation(strings.ToLower(method)+"-port", method, portsPath+"/{path}", tagPorts, "Send a request to a port",
			"Passed on to the port on the loopback inside, streamed both ways, WebSockets and other upgrades included. "+
				"The path may have any number of segments. `Cookie`, `Authorization` and `Set-Cookie` are not passed on: they are between you and this server. "+
				"`"+httpapi.HeaderPrefix+"` tells the prefix of the path. Pages are sandboxed by a Content-Security-Policy.")
		op.Parameters = []*huma.Param{
			{Name: "id", In: "path", Required: true, Description: "id or name of the sandbox", Schema: &huma.Schema{Type: huma.TypeString}},
			{Name: "port", In: "path", Required: true, Description: "1 to 65535", Schema: portSchema()},
			{Name: "path", In: "path", Required: true, Description: "path that the request has inside, without its first slash", Schema: &huma.Schema{Type: huma.TypeString}},
		}
		op.Responses["default"] = &huma.Response{Description: "What the port answers, or an error of ours in the envelope: unavailable where nothing listens."}
		s.api.OpenAPI().AddOperation(&op)
	}
}

func portSchema() *huma.Schema {
	lowest, highest := 1.0, 65535.0
	return &huma.Schema{Type: huma.TypeInteger, Minimum: &lowest, Maximum: &highest}
}

// portTarget is a port of a sandbox, as a request's path names it.
type portTarget struct {
	id     string
	port   string // unchecked
	prefix string // escaped; what precedes rest
	rest   string // escaped; begins with a slash
}

// parsePortPath takes an escaped path below a port apart.
func parsePortPath(escaped string) (portTarget, bool) {
	const before, between = "/v1/sandboxes/", "ports"
	tail, ok := strings.CutPrefix(escaped, before)
	if !ok {
		return portTarget{}, false
	}
	parts := strings.SplitN(tail, "/", 4)
	if len(parts) != 4 || parts[1] != between {
		return portTarget{}, false
	}
	id, err := url.PathUnescape(parts[0])
	if err != nil {
		return portTarget{}, false
	}
	rest := "/" + parts[3]
	return portTarget{id: id, port: parts[2], rest: rest, prefix: strings.TrimSuffix(escaped, rest)}, true
}

// parsePort reads a port in the one spelling that it has: a check that reads "02280" or
// "+2280" differently from what dials could be led past.
func parsePort(text string) (int, error) {
	port, err := strconv.Atoi(text)
	if err != nil || port < 1 || port > 65535 || strconv.Itoa(port) != text {
		return 0, cove.Errorf(cove.Invalid, "", "", fmt.Sprintf("port %q is not a number from 1 to 65535", text),
			"write the port as in /ports/8080/")
	}
	return port, nil
}

// proxyPort passes a request on to a port.
func (s *Server) proxyPort(w http.ResponseWriter, r *http.Request, target portTarget) {
	port, err := parsePort(target.port)
	if err != nil {
		s.fail(w, r, err)
		return
	}
	if !sameOrigin(r) {
		s.fail(w, r, foreignOrigin())
		return
	}
	box, err := s.host.Sandbox(r.Context(), target.id)
	if err != nil {
		s.fail(w, r, err)
		return
	}
	hop := &portHop{portTarget: target, host: net.JoinHostPort(box.ID(), strconv.Itoa(port))}
	s.ports.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), portHopKey{}, hop)))
}

// portHop is what the proxy needs to know of one request.
type portHop struct {
	portTarget
	host string // id:port, which dialPortAddress takes apart again
}

type portHopKey struct{}

func hopOf(ctx context.Context) *portHop {
	hop, _ := ctx.Value(portHopKey{}).(*portHop)
	return hop
}

func (s *Server) newPortProxy() *httputil.ReverseProxy {
	return &httputil.ReverseProxy{
		Rewrite:        rewriteForPort,
		ModifyResponse: modifyFromPort,
		FlushInterval:  -1, // what listens inside decides when something is worth sending
		ErrorHandler:   s.portFailed,
		Transport: &http.Transport{
			DialContext:            s.dialPortAddress,
			DisableCompression:     true,
			MaxIdleConnsPerHost:    4,
			MaxIdleConns:           256,
			IdleConnTimeout:        portIdle,
			ResponseHeaderTimeout:  portHeaderTimeout,
			MaxResponseHeaderBytes: portHeaderBytes,
		},
	}
}

// dialPortAddress dials "id:port", the name by which the transport keeps connections
// apart. An id is never used twice.
func (s *Server) dialPortAddress(ctx context.Context, _, address string) (net.Conn, error) {
	id, text, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	port, err := parsePort(text)
	if err != nil {
		return nil, err
	}
	box, err := s.host.Sandbox(ctx, id)
	if err != nil {
		return nil, err
	}
	return box.DialPort(ctx, port)
}

// rewriteForPort makes the request that goes inside.
func rewriteForPort(p *httputil.ProxyRequest) {
	hop := hopOf(p.In.Context())
	leadInside(p, hop)
	p.Out.Header.Set(httpapi.HeaderPrefix, hop.prefix)
	for _, ours := range []string{"Authorization", "Cookie"} {
		p.Out.Header.Del(ours)
	}
}

// leadInside makes the parts of a request that goes inside which don't depend on how it
// was named outside.
func leadInside(p *httputil.ProxyRequest, hop *portHop) {
	out := p.Out
	out.URL.Scheme, out.URL.Host = "http", hop.host
	out.URL.Path, out.URL.RawPath = hop.rest, ""
	if path, err := url.PathUnescape(hop.rest); err == nil {
		out.URL.Path, out.URL.RawPath = path, hop.rest
	}
	out.URL.RawQuery = p.In.URL.RawQuery // also what Go would not parse
	_, port, _ := net.SplitHostPort(hop.host)
	// Programs made for development answer to no other name.
	out.Host = "localhost:" + port
	p.SetXForwarded()
	out.Header.Del("Proxy-Authorization")
	if _, ok := p.In.Header["User-Agent"]; !ok {
		out.Header["User-Agent"] = nil // not Go's
	}
}

// modifyFromPort makes the reply that goes out. A page from inside must not act as one of
// this server: it gets an origin of its own, and sets no cookies.
func modifyFromPort(reply *http.Response) error {
	hop := hopOf(reply.Request.Context())
	reply.Header.Del("Set-Cookie")
	reply.Header.Add("Content-Security-Policy", "sandbox allow-downloads allow-forms allow-modals allow-popups allow-scripts")
	if location := reply.Header.Get("Location"); location != "" {
		reply.Header.Set("Location", hop.outside(location))
	}
	return nil
}

// outside returns a redirect of what listens inside as seen from outside.
func (h *portHop) outside(location string) string {
	target, err := url.Parse(location)
	if err != nil {
		return location
	}
	_, port, _ := net.SplitHostPort(h.host)
	local := target.Host == "localhost:"+port || target.Host == "127.0.0.1:"+port
	if target.Host != "" && !local || target.Host == "" && !strings.HasPrefix(target.Path, "/") ||
		strings.HasPrefix(target.Path, h.prefix+"/") {
		return location
	}
	target.Scheme, target.Host = "", ""
	return h.prefix + target.String()
}

// portFailed answers where the port did not.
func (s *Server) portFailed(w http.ResponseWriter, r *http.Request, err error) {
	var ours *cove.Error
	var timeout net.Error
	switch {
	case errors.As(err, &ours):
		err = ours
	case r.Context().Err() != nil:
		err = r.Context().Err()
	case errors.As(err, &timeout) && timeout.Timeout():
		err = cove.Errorf(cove.Timeout, "proxy", hopOf(r.Context()).host, "what listens there did not answer in time",
			"look at the process that should")
	default:
		err = &cove.Error{Code: cove.Unavailable, Op: "proxy", ID: hopOf(r.Context()).host, Err: err,
			Hint: "look whether what listens there speaks HTTP"}
	}
	s.fail(w, r, err)
}

type dialPortInput struct {
	exchange
	Target
	Port string `path:"port" doc:"1 to 65535" example:"8080"`
}

func (s *Server) dialPort(ctx context.Context, in *dialPortInput) (*huma.StreamResponse, error) {
	port, err := parsePort(in.Port)
	if err != nil {
		return nil, err
	}
	if !wantsUpgrade(in.r, httpapi.UpgradeTCP) {
		return raw(func() {
			target := in.r.URL.EscapedPath() + "/"
			if in.r.URL.RawQuery != "" {
				target += "?" + in.r.URL.RawQuery
			}
			in.w.Header().Set("Location", target)
			in.w.WriteHeader(http.StatusPermanentRedirect)
		})
	}
	if !sameOrigin(in.r) {
		return nil, foreignOrigin()
	}
	box, err := s.host.Sandbox(ctx, in.ID)
	if err != nil {
		return nil, err
	}
	inside, err := box.DialPort(ctx, port)
	if err != nil {
		return nil, err
	}
	return raw(func() {
		defer inside.Close()
		client, buffered, err := http.NewResponseController(in.w).Hijack()
		if err != nil {
			s.fail(in.w, in.r, cove.Errorf(cove.NotSupported, "dial port", in.ID, "this connection can't be upgraded", "use HTTP/1.1"))
			return
		}
		defer client.Close()
		fmt.Fprintf(buffered, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: %s\r\n%s: %s\r\n\r\n",
			httpapi.UpgradeTCP, httpapi.HeaderRequestID, infoOf(ctx).id)
		if buffered.Flush() == nil {
			ahead, _ := buffered.Reader.Peek(buffered.Reader.Buffered()) // can't fail
			duplex.Join(ctx, &bufferedConn{client, ahead}, inside)
		}
	})
}

// bufferedConn is a connection of which something was read ahead. The rest is read past
// http.Server's reader, which would take the end of what the client sends for the end of
// the request, and cancel it.
type bufferedConn struct {
	net.Conn
	ahead []byte
}

// Read reads what was read ahead first.
func (c *bufferedConn) Read(p []byte) (int, error) {
	if len(c.ahead) > 0 {
		n := copy(p, c.ahead)
		c.ahead = c.ahead[n:]
		return n, nil
	}
	return c.Conn.Read(p)
}

// CloseWrite ends what is sent.
func (c *bufferedConn) CloseWrite() error { return duplex.CloseWrite(c.Conn) }
