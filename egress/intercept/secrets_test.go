package intercept

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"net/http/httputil"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/covehq/cove"
	"github.com/covehq/cove/egress"
)

type secretValue = egress.SecretValue

func withPlaces(s secretValue, places ...cove.SecretPlace) secretValue {
	s.In = places
	return s
}

func basic(credentials string) string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(credentials))
}

// received is a request as a server got it.
type received struct{ head, query, auth, body string }

func recorder(got *received) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		head, _ := httputil.DumpRequest(r, false)
		body, err := io.ReadAll(r.Body)
		*got = received{string(head), r.URL.RawQuery, r.Header.Get("Authorization"), string(body)}
		if err == nil && r.ContentLength >= 0 && int(r.ContentLength) != len(body) {
			got.body = fmt.Sprintf("%d bytes, declared %d", len(body), r.ContentLength)
		}
	}
}

func TestT83SecretIsPutInWhereItMayBe(t *testing.T) {
	const sign = "Sign+Value/0123456789abcdefgh=="
	const signPlaceholder = "Aign+Place/9876543210zyxwvuts=="
	signed := secretValue{Name: "SIGN", Placeholder: signPlaceholder, Value: sign, Hosts: []string{"*.example.org"},
		In: []cove.SecretPlace{cove.SecretInQuery, cove.SecretInBody}}
	all := withPlaces(github("api.example.org"), cove.SecretInHeader, cove.SecretInQuery, cove.SecretInBody)
	for _, c := range []struct {
		name   string
		secret secretValue
		header http.Header
		query  string
		body   string
		want   func(received) (got, want string)
	}{
		{name: "a bearer token", secret: github("api.example.org"), header: http.Header{"Authorization": {"Bearer " + placeholder}},
			want: func(r received) (string, string) { return r.auth, "Bearer " + token }},
		{name: "Basic credentials", secret: github("api.example.org"), header: http.Header{"Authorization": {basic("user:" + placeholder)}},
			want: func(r received) (string, string) { return r.auth, basic("user:" + token) }},
		{name: "Basic credentials in small letters, as a user", secret: github("api.example.org"),
			header: http.Header{"Authorization": {"basic " + base64.StdEncoding.EncodeToString([]byte(placeholder+":x-oauth-basic"))}},
			want: func(r received) (string, string) {
				return r.auth, "basic " + base64.StdEncoding.EncodeToString([]byte(token+":x-oauth-basic"))
			}},
		{name: "a cookie", secret: github("api.example.org"), header: http.Header{"Cookie": {"a=b; session=" + placeholder + "; c=d"}},
			want: func(r received) (string, string) {
				return fmt.Sprint(strings.Contains(r.head, "a=b; session="+token+"; c=d")), "true"
			}},
		{name: "twice in a header of two values", secret: github("api.example.org"), header: http.Header{"X-Key": {placeholder + placeholder, placeholder}},
			want: func(r received) (string, string) { return fmt.Sprint(strings.Count(r.head, token)), "3" }},
		{name: "a query", secret: all, query: "a=%20b&key=" + placeholder + "&c", want: func(r received) (string, string) {
			return r.query, "a=%20b&key=" + token + "&c"
		}},
		{name: "a query in which letters are encoded that need not be", secret: all, query: "key=%67" + placeholder[1:], want: func(r received) (string, string) {
			return r.query, "key=" + token
		}},
		{name: "a query of what has to be encoded", secret: signed, query: "key=" + url.QueryEscape(signPlaceholder) + "&x=%2f", want: func(r received) (string, string) {
			return r.query, "key=" + url.QueryEscape(sign) + "&x=%2f"
		}},
		{name: "a body", secret: all, body: `{"key":"` + placeholder + `"}`, want: func(r received) (string, string) { return r.body, `{"key":"` + token + `"}` }},
		{name: "a form", secret: signed, body: "a=b&key=" + url.QueryEscape(signPlaceholder), want: func(r received) (string, string) {
			return r.body, "a=b&key=" + url.QueryEscape(sign)
		}},
		{name: "a form with small hex digits", secret: signed, body: "key=" + lowerEscape(signPlaceholder), want: func(r received) (string, string) {
			return r.body, "key=" + lowerEscape(sign)
		}},
		{name: "JSON that escapes slashes", secret: signed, body: jsonSlashes(signPlaceholder), want: func(r received) (string, string) {
			return r.body, jsonSlashes(sign)
		}},
		{name: "a long body", secret: all, body: strings.Repeat("x", 3*chunk-5) + placeholder + strings.Repeat("y", chunk), want: func(r received) (string, string) {
			return r.body, strings.Repeat("x", 3*chunk-5) + token + strings.Repeat("y", chunk)
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var got received
			w := newWorld(t, recorder(&got), options{secrets: []secretValue{c.secret}})
			for _, guest2 := range []bool{false, true} {
				got = received{}
				var body io.Reader
				if c.body != "" {
					body = strings.NewReader(c.body)
				}
				res, reply := w.do(w.client(guest2), "POST", "/?"+c.query, body, c.header)
				if is, want := c.want(got); res.StatusCode != 200 || is != want {
					t.Errorf("h2 %v: the server got %.200q, want %.200q; reply %d %s", guest2, is, want, res.StatusCode, reply)
				}
			}
			e := w.event(func(e cove.NetworkEvent) bool { return e.Kind == cove.NetworkRequest })
			if !e.Allowed || !slices.Equal(e.Secrets, []string{c.secret.Name}) {
				t.Errorf("event = %+v", e)
			}
			w.hasNo(c.secret.Value)
		})
	}
}

func TestT83MisplacedPlaceholderIsRefused(t *testing.T) {
	bound := github("api.example.org")
	elsewhere := github("other.example.org")
	inBody := withPlaces(bound, cove.SecretInBody)
	bearer := http.Header{"Authorization": {"Bearer " + placeholder}}
	for _, c := range []struct {
		name   string
		secret secretValue
		o      options
		path   string
		header http.Header
		body   string
		want   string
	}{
		{name: "to a name that it is not bound to", secret: elsewhere, header: bearer, want: "not bound to"},
		{name: "to a name above one with a star", secret: github("*.api.example.org"), header: bearer, want: "not bound to"},
		{name: "to a name that only ends alike", secret: github("*.example.org"), o: options{name: "badexample.org"}, header: bearer, want: "not bound to"},
		{name: "to another port", secret: github("api.example.org:8443"), header: bearer, want: "not bound to"},
		{name: "to the usual port's name on another", secret: bound, o: options{port: 8443}, header: bearer, want: "not bound to"},
		{name: "in Basic credentials elsewhere", secret: elsewhere, header: http.Header{"Authorization": {basic("u:" + placeholder)}}, want: "not bound to"},
		{name: "in a query elsewhere", secret: elsewhere, path: "/?q=" + placeholder, want: "not bound to"},
		{name: "in a body elsewhere", secret: elsewhere, body: "x" + placeholder, want: "not bound to"},
		{name: "at the end of a long body elsewhere", secret: elsewhere, body: strings.Repeat("x", 5<<20) + placeholder, want: "not bound to"},
		{name: "in the path", secret: bound, path: "/bot" + placeholder + "/send", want: "in the path"},
		{name: "in the path, encoded", secret: bound, path: "/%67" + placeholder[1:], want: "in the path"},
		{name: "in a query where only headers may have it", secret: bound, path: "/?q=%67" + placeholder[1:], want: "in the query"},
		{name: "in a body where only headers may have it", secret: bound, body: placeholder, want: "in the body"},
		{name: "in a header where only bodies may have it", secret: inBody, header: bearer, want: "in the header"},
		{name: "without TLS", secret: bound, o: options{plain: true}, header: bearer, want: "without TLS"},
		{name: "without TLS on the port that it is bound to", secret: github("api.example.org:8080"), o: options{plain: true, port: 8080}, header: bearer, want: "without TLS"},
	} {
		t.Run(c.name, func(t *testing.T) {
			leaked := make(chan string, 10)
			c.o.secrets = []secretValue{c.secret}
			w := newWorld(t, func(w http.ResponseWriter, r *http.Request) {
				dump, _ := httputil.DumpRequest(r, true)
				if strings.Contains(string(dump), token) || strings.Contains(r.URL.String(), token) {
					leaked <- string(dump)
				}
			}, c.o)
			address := w.url(c.path)
			if c.o.plain {
				address = strings.Replace(address, "https:", "http:", 1)
			}
			r, err := http.NewRequestWithContext(t.Context(), "POST", address, strings.NewReader(c.body))
			if err != nil {
				t.Fatal(err)
			}
			for name, values := range c.header {
				r.Header[name] = values
			}
			res, err := w.client(false).Do(r)
			e := w.event(refused)
			if !strings.Contains(e.Reason, c.want) || !strings.Contains(e.Reason, "GITHUB_TOKEN") || e.Kind != cove.NetworkRequest {
				t.Errorf("event = %+v, want a refusal that says %q", e, c.want)
			}
			if err == nil { // a server may break a connection off on which a body goes on
				content, _ := io.ReadAll(res.Body)
				res.Body.Close()
				if res.StatusCode != http.StatusForbidden || !strings.Contains(string(content), c.want) {
					t.Errorf("reply = %d %s, want 403 with %q", res.StatusCode, content, c.want)
				}
			} else if len(c.body) < chunk {
				t.Error(err)
			}
			select {
			case dump := <-leaked:
				t.Errorf("the server got the value:\n%s", dump)
			default:
			}
			w.hasNo(token)
		})
	}
}

func TestT83PlainHTTPGetsASecretOnlyWhereItIsBoundToPort80(t *testing.T) {
	var got received
	w := newWorld(t, recorder(&got), options{plain: true, secrets: []secretValue{github("api.example.org:80")}})
	w.do(w.client(false), "GET", "/", nil, http.Header{"Authorization": {"token " + placeholder}})
	if got.auth != "token "+token {
		t.Errorf("the server got %q", got.auth)
	}
}

func TestT83ReplyNeverHasTheValue(t *testing.T) {
	long := strings.Repeat("x", chunk-7)
	for name, answer := range map[string]http.HandlerFunc{
		"in a body": func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "you are "+token) },
		"across pieces": func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(200)
			for _, piece := range []string{"x" + token[:9], token[9:20], token[20:] + token[:30], token[30:]} {
				io.WriteString(w, piece)
				w.(http.Flusher).Flush()
			}
		},
		"across what is read at once": func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, long+token+long+token) },
		"as JSON of Basic credentials": func(w http.ResponseWriter, r *http.Request) {
			fmt.Fprintf(w, `{"auth":%q}`, r.Header.Get("Authorization"))
		},
		"in base64 after other things": func(w http.ResponseWriter, r *http.Request) {
			for _, before := range []string{"", "a", "ab", "abc"} {
				io.WriteString(w, base64.URLEncoding.EncodeToString([]byte(before+token+"."))+"\n")
			}
		},
		"in a header": func(w http.ResponseWriter, r *http.Request) {
			w.Header()["X-Echo"] = []string{"a", r.Header.Get("Authorization"), token}
		},
		"in a redirect": func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "https://evil.example.org/?t="+token, http.StatusFound)
		},
		"in a trailer": func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Trailer", "X-Echo")
			io.WriteString(w, "x")
			w.Header().Set("X-Echo", token)
		},
		"in an early hint": func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Link", token)
			w.WriteHeader(http.StatusEarlyHints)
			w.Header().Del("Link")
			io.WriteString(w, "x")
		},
		"compressed all the same": func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Accept-Encoding") != "identity" {
				t.Errorf("the server was asked for %q", r.Header.Get("Accept-Encoding"))
			}
			w.Header().Set("Content-Encoding", "gzip")
			packed := gzip.NewWriter(w)
			io.WriteString(packed, "you are "+token)
			packed.Close()
		},
		"in an encoding that can't be read": func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Encoding", "rot13")
			io.WriteString(w, token)
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, answer, options{secrets: []secretValue{github("api.example.org")}})
			for _, guest2 := range []bool{false, true} {
				res, body := w.do(w.client(guest2), "GET", "/", nil, http.Header{"Authorization": {basic("u:" + placeholder)}, "Accept-Encoding": {"br, gzip"}})
				var all bytes.Buffer
				fmt.Fprintln(&all, res.Status, res.Header, res.Trailer, body)
				for line := range strings.Lines(all.String()) {
					for _, word := range strings.FieldsFunc(line, func(r rune) bool { return strings.ContainsRune(` "[]{},:`, r) }) {
						for _, e := range []*base64.Encoding{base64.StdEncoding, base64.URLEncoding} {
							if decoded, err := e.DecodeString(word); err == nil {
								fmt.Fprintln(&all, string(decoded))
							}
						}
					}
				}
				if strings.Contains(all.String(), token) {
					t.Errorf("h2 %v: the guest sees the value:\n%s", guest2, all.String())
				}
				if name == "in a body" && body != "you are "+placeholder || name == "compressed all the same" && body != "you are "+placeholder {
					t.Errorf("body = %q", body)
				}
				if name == "in an encoding that can't be read" && (res.StatusCode != http.StatusBadGateway || !strings.Contains(body, "encoded")) {
					t.Errorf("reply = %d %q", res.StatusCode, body)
				}
			}
			w.hasNo(token)
		})
	}
}

func TestT83ValueIsInNoErrorAndNoLog(t *testing.T) {
	for name, answer := range map[string]string{
		"a status line":  "HTTP/1.1 " + token + " what\r\n\r\n",
		"no HTTP at all": token + "\r\n\r\n",
		"a header":       "HTTP/1.1 200 OK\r\n" + token + "\r\n\r\n",
		"a bad length":   "HTTP/1.1 200 OK\r\nContent-Length: " + token + "\r\n\r\n",
		"a bad chunk":    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + token + "\r\n",
		"a bad encoding": "HTTP/1.1 200 OK\r\nTransfer-Encoding: " + token + "\r\n\r\n",
		"a bad upgrade":  "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: " + token + "\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, nil, options{plain: true, secrets: []secretValue{github("api.example.org:80")}, raw: rawAnswer(answer)})
			guest := w.said("GET / HTTP/1.1\r\nHost: api.example.org\r\nAuthorization: " + placeholder + "\r\nConnection: close\r\n\r\n")
			if strings.Contains(guest, token) {
				t.Errorf("the guest sees the value: %q", guest)
			}
			w.event(func(e cove.NetworkEvent) bool { return e.Kind == cove.NetworkRequest })
			w.hasNo(token)
		})
	}
}

func TestSecretThatWasSetAgainIsRefusedUntilTheSandboxIsNew(t *testing.T) {
	changed := secretValue{Name: "CHANGED", Placeholder: "old-placeholder-0123", Value: "a-new-and-longer-value-0123", Hosts: []string{"api.example.org"}}
	var got received
	w := newWorld(t, recorder(&got), options{secrets: []secretValue{changed, github("api.example.org")}})
	res, reply := w.do(w.client(false), "GET", "/", nil, http.Header{"Authorization": {changed.Placeholder}})
	if res.StatusCode != http.StatusForbidden || !strings.Contains(reply, "CHANGED has another value") {
		t.Errorf("reply = %d %q", res.StatusCode, reply)
	}
	w.do(w.client(false), "GET", "/", nil, http.Header{"Authorization": {placeholder}})
	if got.auth != token {
		t.Errorf("another secret was sent as %q", got.auth)
	}
	w.hasNo(changed.Value)
}
