package intercept

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/covehq/cove"
)

// exchange is one request and its reply.
type exchange struct {
	c    *connection
	in   *http.Request
	path string // as it was sent, without the query
	rule string // that allowed it
	note string // of an audit
	used usage
	told bool // that it was refused

	mu      sync.Mutex
	refused *misplaced // a placeholder in the body, where the rest has gone on
	broken  error      // the guest's own body could not be read
}

// exchangeKey finds the exchange of a request that net/http hands back.
type exchangeKey struct{}

func exchangeOf(ctx context.Context) *exchange {
	x, _ := ctx.Value(exchangeKey{}).(*exchange)
	return x
}

// handle serves one request.
func (c *connection) handle(w http.ResponseWriter, in *http.Request) {
	if !c.enter() {
		return
	}
	defer c.group.Done()
	c.asked.Store(true)
	x := &exchange{c: c, in: in, path: in.URL.EscapedPath()}
	if !c.misdirected(x, w) {
		return
	}
	d := decide(c.opened.Rules, c.address(), in.Method, in.URL, in.Header)
	if x.rule = d.rule; !d.allowed {
		x.refuse(w, http.StatusForbidden, d.reason)
		return
	}
	x.note = d.reason
	// The head is swapped here, so that what is misplaced in it never becomes a request.
	head := in.Header.Clone()
	target := &url.URL{
		Scheme: "http", Host: c.address(), Path: in.URL.Path, RawPath: in.URL.RawPath,
		RawQuery: in.URL.RawQuery, ForceQuery: in.URL.ForceQuery,
	}
	if c.secure {
		target.Scheme = "https"
	}
	if err := c.secrets.putIn(head, target, &x.used); err != nil {
		x.refuse(w, http.StatusForbidden, err.Error())
		return
	}
	for name, value := range d.headers {
		head.Set(name, value)
	}
	if in.ProtoMajor == 1 {
		// A server may answer before it has all of the request. Without this, the guest
		// would not see the reply until it had sent everything.
		_ = http.NewResponseController(w).EnableFullDuplex()
	}
	out := in.WithContext(context.WithValue(in.Context(), exchangeKey{}, x))
	out.Header, out.URL = head, target
	defer x.end()
	c.proxy.ServeHTTP(&replyWriter{w, c}, out)
}

// misdirected answers requests that are not for this connection, and returns whether to
// go on: what was decided about one name must not reach another.
func (c *connection) misdirected(x *exchange, w http.ResponseWriter) bool {
	in := x.in
	hosts := append([]string{in.Host}, in.Header.Values("Host")...) // the second is HTTP/2's, beside :authority
	for _, host := range hosts {
		if host != "" && !c.isOwn(host) {
			x.refuse(w, http.StatusMisdirectedRequest, fmt.Sprintf("the request is for %s, and the connection to %s: connect to that host instead, if a rule allows it",
				printable(host), c.address()))
			return false
		}
	}
	switch {
	case in.Method == http.MethodConnect:
		x.refuse(w, http.StatusForbidden, "nothing is relayed for CONNECT: connect to the host itself, if a rule allows it")
		return false
	case !c.secure && c.opened.Port == 443:
		x.refuse(w, http.StatusBadRequest, "this port speaks TLS: use https")
		return false
	}
	return true
}

// rewrite makes the request that is sent on.
func (c *connection) rewrite(p *httputil.ProxyRequest) {
	x := exchangeOf(p.In.Context())
	p.Out.URL = p.In.URL
	p.Out.Host = x.in.Host
	if p.Out.Host == "" { // of HTTP/1.0
		p.Out.Host = c.address()
	}
	// The proxy takes these for its own to write; they are the guest's.
	for _, name := range []string{"Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto"} {
		if values, ok := p.In.Header[name]; ok {
			p.Out.Header[name] = values
		}
	}
	if protocol := p.Out.Header.Get("Upgrade"); protocol != "" && carriesRequests(protocol) {
		// Requests in it would be decided by nobody. A server may always decline an upgrade.
		for _, name := range []string{"Connection", "Upgrade", "Http2-Settings"} {
			p.Out.Header.Del(name)
		}
	}
	if c.secrets.back != nil {
		// What comes back is searched for the values, so it has to be readable.
		p.Out.Header.Set("Accept-Encoding", "identity")
		p.Out.Header.Del("Sec-Websocket-Extensions")
	}
	if p.Out.Body != nil && p.Out.Body != http.NoBody {
		p.Out.Body = x.body(p.Out)
	}
}

// carriesRequests says whether HTTP, or TLS that nobody opens, is what a connection would
// be upgraded to.
func carriesRequests(protocol string) bool {
	for token := range strings.SplitSeq(strings.ToLower(protocol), ",") {
		name, _, _ := strings.Cut(strings.TrimSpace(token), "/")
		if name == "h2c" || name == "h2" || name == "http" || name == "tls" {
			return true
		}
	}
	return false
}

// body is the guest's body on its way out.
func (x *exchange) body(out *http.Request) io.ReadCloser {
	body := &requestBody{x: x, src: out.Body, reader: out.Body, trailer: out.Trailer}
	if x.c.secrets.out != nil {
		body.reader = &stream{
			src: out.Body, finder: x.c.secrets.out, whole: true, spawn: x.c.spawn,
			found: x.c.secrets.admitIn(cove.SecretInBody, &x.used),
		}
	}
	return body
}

// requestBody notes what goes wrong with a body, and passes its trailer on.
type requestBody struct {
	x       *exchange
	src     io.Closer
	reader  io.Reader
	trailer http.Header // of the request that is sent
	closed  atomic.Bool
}

// Read implements io.Reader.
func (b *requestBody) Read(p []byte) (int, error) {
	n, err := b.reader.Read(p)
	if err == nil {
		return n, nil
	}
	var refused *misplaced
	if errors.Is(err, io.EOF) && b.trailer != nil {
		maps.Copy(b.trailer, b.x.in.Trailer)
		if swapped := b.x.c.secrets.putInTrailer(b.trailer, &b.x.used); swapped != nil {
			err = swapped
		}
	}
	if errors.As(err, &refused) || !errors.Is(err, io.EOF) && !b.closed.Load() {
		b.x.mu.Lock()
		defer b.x.mu.Unlock()
		b.x.refused, b.x.broken = refused, err
	}
	return n, err
}

// Close implements io.Closer. The server's side closes a body that it has no use for, and
// what is read after that is nobody's fault.
func (b *requestBody) Close() error {
	b.closed.Store(true)
	return b.src.Close()
}

// end tells of a refusal that came when the reply had begun already.
func (x *exchange) end() {
	x.mu.Lock()
	refused := x.refused
	x.mu.Unlock()
	if refused != nil && !x.told {
		x.tell(false, 0, refused.why)
	}
}

// refuse answers a request that is not sent on, and tells why.
func (x *exchange) refuse(w http.ResponseWriter, status int, reason string) {
	x.told = true
	x.tell(false, status, reason)
	x.write(w, status, reason)
}

// write answers in Cove's own words, to the program.
func (x *exchange) write(w http.ResponseWriter, status int, reason string) {
	clear(w.Header())
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	if x.in.Method != http.MethodHead {
		_, _ = fmt.Fprintf(w, "cove: %s\n", printable(x.c.secrets.scrub(reason)))
	}
}

// tell adds the exchange to the sandbox's log.
func (x *exchange) tell(allowed bool, status int, reason string) {
	x.c.tell(cove.NetworkEvent{
		Kind: cove.NetworkRequest, Allowed: allowed, Rule: x.rule, Reason: reason,
		Method: x.in.Method, Path: x.path, Status: status, Secrets: x.used.list(),
	})
}
