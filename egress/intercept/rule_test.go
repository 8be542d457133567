package intercept

import (
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/covehq/cove"
)

func TestGlobsMatchPaths(t *testing.T) {
	for _, c := range []struct {
		glob, path string
		want       bool
	}{
		{"/a", "/a", true},
		{"/a", "/a/", false},
		{"/a", "/A", false},
		{"/a/*", "/a/b", true},
		{"/a/*", "/a/", true},
		{"/a/*", "/a/b/c", false},
		{"/a/*/c", "/a/b/c", true},
		{"/a/*/c", "/a/b/b/c", false},
		{"/a*c/d", "/abbc/d", true},
		{"/a*c/d", "/ab/c/d", false},
		{"/a/**", "/a", true},
		{"/a/**", "/a/", true},
		{"/a/**", "/a/b/c/d", true},
		{"/a/**", "/ab", false},
		{"/a/**/d", "/a/d", true},
		{"/a/**/d", "/a/b/c/d", true},
		{"/a/**/d", "/a/bd", false},
		{"/a**", "/abc/d", true},
		{"**", "/any/thing", true},
		{"/**/x", "/x", true},
		{"/**/**/x", "/a/x", true},
		{"*", "/a", false},
		{"*", "*", true},
		{"/a?[b]", "/a?[b]", true},
		{"/*.git/**", "/x.git/info/refs", true},
		{"/**/*.tgz", "/@a/b/-/b-1.0.tgz", true},
		{"", "/", false},
	} {
		if got := matchGlob(c.glob, c.path); got != c.want {
			t.Errorf("matchGlob(%q, %q) = %v", c.glob, c.path, got)
		}
	}
}

func FuzzGlobIsItsRegularExpression(f *testing.F) {
	f.Add("/a/**/b*", "/a/x/y/bc")
	f.Add("/**", "/")
	f.Fuzz(func(t *testing.T, glob, path string) {
		if len(glob) > 30 || len(path) > 60 || strings.Contains(glob, "***") || !utf8.ValidString(glob) || !utf8.ValidString(path) {
			return
		}
		glob, path = "/"+glob, "/"+path
		re := strings.NewReplacer(`/\*\*/`, `/(?:.*/)?`, `\*\*`, `.*`, `\*`, `[^/]*`)
		text := regexp.QuoteMeta(glob)
		for strings.Contains(text, `/\*\*/\*\*/`) {
			text = strings.ReplaceAll(text, `/\*\*/\*\*/`, `/\*\*/`) // they share a slash
		}
		tail := ""
		if stem, ok := strings.CutSuffix(text, `/\*\*`); ok {
			text, tail = stem, `(?:/.*)?`
		}
		want := regexp.MustCompile(`(?s)\A` + re.Replace(text) + tail + `\z`).Match([]byte(path))
		if got := matchGlob(glob, path); got != want {
			t.Errorf("matchGlob(%q, %q) = %v, and its regular expression says %v", glob, path, got, want)
		}
	})
}

func TestRulesDecideAboutEveryReadingOfAPath(t *testing.T) {
	public := []cove.RequestRule{{Host: "h", Paths: []string{"/public/**"}}}
	noAdmin := []cove.RequestRule{{Host: "h", Action: cove.RequestDeny, Paths: []string{"/admin/**"}}, {Host: "h"}}
	for _, c := range []struct {
		path                string
		public, allButAdmin bool
	}{
		{"/public/x", true, true},
		{"/public/a%20b", true, true},
		{"/public/@scope%2Fname", true, true},
		{"/public/x/../y", true, true},
		{"/public//x", true, true},
		{"/public/a;v=1/b", true, true},
		{"/other", false, true},
		{"/admin", false, false},
		{"/admin/x", false, false},
		{"/public/../admin", false, false},
		{"/public/%2e%2e/admin", false, false},
		{"/public/%2E%2e%2Fadmin", false, false},
		{"/public%2f..%2fadmin/x", false, false},
		{"/public/..%252fadmin", false, false},
		{"/public/%252e%252e/admin", false, false},
		{`/public/..\admin`, false, false},
		{"/public/..%5cadmin", false, false},
		{"/public/..;/admin", false, false},
		{"/public/..;x=1/admin", false, false},
		{"/;/admin", false, false},
		{"//admin", false, false},
		{"/./admin", false, false},
		{"/x/../admin/", false, false},
		{"/%61dmin", false, false},
		{"/%2561dmin", false, false},
		{"/admin;a=b/x", false, false},
		{"/public/x%00", false, false},
		{"/public/x%0a", false, false},
		{"/public/%ff", false, false},
		{"/public/%25252525252e", false, false},
		{"/public/" + strings.Repeat("x", maxPath), false, false},
	} {
		target, err := url.ParseRequestURI(c.path)
		if err != nil {
			t.Fatal(err)
		}
		for name, rules := range map[string][]cove.RequestRule{"public": public, "all but admin": noAdmin} {
			want := c.public
			if name != "public" {
				want = c.allButAdmin
			}
			d := decide(rules, "h", "GET", target, nil)
			if d.allowed != want {
				t.Errorf("%.80s with %s = %+v, want %v", c.path, name, d, want)
			}
			if !d.allowed && d.reason == "" {
				t.Errorf("%.80s is refused without a reason", c.path)
			}
		}
	}
}

func TestFirstRuleThatMatchesDecides(t *testing.T) {
	rules := []cove.RequestRule{
		{Host: "h", Methods: []string{"GET"}, Paths: []string{"/repos/**", "/user"}},
		{Host: "h", Methods: []string{"POST"}, Paths: []string{"/repos/*/*/issues"}, Headers: map[string]string{"X-Team": "a"}},
		{Host: "h", Action: cove.RequestAudit, Paths: []string{"/audit", "/repos/x"}},
		{Host: "h", Action: cove.RequestDeny, Methods: []string{"DELETE", "GET"}},
		{Host: "h", Methods: []string{"DELETE"}},
	}
	for _, c := range []struct {
		method, path string
		header       http.Header
		allowed      bool
		rule, reason string
	}{
		{"GET", "/repos/a/b", nil, true, "allow GET h/repos/**,/user", ""},
		{"GET", "/user", nil, true, "allow GET h/repos/**,/user", ""},
		{"POST", "/repos/a/b/issues", nil, true, "allow POST h/repos/*/*/issues", ""},
		{"POST", "/repos/a/b/pulls", nil, false, "", "add --request 'allow POST h/repos/a/b/pulls'"},
		{"DELETE", "/repos/a/b", nil, false, "deny DELETE,GET h", "refuses it"},
		{"DELETE", "/repos/x", nil, true, "audit h/audit,/repos/x", "would refuse it"},
		{"PUT", "/audit", nil, true, "audit h/audit,/repos/x", "no other rule allows it"},
		{"get", "/user", nil, false, "", "no request rule"},
		{"POST", "/repos/a/b/issues", http.Header{"X-Http-Method-Override": {"DELETE"}}, false, "deny DELETE,GET h", "refuses it"},
		{"GET", "/repos/a", http.Header{"X-Method-Override": {"patch"}}, false, "", "allow PATCH"},
		{"GET", "/repos/a", http.Header{"X-Http-Method": {"GET"}}, true, "allow GET h/repos/**,/user", ""},
		{"GET", "/repos/a%2F..%2Fb", nil, true, "allow GET h/repos/**,/user", ""},
	} {
		target, err := url.ParseRequestURI(c.path)
		if err != nil {
			t.Fatal(err)
		}
		d := decide(rules, "h", c.method, target, c.header)
		if d.allowed != c.allowed || d.rule != c.rule || !strings.Contains(d.reason, c.reason) || c.reason == "" && d.reason != "" {
			t.Errorf("%s %s = %+v, want %v by %q because %q", c.method, c.path, d, c.allowed, c.rule, c.reason)
		}
	}
	if d := decide(nil, "h", "GET", &url.URL{Path: "/x/../%00"}, nil); !d.allowed {
		t.Errorf("without rules = %+v", d)
	}
}

func TestRefusedRequestSaysWhichRuleAndWhatWouldAllowIt(t *testing.T) {
	w := newWorld(t, func(w http.ResponseWriter, r *http.Request) { w.Header().Set("X-Got", r.Header.Get("X-Team")) }, options{rules: []cove.RequestRule{
		{Host: "api.example.org", Methods: []string{"GET"}, Paths: []string{"/ok"}, Headers: map[string]string{"X-Team": "a"}},
		{Host: "api.example.org", Action: cove.RequestDeny, Paths: []string{"/no"}},
		{Host: "api.example.org", Methods: []string{"OPTIONS"}},
	}})
	for _, h2 := range []bool{false, true} {
		client := w.client(h2)
		if res, _ := w.do(client, "GET", "/ok", nil, http.Header{"X-Team": {"guest's"}}); res.StatusCode != 200 || res.Header.Get("X-Got") != "a" {
			t.Errorf("allowed = %d, injected %q", res.StatusCode, res.Header.Get("X-Got"))
		}
		dials := w.dials()
		for path, want := range map[string]string{"/no": `the request rule "deny api.example.org/no" refuses it`, "/ok": "add --request 'allow POST api.example.org/ok'"} {
			res, reply := w.do(client, "POST", path, strings.NewReader("body"), nil)
			if res.StatusCode != http.StatusForbidden || !strings.Contains(reply, want) || res.Header.Get("Content-Type") != "text/plain; charset=utf-8" {
				t.Errorf("POST %s = %d %v %q, want %q", path, res.StatusCode, res.Header, reply, want)
			}
		}
		if w.dials() != dials {
			t.Error("a refused request made a connection")
		}
	}
	e := w.event(func(e cove.NetworkEvent) bool { return e.Path == "/no" })
	if e.Allowed || e.Status != 403 || e.Method != "POST" || e.Rule != "deny api.example.org/no" || e.Reason == "" {
		t.Errorf("event = %+v", e)
	}
	if answer := w.said("OPTIONS * HTTP/1.1\r\nHost: api.example.org\r\nConnection: close\r\n\r\n"); !strings.HasPrefix(answer, "HTTP/1.1 200") {
		t.Errorf("OPTIONS * = %q", answer)
	}
}
