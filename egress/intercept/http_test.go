package intercept

import (
	"bufio"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/covehq/cove"
)

// allowAll makes a connection one that is looked into.
func allowAll() []cove.RequestRule { return []cove.RequestRule{{Host: "api.example.org"}} }

// eachProtocol runs a test for every pair of protocols of the guest and the server.
func eachProtocol(t *testing.T, f func(t *testing.T, guest2, server2 bool)) {
	for _, guest2 := range []bool{false, true} {
		for _, server2 := range []bool{false, true} {
			t.Run(fmt.Sprintf("guest h2 %v, server h2 %v", guest2, server2), func(t *testing.T) { f(t, guest2, server2) })
		}
	}
}

func TestRequestsArriveAsTheyWereSent(t *testing.T) {
	eachProtocol(t, func(t *testing.T, guest2, server2 bool) {
		var got *http.Request
		var body string
		w := newWorld(t, func(w http.ResponseWriter, r *http.Request) {
			content, _ := io.ReadAll(r.Body)
			got, body = r, string(content)
			w.Header().Set("X-Reply", "yes")
			w.Header()["Content-Type"] = nil
			w.WriteHeader(http.StatusTeapot)
			io.WriteString(w, "<html>short and stout")
		}, options{rules: allowAll(), http1: !server2})
		header := http.Header{"X-Custom": {"one", "two"}, "X-Forwarded-For": {"10.0.0.1"}, "User-Agent": nil, "Accept-Encoding": {"br"}}
		if !guest2 { // HTTP/2 has no hops
			header["Connection"], header["X-Hop"] = []string{"X-Hop"}, []string{"gone"}
		}
		res, reply := w.do(w.client(guest2), "PATCH", "/a%2Fb/c%20d?x=1&y=%zz;z", strings.NewReader("content"), header)
		if res.StatusCode != http.StatusTeapot || reply != "<html>short and stout" || res.Header.Get("X-Reply") != "yes" {
			t.Errorf("reply = %d %v %q", res.StatusCode, res.Header, reply)
		}
		if len(res.Header["Content-Type"]) > 0 {
			t.Errorf("a content type was guessed: %v", res.Header["Content-Type"])
		}
		if got.Method != "PATCH" || got.RequestURI != "/a%2Fb/c%20d?x=1&y=%zz;z" || body != "content" || got.Host != "api.example.org" {
			t.Errorf("the server got %s %s of %s with %q", got.Method, got.RequestURI, got.Host, body)
		}
		if want := server2; (got.ProtoMajor == 2) != want {
			t.Errorf("the server was spoken to in %s", got.Proto)
		}
		want := http.Header{"X-Custom": {"one", "two"}, "X-Forwarded-For": {"10.0.0.1"}, "Accept-Encoding": {"br"}, "Content-Length": {"7"}}
		for name, values := range want {
			if !slices.Equal(got.Header[name], values) {
				t.Errorf("%s = %v, want %v", name, got.Header[name], values)
			}
		}
		for name := range got.Header {
			if _, ok := want[name]; !ok {
				t.Errorf("the server got a header that the guest did not send: %s: %v", name, got.Header[name])
			}
		}
		e := w.event(func(e cove.NetworkEvent) bool { return e.Kind == cove.NetworkRequest })
		if !e.Allowed || e.Status != http.StatusTeapot || e.Method != "PATCH" || e.Path != "/a%2Fb/c%20d" || e.Rule != "allow api.example.org" || e.Port != 443 {
			t.Errorf("event = %+v", e)
		}
	})
}

func TestTrailersPassBothWays(t *testing.T) {
	eachProtocol(t, func(t *testing.T, guest2, server2 bool) {
		got := make(chan http.Header, 1)
		w := newWorld(t, func(w http.ResponseWriter, r *http.Request) {
			io.Copy(io.Discard, r.Body)
			got <- r.Trailer
			w.Header().Set("Trailer", "X-Sum")
			io.WriteString(w, "body")
			w.Header().Set("X-Sum", "reply")
			w.Header().Set(http.TrailerPrefix+"X-Late", "unannounced")
		}, options{rules: allowAll(), http1: !server2, secrets: nil})
		r, _ := http.NewRequestWithContext(t.Context(), "POST", w.url("/"), io.MultiReader(strings.NewReader("text")))
		r.Trailer = http.Header{"X-Sum": {"request"}}
		res, err := w.client(guest2).Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		io.Copy(io.Discard, res.Body)
		if trailer := <-got; trailer.Get("X-Sum") != "request" {
			t.Errorf("the request's trailer = %v", trailer)
		}
		if res.Trailer.Get("X-Sum") != "reply" || res.Trailer.Get("X-Late") != "unannounced" {
			t.Errorf("the reply's trailer = %v", res.Trailer)
		}
	})
}

func TestContinueIsAskedOfTheServer(t *testing.T) {
	w := newWorld(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/no" {
			w.WriteHeader(http.StatusExpectationFailed)
			return
		}
		io.Copy(w, r.Body)
	}, options{rules: allowAll(), http1: true})
	conn := w.dial(w.opened.Name)
	reader := bufio.NewReader(conn)
	ask := func(path string) string {
		fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: api.example.org\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n", path)
		line, err := reader.ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		return line
	}
	if line := ask("/yes"); line != "HTTP/1.1 100 Continue\r\n" {
		t.Fatalf("the first line = %q, want 100", line)
	}
	io.WriteString(conn, "hello")
	reader.ReadString('\n')
	res, err := http.ReadResponse(reader, nil)
	if err != nil {
		t.Fatal(err)
	}
	if content, _ := io.ReadAll(res.Body); string(content) != "hello" {
		t.Errorf("the reply = %q", content)
	}
	if line := ask("/no"); !strings.HasPrefix(line, "HTTP/1.1 417") {
		t.Errorf("the first line = %q, want 417 and no 100", line)
	}
}

func TestServerSentEventsArriveOneByOne(t *testing.T) {
	eachProtocol(t, func(t *testing.T, guest2, server2 bool) {
		next := make(chan struct{})
		w := newWorld(t, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "text/event-stream")
			for i := range 3 {
				fmt.Fprintf(w, "data: %d\n\n", i)
				w.(http.Flusher).Flush()
				select { // nothing more comes before the guest has it
				case <-next:
				case <-r.Context().Done():
					return
				}
			}
		}, options{rules: allowAll(), http1: !server2})
		r, _ := http.NewRequestWithContext(t.Context(), "GET", w.url("/events"), nil)
		res, err := w.client(guest2).Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		reader := bufio.NewReader(res.Body)
		for i := range 3 {
			line, err := reader.ReadString('\n')
			if want := fmt.Sprintf("data: %d\n", i); err != nil || line != want {
				t.Fatalf("read %q, %v, want %q", line, err, want)
			}
			reader.ReadString('\n')
			next <- struct{}{}
		}
	})
}

func TestBothWaysAtOnceInHTTP2(t *testing.T) {
	w := newWorld(t, func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusOK)
		w.(http.Flusher).Flush()
		lines := bufio.NewScanner(r.Body)
		for lines.Scan() {
			fmt.Fprintf(w, "echo %s\n", lines.Text())
			w.(http.Flusher).Flush()
		}
	}, options{rules: allowAll(), secrets: nil})
	reader, writer := io.Pipe()
	defer writer.Close()
	r, _ := http.NewRequestWithContext(t.Context(), "POST", w.url("/"), reader)
	res, err := w.client(true).Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	lines := bufio.NewReader(res.Body)
	for _, word := range []string{"one", "two"} {
		fmt.Fprintln(writer, word)
		if line, err := lines.ReadString('\n'); err != nil || line != "echo "+word+"\n" {
			t.Fatalf("read %q, %v", line, err)
		}
	}
}

func TestWebSocketsPassBothWays(t *testing.T) {
	for _, server2 := range []bool{false, true} {
		t.Run(fmt.Sprintf("server h2 %v", server2), func(t *testing.T) {
			w := newWorld(t, func(w http.ResponseWriter, r *http.Request) {
				conn, err := websocket.Accept(w, r, nil)
				if err != nil {
					return
				}
				defer conn.CloseNow()
				conn.SetReadLimit(1 << 20)
				for {
					kind, message, err := conn.Read(r.Context())
					if err != nil {
						return
					}
					if string(message) == "token?" {
						message = []byte(r.Header.Get("Authorization"))
					}
					if conn.Write(r.Context(), kind, message) != nil {
						return
					}
				}
			}, options{http1: !server2, secrets: []secretValue{github("api.example.org")}})
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			conn, _, err := websocket.Dial(ctx, "wss://api.example.org/ws", &websocket.DialOptions{
				HTTPClient: w.client(false), CompressionMode: websocket.CompressionContextTakeover,
				HTTPHeader: http.Header{"Authorization": {"Bearer " + placeholder}},
			})
			if err != nil {
				t.Fatal(err)
			}
			defer conn.CloseNow()
			conn.SetReadLimit(1 << 20)
			// The second one ends in what a value begins with.
			for _, message := range []string{"hello", "hugging", strings.Repeat("long ", 50_000)} {
				if err := conn.Write(ctx, websocket.MessageText, []byte(message)); err != nil {
					t.Fatal(err)
				}
				if _, got, err := conn.Read(ctx); err != nil || string(got) != message {
					t.Fatalf("read %.20q, %v, want %.20q", got, err, message)
				}
			}
			conn.Write(ctx, websocket.MessageText, []byte("token?"))
			if _, got, err := conn.Read(ctx); err != nil || string(got) != "Bearer "+placeholder {
				t.Errorf("the server's token came back as %q, %v", got, err)
			}
			conn.Close(websocket.StatusNormalClosure, "")
			e := w.event(func(e cove.NetworkEvent) bool { return e.Status == http.StatusSwitchingProtocols })
			if !e.Allowed || !slices.Equal(e.Secrets, []string{"GITHUB_TOKEN"}) {
				t.Errorf("event = %+v", e)
			}
			w.hasNo(token)
		})
	}
}

func TestUpgradeToAnotherHTTPIsDeclined(t *testing.T) {
	for _, protocol := range []string{"h2c", "HTTP/2.0", "foo, h2c", "TLS/1.2"} {
		t.Run(protocol, func(t *testing.T) {
			var got http.Header
			w := newWorld(t, func(w http.ResponseWriter, r *http.Request) { got = r.Header }, options{rules: allowAll(), http1: true})
			answer := w.said("GET / HTTP/1.1\r\nHost: api.example.org\r\nConnection: Upgrade, HTTP2-Settings, close\r\nUpgrade: " + protocol + "\r\nHTTP2-Settings: AAMAAABk\r\n\r\n")
			if !strings.HasPrefix(answer, "HTTP/1.1 200 ") || got.Get("Upgrade") != "" || got.Get("Http2-Settings") != "" {
				t.Errorf("answer %.60q, the server got %v", answer, got)
			}
		})
	}
}

func TestBodiesOfAnySizePassInBoundedMemory(t *testing.T) {
	const size = 500 << 20
	if testing.Short() {
		t.Skip("moves a gigabyte")
	}
	w := newWorld(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Method == "PUT" {
			n, err := io.Copy(io.Discard, r.Body)
			fmt.Fprintf(w, "%d %v", n, err)
			return
		}
		w.Header().Set("Content-Length", fmt.Sprint(size))
		io.Copy(w, io.LimitReader(zeros{}, size))
	}, options{secrets: []secretValue{withPlaces(github("api.example.org"), cove.SecretInBody)}})
	stop := watchHeap(t, 100<<20)
	for _, guest2 := range []bool{false, true} {
		r, _ := http.NewRequestWithContext(t.Context(), "GET", w.url("/"), nil)
		res, err := w.client(guest2).Do(r)
		if err != nil {
			t.Fatal(err)
		}
		n, err := io.Copy(io.Discard, res.Body)
		res.Body.Close()
		if err != nil || n != size {
			t.Errorf("down, h2 %v: %d bytes, %v", guest2, n, err)
		}
		_, reply := w.do(w.client(guest2), "PUT", "/", io.LimitReader(zeros{}, size), nil)
		if reply != fmt.Sprintf("%d <nil>", size) {
			t.Errorf("up, h2 %v: the server got %s", guest2, reply)
		}
	}
	stop()
}

// watchHeap fails the test if more than limit is in use while it runs.
func watchHeap(t *testing.T, limit uint64) (stop func()) {
	t.Helper()
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		var most uint64
		for {
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			most = max(most, m.HeapInuse)
			select {
			case <-done:
				if most > limit {
					t.Errorf("the heap had %d MiB", most>>20)
				}
				return
			case <-time.After(50 * time.Millisecond):
			}
		}
	}()
	return func() { close(done); <-ended }
}

func TestBodyIsPassedByteForByte(t *testing.T) {
	eachProtocol(t, func(t *testing.T, guest2, server2 bool) {
		sent := sha256.New()
		w := newWorld(t, func(w http.ResponseWriter, r *http.Request) {
			hash := sha256.New()
			io.Copy(hash, r.Body)
			fmt.Fprintf(w, "%x", hash.Sum(nil))
		}, options{http1: !server2, secrets: []secretValue{withPlaces(github("api.example.org"), cove.SecretInBody)}})
		body := strings.Repeat("ghp_Place and ghp_Placc ", 50_000)
		io.WriteString(sent, body)
		_, got := w.do(w.client(guest2), "POST", "/", strings.NewReader(body), nil)
		if want := fmt.Sprintf("%x", sent.Sum(nil)); got != want {
			t.Errorf("hash of what arrived = %s, want %s", got, want)
		}
	})
}

func TestReplyBeforeTheBodyIsSentReachesTheGuest(t *testing.T) {
	w := newWorld(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Connection", "close")
		w.WriteHeader(http.StatusRequestEntityTooLarge)
	}, options{rules: allowAll(), http1: true})
	conn := w.dial(w.opened.Name)
	io.WriteString(conn, "PUT / HTTP/1.1\r\nHost: api.example.org\r\nContent-Length: 100000000\r\n\r\nonly this")
	line, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil || !strings.HasPrefix(line, "HTTP/1.1 413") {
		t.Errorf("the first line = %q, %v", line, err)
	}
}

func TestPlainHTTPIsOpenedTheSameWay(t *testing.T) {
	var got *http.Request
	w := newWorld(t, func(w http.ResponseWriter, r *http.Request) { got = r; io.WriteString(w, "plain") },
		options{plain: true, rules: []cove.RequestRule{{Host: "api.example.org", Paths: []string{"/ok"}}}})
	if res, reply := w.do(w.client(false), "GET", "/ok", nil, nil); res.StatusCode != 200 || reply != "plain" || got.TLS != nil {
		t.Errorf("reply = %d %q", res.StatusCode, reply)
	}
	if res, reply := w.do(w.client(false), "GET", "/other", nil, nil); res.StatusCode != 403 || !strings.Contains(reply, "--request 'allow GET api.example.org/other'") {
		t.Errorf("reply = %d %q", res.StatusCode, reply)
	}
}

func TestManyRequestsOnManyConnections(t *testing.T) {
	w := newWorld(t, func(w http.ResponseWriter, r *http.Request) { io.Copy(w, r.Body) },
		options{secrets: []secretValue{withPlaces(github("api.example.org"), cove.SecretInBody)}})
	done := make(chan error)
	for worker := range 8 {
		client := w.client(worker%2 == 0)
		go func() {
			for i := range 50 {
				body := fmt.Sprintf("%d-%d", worker, i)
				res, err := client.Post(w.url("/"), "text/plain", strings.NewReader(body))
				if err != nil {
					done <- err
					return
				}
				content, err := io.ReadAll(res.Body)
				res.Body.Close()
				if err != nil || string(content) != body {
					done <- fmt.Errorf("read %q, %v, want %q", content, err, body)
					return
				}
			}
			done <- nil
		}()
	}
	for range 8 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}
