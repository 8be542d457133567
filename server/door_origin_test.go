package server

import (
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/covehq/cove"
)

func TestTheDoorAnswersToItsNamesAloneT76(t *testing.T) {
	h := newHouse(t, DoorOptions{Hosts: []string{"Cove.Example.org", "192.0.2.7"}})
	secret := h.key(cove.KeyInput{Name: "ci"})
	_, port, _ := net.SplitHostPort(h.at)
	for host, want := range map[string]int{
		h.at: 200, "localhost": 200, "localhost:" + port: 200, "LOCALHOST.": 200, "[::1]:" + port: 200, "127.0.0.1": 200,
		"cove.example.org": 200, "cove.example.org:443": 200, "192.0.2.7:1": 200,
		"evil.com": 421, "evil.com:" + port: 421, "localhost.evil.com": 421, "127.0.0.1.evil.com": 421, "cove.example.org.evil.com": 421,
		"notcove.example.org": 421, "192.0.2.8": 421, "0.0.0.0": 421, "[::ffff:192.0.2.8]": 421,
	} {
		for _, path := range []string{"/v1/version", "/healthz"} {
			header := bearer(secret)
			header.Set("Host", host)
			if reply, text := h.knock(http.MethodGet, path, header, nil); reply.StatusCode != want {
				t.Errorf("%s of %s: %d %s, want %d", path, host, reply.StatusCode, text, want)
			}
		}
	}
}

func TestPagesOfOtherOriginsAreRefusedT77T78(t *testing.T) {
	h := newHouse(t, DoorOptions{})
	secret := h.key(cove.KeyInput{Name: "ci"})
	box := h.sandboxOf(h.caller(secret))
	own := "http://" + h.at
	for name, test := range map[string]struct {
		header http.Header
		passes bool
	}{
		"a program":                   {http.Header{}, true},
		"a page of this server":       {http.Header{"Origin": {own}, "Sec-Fetch-Site": {"same-origin"}}, true},
		"a page of another host":      {http.Header{"Origin": {"http://evil.com"}}, false},
		"a page of another port":      {http.Header{"Origin": {"http://127.0.0.1:1"}}, false},
		"a page by another scheme":    {http.Header{"Origin": {"ftp://" + h.at}}, false},
		"a longer name":               {http.Header{"Origin": {own + ".evil.com"}}, false},
		"a page without an origin":    {http.Header{"Origin": {"null"}}, false},
		"a page that says so alone":   {http.Header{"Sec-Fetch-Site": {"cross-site"}}, false},
		"a page of the same site":     {http.Header{"Sec-Fetch-Site": {"same-site"}}, false},
		"a page with two origins":     {http.Header{"Origin": {own, "http://evil.com"}}, false},
		"a page with an empty one":    {http.Header{"Origin": {""}}, false},
		"an extension":                {http.Header{"Origin": {"chrome-extension://abc"}}, false},
		"a page behind a proxy's lie": {http.Header{"Origin": {"http://evil.com"}, "X-Forwarded-Host": {"evil.com"}}, false},
	} {
		for _, request := range []struct {
			method, path string
			header       http.Header
		}{
			{http.MethodGet, "/v1/version", nil},
			{http.MethodPost, "/v1/sandboxes/" + box.ID + "/exec", http.Header{"Content-Type": {"text/plain"}}},
			{http.MethodGet, "/v1/sandboxes/" + box.ID + "/processes/1/tty", http.Header{
				"Connection": {"Upgrade"}, "Upgrade": {"websocket"}, "Sec-Websocket-Version": {"13"}, "Sec-Websocket-Key": {"dGhlIHNhbXBsZSBub25jZQ=="},
			}},
			{http.MethodGet, "/v1/sandboxes/" + box.ID + "/ports/1/x", nil},
			{http.MethodOptions, "/v1/sandboxes", http.Header{"Access-Control-Request-Method": {"POST"}, "Access-Control-Request-Headers": {"authorization"}}},
		} {
			for _, key := range []string{secret, ""} {
				header := http.Header{}
				for _, more := range []http.Header{test.header, request.header} {
					for name, values := range more {
						header[name] = values
					}
				}
				if key != "" {
					header.Set("Authorization", "Bearer "+key)
				}
				reply, text := h.knock(request.method, request.path, header, nil)
				if passes := reply.StatusCode != http.StatusForbidden; passes != test.passes {
					t.Errorf("%s: %s %s is answered with %d %s", name, request.method, request.path, reply.StatusCode, text)
				}
				for header := range reply.Header { // T79
					if strings.HasPrefix(header, "Access-Control-") {
						t.Errorf("%s: %s %s has the header %s", name, request.method, request.path, header)
					}
				}
			}
		}
	}
}

func TestWhatAProxySaysIsBelievedFromThisMachineAlone(t *testing.T) {
	request := func(peer string, header http.Header) *http.Request {
		r := httptest.NewRequest(http.MethodGet, "http://localhost/", nil)
		r.RemoteAddr = peer
		for name, values := range header {
			r.Header[name] = values
		}
		return r
	}
	for name, test := range map[string]struct {
		behind bool
		peer   string
		header http.Header
		client string
		code   cove.Code
	}{
		"nothing is said":              {true, "127.0.0.1:9", nil, "127.0.0.1:9", ""},
		"a proxy on this machine":      {true, "127.0.0.1:9", http.Header{"X-Forwarded-For": {"192.0.2.1"}, "X-Forwarded-Proto": {"https"}}, "192.0.2.1", ""},
		"a proxy by IPv6":              {true, "[::1]:9", http.Header{"X-Forwarded-For": {"2001:db8::1"}}, "2001:db8::1", ""},
		"what the client had sent":     {true, "127.0.0.1:9", http.Header{"X-Forwarded-For": {"10.0.0.1, 192.0.2.1"}}, "192.0.2.1", ""},
		"two headers":                  {true, "127.0.0.1:9", http.Header{"X-Forwarded-For": {"10.0.0.1", "192.0.2.1"}}, "192.0.2.1", ""},
		"no address":                   {true, "127.0.0.1:9", http.Header{"X-Forwarded-For": {"unknown"}}, "127.0.0.1:9", ""},
		"a machine elsewhere":          {true, "192.0.2.9:9", http.Header{"X-Forwarded-For": {"192.0.2.1"}, "X-Forwarded-Proto": {"http"}}, "192.0.2.9:9", ""},
		"there should be no proxy":     {false, "127.0.0.1:9", http.Header{"X-Forwarded-For": {"192.0.2.1"}, "X-Forwarded-Proto": {"http"}}, "127.0.0.1:9", ""},
		"the way to it was open":       {true, "127.0.0.1:9", http.Header{"X-Forwarded-Proto": {"http"}}, "127.0.0.1:9", cove.Forbidden},
		"the page of its own is https": {true, "127.0.0.1:9", http.Header{"Origin": {"https://localhost"}}, "127.0.0.1:9", ""},
		"an open page of its own":      {true, "127.0.0.1:9", http.Header{"Origin": {"http://localhost"}}, "127.0.0.1:9", cove.Forbidden},
	} {
		t.Run(name, func(t *testing.T) {
			d := newDoor(DoorOptions{BehindProxy: test.behind}, 1)
			r := request(test.peer, test.header)
			if got := d.client(r); got != test.client {
				t.Errorf("the client is %s, want %s", got, test.client)
			}
			if err := d.admit(r); test.code == "" && err != nil || test.code != "" && cove.CodeOf(err) != test.code {
				t.Errorf("admitted with %v, want %q", err, test.code)
			}
		})
	}
}

func TestCallersShareTheRateOfTheirNetwork(t *testing.T) {
	for client, want := range map[string]string{
		"192.0.2.1:80": "192.0.2.1", "192.0.2.1": "192.0.2.1", "[::ffff:192.0.2.1]:80": "192.0.2.1",
		"[2001:db8:1:2:3::4]:80": "2001:db8:1:2::/64", "2001:db8:1:2:ffff::": "2001:db8:1:2::/64", "[fe80::1%eth0]:80": "fe80::/64", "@": "@",
	} {
		if got := network(client); got != want {
			t.Errorf("network(%q) = %q, want %q", client, got, want)
		}
	}
}

func TestLimitersForgetWhoCameLongestAgo(t *testing.T) {
	l := newLimiters(0, 1, 2)
	var allowed []bool
	for _, name := range []string{"a", "a", "b", "a", "c", "a", "b"} {
		allowed = append(allowed, l.allow(name))
	}
	// c takes the place of b, which begins anew.
	if want := []bool{true, false, true, false, true, false, true}; !slices.Equal(allowed, want) {
		t.Errorf("allowed %v, want %v", allowed, want)
	}
	if len(l.byName) != 2 || l.recent.Len() != 2 {
		t.Errorf("%d and %d are kept, want 2", len(l.byName), l.recent.Len())
	}
}
