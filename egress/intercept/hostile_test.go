package intercept

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/covehq/cove"
)

// rawAnswer is a server that reads the head of a request and answers with a text.
func rawAnswer(answer string) func(net.Conn) {
	return func(conn net.Conn) {
		if _, err := http.ReadRequest(bufio.NewReader(conn)); err == nil {
			io.WriteString(conn, answer)
		}
	}
}

func TestServerThatMisbehavesIsAClearAnswer(t *testing.T) {
	for _, c := range []struct {
		name   string
		server func(net.Conn)
		status int
		want   string
	}{
		{"it hangs", func(conn net.Conn) { io.Copy(io.Discard, conn) }, 504, "did not answer in time"},
		{"it resets", func(conn net.Conn) {
			http.ReadRequest(bufio.NewReader(conn))
			conn.(*net.TCPConn).SetLinger(0)
		}, 502, "did not answer as it should"},
		{"it leaves", func(conn net.Conn) { http.ReadRequest(bufio.NewReader(conn)) }, 502, "did not answer as it should"},
		{"its header is endless", func(conn net.Conn) {
			http.ReadRequest(bufio.NewReader(conn))
			io.WriteString(conn, "HTTP/1.1 200 OK\r\nX-Long: ")
			io.Copy(conn, io.LimitReader(letters{}, 1<<30))
		}, 502, "header of more than 1MiB"},
		{"its headers are endless", func(conn net.Conn) {
			http.ReadRequest(bufio.NewReader(conn))
			io.WriteString(conn, "HTTP/1.1 200 OK\r\n")
			for {
				if _, err := io.WriteString(conn, strings.Repeat("X-Long: x\r\n", 1000)); err != nil {
					return
				}
			}
		}, 502, "header of more than 1MiB"},
		{"it sends interim replies for ever", func(conn net.Conn) {
			http.ReadRequest(bufio.NewReader(conn))
			for {
				if _, err := io.WriteString(conn, "HTTP/1.1 102 Processing\r\n\r\n"); err != nil {
					return
				}
			}
		}, 504, "did not answer in time"},
		{"it speaks something else", rawAnswer("SSH-2.0-OpenSSH_9.2\r\n"), 502, "did not answer as it should"},
		{"its length is no number", rawAnswer("HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n"), 502, "did not answer as it should"},
		{"it has two lengths", rawAnswer("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab"), 502, "did not answer as it should"},
		{"it upgrades unasked", rawAnswer("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"), 502, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			stop := watchHeap(t, 64<<20)
			defer stop()
			patience := time.Minute
			if c.status == http.StatusGatewayTimeout {
				patience = 300 * time.Millisecond
			}
			w := newWorld(t, nil, options{plain: true, rules: allowAll(), raw: c.server, opener: Options{ReplyTimeout: patience}})
			res, reply := w.do(w.client(false), "GET", "/", nil, nil)
			if res.StatusCode != c.status || !strings.Contains(reply, c.want) || !strings.HasPrefix(reply, "cove: ") {
				t.Errorf("reply = %d %q, want %d with %q", res.StatusCode, reply, c.status, c.want)
			}
			if strings.Contains(reply, "127.0.0.1") {
				t.Errorf("the reply has an address of this side: %q", reply)
			}
			e := w.event(func(e cove.NetworkEvent) bool { return e.Status == c.status })
			if !strings.Contains(e.Reason, c.want) {
				t.Errorf("event = %+v", e)
			}
		})
	}
}

// letters is an endless text.
type letters struct{}

func (letters) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = 'x'
	}
	return len(p), nil
}

func TestServerThatLiesAboutItsLengthIsABrokenReply(t *testing.T) {
	w := newWorld(t, nil, options{plain: true, rules: allowAll(), raw: rawAnswer("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nonly this")})
	res, err := w.client(false).Get(w.url("/"))
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	content, err := io.ReadAll(res.Body)
	if !errors.Is(err, io.ErrUnexpectedEOF) || string(content) != "only this" {
		t.Errorf("read %q, %v, want what came and an unexpected end", content, err)
	}
	e := w.event(func(e cove.NetworkEvent) bool { return e.Reason != "" })
	if !strings.Contains(e.Reason, "broke off after 9 bytes") {
		t.Errorf("event = %+v", e)
	}
}

func TestServerThatCanNotBeReachedIsAClearAnswer(t *testing.T) {
	w := newWorld(t, nil, options{rules: allowAll(), raw: func(net.Conn) {}})
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	w.server = closed.Addr().String()
	res, reply := w.do(w.client(true), "GET", "/", nil, nil)
	if res.StatusCode != http.StatusBadGateway || !strings.Contains(reply, "connection refused") || strings.Contains(reply, "127.0.0.1") {
		t.Errorf("reply = %d %q", res.StatusCode, reply)
	}
}

func TestServerWhoseCertificateIsNotTrustedGetsNoRequest(t *testing.T) {
	asked := false
	w := newWorld(t, func(http.ResponseWriter, *http.Request) { asked = true },
		options{secrets: []secretValue{github("api.example.org")}, opener: Options{RootCAs: x509.NewCertPool()}})
	res, reply := w.do(w.client(false), "GET", "/", nil, http.Header{"Authorization": {placeholder}})
	if res.StatusCode != http.StatusBadGateway || !strings.Contains(reply, "not trusted") || asked {
		t.Errorf("reply = %d %q, server asked: %v", res.StatusCode, reply, asked)
	}
}

func TestHostileRequestsAreRefused(t *testing.T) {
	for _, c := range []struct{ name, request, want string }{
		{"two lengths", "POST / HTTP/1.1\r\nHost: api.example.org\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab", "HTTP/1.1 400"},
		{"an unknown transfer encoding", "POST / HTTP/1.1\r\nHost: api.example.org\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", "HTTP/1.1 501"},
		{"two transfer encodings", "POST / HTTP/1.1\r\nHost: api.example.org\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n", "HTTP/1.1 501"},
		{"a space before the colon", "GET / HTTP/1.1\r\nHost: api.example.org\r\nX : y\r\n\r\n", "HTTP/1.1 400"},
		{"two hosts", "GET / HTTP/1.1\r\nHost: api.example.org\r\nHost: evil.example.org\r\n\r\n", "HTTP/1.1 400"},
		{"no host", "GET / HTTP/1.1\r\n\r\n", "HTTP/1.1 400"},
		{"a header without end", "GET / HTTP/1.1\r\nHost: api.example.org\r\nX: " + strings.Repeat("x", 2<<20), "HTTP/1.1 431"},
		{"no HTTP", "hello\r\n\r\n", "HTTP/1.1 400"},
		{"a method that is none", "G(T / HTTP/1.1\r\nHost: api.example.org\r\n\r\n", "HTTP/1.1 400"},
		{"a bad chunk", "POST / HTTP/1.1\r\nHost: api.example.org\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\nzz\r\n", "HTTP/1.1 400"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, func(w http.ResponseWriter, r *http.Request) {
				if _, err := io.Copy(io.Discard, r.Body); err == nil {
					t.Errorf("a server got it: %s %v", r.Method, r.Header)
				}
			}, options{rules: allowAll(), http1: true})
			if answer := w.said(c.request); !strings.HasPrefix(answer, c.want) {
				t.Errorf("answer = %.100q, want %s", answer, c.want)
			}
		})
	}
}

func TestLengthBesideChunksIsNotPassedOn(t *testing.T) {
	var requests []string
	w := newWorld(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		requests = append(requests, fmt.Sprintf("%s %s %q %d %v", r.Method, r.URL, body, r.ContentLength, r.TransferEncoding))
	}, options{rules: allowAll(), http1: true})
	w.said("POST /a HTTP/1.1\r\nHost: api.example.org\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n" +
		"0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: api.example.org\r\n\r\n")
	for _, r := range requests {
		if strings.Contains(r, "smuggled") {
			t.Errorf("a request was smuggled: %v", requests)
		}
	}
}

func TestGuestThatSaysNothingIsLetGo(t *testing.T) {
	for name, begin := range map[string]string{"nothing": "", "half a handshake": "\x16\x03\x01", "half a head": "GET / HTTP/1.1\r\nHost:"} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, func(http.ResponseWriter, *http.Request) {}, options{plain: true, rules: allowAll(), opener: Options{HeadTimeout: 300 * time.Millisecond}})
			conn := w.dial("")
			io.WriteString(conn, begin)
			if _, err := io.ReadAll(conn); errors.Is(err, net.ErrClosed) {
				t.Error(err)
			}
			if w.dials() > 0 {
				t.Error("the server was dialled")
			}
		})
	}
}

func TestT66RequestForAnotherNameIsRefused(t *testing.T) {
	for _, c := range []struct{ name, line, host string }{
		{"the Host header", "GET / HTTP/1.1", "evil.example.org"},
		{"the Host header's port", "GET / HTTP/1.1", "api.example.org:8443"},
		{"the port of the other scheme", "GET / HTTP/1.1", "api.example.org:80"},
		{"an absolute target", "GET https://evil.example.org/ HTTP/1.1", "api.example.org"},
		{"a name above", "GET / HTTP/1.1", "example.org"},
		{"an address", "GET / HTTP/1.1", "169.254.169.254"},
		{"CONNECT to another", "CONNECT evil.example.org:443 HTTP/1.1", "evil.example.org:443"},
		{"CONNECT to itself", "CONNECT api.example.org:443 HTTP/1.1", "api.example.org:443"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, func(http.ResponseWriter, *http.Request) {}, options{rules: allowAll()})
			answer := w.said(c.line + "\r\nHost: " + c.host + "\r\nConnection: close\r\n\r\n")
			if !strings.HasPrefix(answer, "HTTP/1.1 421") && !strings.HasPrefix(answer, "HTTP/1.1 403") {
				t.Errorf("answer = %q", answer)
			}
			if e := w.event(refused); e.Kind != cove.NetworkRequest || e.Reason == "" {
				t.Errorf("event = %+v", e)
			}
			if w.dials() > 0 {
				t.Error("the server was dialled")
			}
		})
	}
	t.Run("the authority of HTTP/2", func(t *testing.T) {
		w := newWorld(t, func(http.ResponseWriter, *http.Request) {}, options{rules: allowAll()})
		r, _ := http.NewRequestWithContext(t.Context(), "GET", w.url("/"), nil)
		r.Host = "evil.example.org"
		res, err := w.client(true).Do(r)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if res.ProtoMajor != 2 || res.StatusCode != http.StatusMisdirectedRequest || w.dials() > 0 {
			t.Errorf("%s %s, %d dials", res.Proto, res.Status, w.dials())
		}
	})
	t.Run("the same name in other letters and with its port passes", func(t *testing.T) {
		w := newWorld(t, func(http.ResponseWriter, *http.Request) {}, options{rules: allowAll()})
		if answer := w.said("GET / HTTP/1.1\r\nHost: API.Example.ORG.:443\r\nConnection: close\r\n\r\n"); !strings.HasPrefix(answer, "HTTP/1.1 200") {
			t.Errorf("answer = %q", answer)
		}
	})
}

func TestT66HandshakeForAnotherNameIsRefused(t *testing.T) {
	w := newWorld(t, func(http.ResponseWriter, *http.Request) {}, options{rules: allowAll()})
	conn := w.dial("evil.example.org").(*tls.Conn)
	if err := conn.Handshake(); err == nil {
		t.Fatal("the handshake succeeded")
	}
	if e := w.event(refused); !strings.Contains(e.Reason, "evil.example.org") || e.Kind != cove.NetworkConnection {
		t.Errorf("event = %+v", e)
	}
	if w.dials() > 0 {
		t.Error("the server was dialled")
	}
}

func TestClientWithoutServerNameIsServed(t *testing.T) {
	w := newWorld(t, func(http.ResponseWriter, *http.Request) {}, options{rules: allowAll()})
	conn := tls.Client(w.dial(""), &tls.Config{InsecureSkipVerify: true})
	if err := conn.Handshake(); err != nil {
		t.Fatal(err)
	}
	if err := conn.ConnectionState().PeerCertificates[0].VerifyHostname("api.example.org"); err != nil {
		t.Error(err)
	}
}

func TestClientThatPinsACertificateIsAClearEvent(t *testing.T) {
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		t.Run(tls.VersionName(version), func(t *testing.T) {
			w := newWorld(t, func(http.ResponseWriter, *http.Request) {}, options{rules: allowAll()})
			conn := tls.Client(w.dial(""), &tls.Config{ServerName: "api.example.org", RootCAs: x509.NewCertPool(), MinVersion: version, MaxVersion: version})
			if err := conn.Handshake(); err == nil {
				t.Fatal("the handshake succeeded")
			}
			e := w.event(refused)
			if !strings.Contains(e.Reason, "does not trust Cove's certificate") || e.Name != "api.example.org" {
				t.Errorf("event = %+v", e)
			}
			if !strings.Contains(w.log.String(), "does not trust Cove's certificate") {
				t.Errorf("log = %s", w.log)
			}
		})
	}
}

// plainAlert is a client that sends its alert as OpenSSL does.
type plainAlert struct {
	net.Conn
	hello bool
}

func (p *plainAlert) Write(b []byte) (int, error) {
	if !p.hello {
		p.hello = true
		return p.Conn.Write(b)
	}
	if _, err := p.Conn.Write([]byte{recordAlert, 3, 3, 0, 2, 2, 48}); err != nil {
		return 0, err
	}
	return len(b), nil
}

func TestAlertThatIsNotEncryptedIsUnderstood(t *testing.T) {
	w := newWorld(t, func(http.ResponseWriter, *http.Request) {}, options{rules: allowAll()})
	conn := tls.Client(&plainAlert{Conn: w.dial("")}, &tls.Config{ServerName: "api.example.org", RootCAs: x509.NewCertPool()})
	if err := conn.Handshake(); err == nil {
		t.Fatal("the handshake succeeded")
	}
	if e := w.event(refused); !strings.Contains(e.Reason, "does not trust Cove's certificate (unknown certificate authority)") {
		t.Errorf("event = %+v", e)
	}
}

func TestClientThatLeavesAfterTheHandshakeIsToldOf(t *testing.T) {
	w := newWorld(t, func(http.ResponseWriter, *http.Request) {}, options{rules: allowAll()})
	conn := w.dial("api.example.org").(*tls.Conn)
	if err := conn.Handshake(); err != nil {
		t.Fatal(err)
	}
	conn.Close()
	if e := w.event(func(cove.NetworkEvent) bool { return true }); !strings.Contains(e.Reason, "pins a certificate") {
		t.Errorf("event = %+v", e)
	}
}

func TestPlainRequestOnThePortOfTLSIsToldSo(t *testing.T) {
	w := newWorld(t, func(http.ResponseWriter, *http.Request) {}, options{rules: allowAll()})
	conn := w.dial("")
	io.WriteString(conn, "GET / HTTP/1.1\r\nHost: api.example.org:443\r\nConnection: close\r\n\r\n")
	if answer, _ := io.ReadAll(conn); !strings.HasPrefix(string(answer), "HTTP/1.1 400") || !strings.Contains(string(answer), "https") {
		t.Errorf("answer = %q", answer)
	}
}

func TestConnectionEndsWithItsContext(t *testing.T) {
	began := make(chan struct{})
	w := newWorld(t, func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(200)
		w.(http.Flusher).Flush()
		close(began)
		<-r.Context().Done()
	}, options{rules: allowAll()})
	go func() {
		if res, err := w.client(true).Get(w.url("/")); err == nil {
			io.Copy(io.Discard, res.Body)
			res.Body.Close()
		}
	}()
	<-began
	// The world's end cancels the context, and waits for Serve to return and for the server
	// to see that its client has left.
}
