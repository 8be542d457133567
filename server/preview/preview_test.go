package preview

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/covehq/cove"
)

const id = "abcdefghij2345677kst"

func TestT72APreviewHasOneName(t *testing.T) {
	const domain = "preview.example.org"
	for name, test := range map[string]struct {
		host string
		want int // the port, 0 for none
	}{
		"as it is":                            {"8000-" + id + "." + domain, 8000},
		"with a port":                         {"8000-" + id + "." + domain + ":7080", 8000},
		"in upper case":                       {strings.ToUpper("8000-" + id + "." + domain), 8000},
		"the lowest port":                     {"1-" + id + "." + domain, 1},
		"the highest port":                    {"65535-" + id + "." + domain, 65535},
		"a leading zero":                      {"02280-" + id + "." + domain, 0},
		"a plus":                              {"+2280-" + id + "." + domain, 0},
		"a minus":                             {"-2280-" + id + "." + domain, 0},
		"a space before":                      {" 2280-" + id + "." + domain, 0},
		"a space after the port":              {"2280 -" + id + "." + domain, 0},
		"hexadecimal":                         {"0x8e8-" + id + "." + domain, 0},
		"an underscore":                       {"2_280-" + id + "." + domain, 0},
		"an exponent":                         {"1e3-" + id + "." + domain, 0},
		"full-width digits":                   {"２２８０-" + id + "." + domain, 0},
		"arabic digits":                       {"٨٠٠٠-" + id + "." + domain, 0},
		"port 0":                              {"0-" + id + "." + domain, 0},
		"port 65536":                          {"65536-" + id + "." + domain, 0},
		"port 67816, which is 2280 in 16 bit": {"67816-" + id + "." + domain, 0},
		"a port beyond 64 bit":                {"18446744073709553896-" + id + "." + domain, 0},
		"no port":                             {id + "." + domain, 0},
		"an empty port":                       {"-" + id + "." + domain, 0},
		"no id":                               {"8000-." + domain, 0},
		"neither":                             {"." + domain, 0},
		"the domain itself":                   {domain, 0},
		"two ports":                           {"8000-22-" + id + "." + domain, 0},
		"two ids":                             {"8000-" + id + "-" + id + "." + domain, 0},
		"two names":                           {"8000-" + id + ".9000-" + id + "." + domain, 0},
		"a label before":                      {"x.8000-" + id + "." + domain, 0},
		"a trailing dot":                      {"8000-" + id + "." + domain + ".", 0},
		"a trailing dot and a port":           {"8000-" + id + "." + domain + ".:80", 0},
		"another domain":                      {"8000-" + id + ".example.org", 0},
		"a domain that ends alike":            {"8000-" + id + ".xpreview.example.org", 0},
		"a domain that goes on":               {"8000-" + id + "." + domain + ".evil.test", 0},
		"the Kelvin sign for a k":             {"8000-" + strings.Replace(id, "k", "\u212a", 1) + "." + domain, 0},
		"a long s for an s":                   {"8000-" + strings.Replace(id, "s", "\u017f", 1) + "." + domain, 0},
		"a Cyrillic a":                        {"8000-" + strings.Replace(id, "a", "\u0430", 1) + "." + domain, 0},
		"punycode":                            {"xn--8000-" + id + "." + domain, 0},
		"an ideographic full stop":            {"8000-" + id + "\u3002" + domain, 0},
		"a full-width hyphen":                 {"8000\uff0d" + id + "." + domain, 0},
		"a soft hyphen":                       {"8000-\u00ad" + id + "." + domain, 0},
		"an IPv4 address":                     {"127.0.0.1", 0},
		"an IPv6 address":                     {"[::1]:8000", 0},
		"an IPv6 address as a label":          {"[::1]-" + id + "." + domain, 0},
		"user information":                    {"user@8000-" + id + "." + domain, 0},
		"user information with a port":        {"user:80@8000-" + id + "." + domain, 0},
		"a port that is none":                 {"8000-" + id + "." + domain + ":x", 0},
		"an empty port at the end":            {"8000-" + id + "." + domain + ":", 0},
		"a port with a leading zero":          {"8000-" + id + "." + domain + ":080", 0},
		"two ports at the end":                {"8000-" + id + "." + domain + ":80:81", 0},
		"a NUL":                               {"8000-" + id + "\x00." + domain, 0},
		"a slash":                             {"8000-" + id + "/." + domain, 0},
		"an escape":                           {"%38000-" + id + "." + domain, 0},
		"an id that begins with a digit":      {"8000-2" + id + "." + domain, 0},
		"an id that is too long":              {"8000-" + strings.Repeat("a", 58) + "." + domain, 0},
		"a sandbox's name":                    {"8000-my-app." + domain, 0},
		"nothing":                             {"", 0},
	} {
		got, ok := Parse(test.host, domain)
		if ok != (test.want != 0) || ok && (got != Name{test.want, id}) {
			t.Errorf("%s: %q is %+v, %v", name, test.host, got, ok)
		}
		if ok && got.Label() != lower(strings.SplitN(test.host, ".", 2)[0]) {
			t.Errorf("%s: the label is %s", name, got.Label())
		}
	}
}

func TestDomains(t *testing.T) {
	for name, test := range map[string]struct {
		text   string
		domain string
		port   int
	}{
		"the default":             {"localhost", "localhost", 0},
		"with a port":             {"localhost:7080", "localhost", 7080},
		"several labels":          {"Preview.Example.org", "preview.example.org", 0},
		"punycode":                {"xn--bcher-kva.example", "xn--bcher-kva.example", 0},
		"an address":              {"127.0.0.1", "", 0},
		"an IPv6 address":         {"[::1]:80", "", 0},
		"a trailing dot":          {"example.org.", "", 0},
		"a leading dot":           {".example.org", "", 0},
		"a wildcard":              {"*.example.org", "", 0},
		"an address of the web":   {"https://example.org", "", 0},
		"letters beyond ASCII":    {"bücher.example", "", 0},
		"a port that is none":     {"example.org:x", "", 0},
		"a port that is too high": {"example.org:65536", "", 0},
		"a name that is too long": {strings.Repeat("abcdefgh.", 30) + "org", "", 0},
		"nothing":                 {"", "", 0},
	} {
		domain, port, err := ParseDomain(test.text)
		if domain != test.domain || port != test.port || (err == nil) != (test.domain != "") {
			t.Errorf("%s: %s, %d, %v", name, domain, port, err)
		}
		if err != nil && (!errors.Is(err, cove.Invalid) || cove.HintOf(err) == "") {
			t.Errorf("%s: error %v, hint %q", name, err, cove.HintOf(err))
		}
	}
}

func TestT72ATokenIsGoodForItsPreviewAlone(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	key := NewKey()
	grant := Grant{Use: ForLink, Name: Name{8000, id}, Epoch: 3, Expires: now.Add(time.Hour)}
	token := key.Sign(grant)
	if expires, ok := key.Check(Grant{Use: ForLink, Name: Name{8000, id}, Epoch: 3}, token, now); !ok || !expires.Equal(grant.Expires) {
		t.Fatalf("its own: %v, %v", expires, ok)
	}
	other := func(change func(*Grant)) Grant {
		g := grant
		change(&g)
		return g
	}
	for name, test := range map[string]struct {
		key   *Key
		grant Grant
		token string
		now   time.Time
	}{
		"another port":        {key, other(func(g *Grant) { g.Name.Port = 8001 }), token, now},
		"another sandbox":     {key, other(func(g *Grant) { g.Name.ID = "a" + id[1:] + "b" }), token, now},
		"another use":         {key, other(func(g *Grant) { g.Use = ForCookie }), token, now},
		"after a revocation":  {key, other(func(g *Grant) { g.Epoch = 4 }), token, now},
		"another daemon":      {NewKey(), grant, token, now},
		"at its end":          {key, grant, token, grant.Expires},
		"one bit more":        {key, grant, flip(token, len(token)-2), now},
		"a later end":         {key, grant, flip(token, 9), now},
		"none":                {key, grant, "", now},
		"too short":           {key, grant, token[:len(token)-1], now},
		"too long":            {key, grant, token + "A", now},
		"with padding":        {key, grant, token + "==", now},
		"with a line break":   {key, grant, token[:20] + "\n" + token[21:], now},
		"of spaces":           {key, grant, strings.Repeat(" ", len(token)), now},
		"in another spelling": {key, grant, lastBits(token), now},
		"what is not base64":  {key, grant, strings.Repeat("!", len(token)), now},
		"of a megabyte":       {key, grant, strings.Repeat("A", 1<<20), now},
	} {
		if _, ok := test.key.Check(test.grant, test.token, test.now); ok {
			t.Errorf("%s: it is good", name)
		}
	}
}

func flip(token string, at int) string {
	b := []byte(token)
	if b[at] == 'A' {
		b[at] = 'B'
	} else {
		b[at] = 'A'
	}
	return string(b)
}

// lastBits changes the bits of the last character that stand for nothing.
func lastBits(token string) string {
	const digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	last := strings.IndexByte(digits, token[len(token)-1])
	return token[:len(token)-1] + digits[last^1:last^1+1]
}

func TestTheKeyIsKept(t *testing.T) {
	path := filepath.Join(t.TempDir(), "preview.key")
	var group sync.WaitGroup
	keys := make([]*Key, 8)
	for i := range keys {
		group.Go(func() {
			var err error
			if keys[i], err = OpenKey(path); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	for i, key := range keys {
		if key == nil || *key != *keys[0] || *key == (Key{}) {
			t.Errorf("key %d is another one", i)
		}
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the file has mode %v, %v", info.Mode(), err)
	}
	if entries, err := os.ReadDir(filepath.Dir(path)); err != nil || len(entries) != 1 {
		t.Errorf("left beside it: %v, %v", entries, err)
	}
}

func TestAKeyThatOthersCanReadIsRefused(t *testing.T) {
	for name, spoil := range map[string]func(path string) error{
		"readable to all": func(path string) error { return os.Chmod(path, 0o644) },
		"cut short":       func(path string) error { return os.Truncate(path, 31) },
		"empty":           func(path string) error { return os.Truncate(path, 0) },
		"a link": func(path string) error {
			return errors.Join(os.Rename(path, path+"2"), os.Symlink(path+"2", path))
		},
		"a directory": func(path string) error { return errors.Join(os.Remove(path), os.Mkdir(path, 0o700)) },
	} {
		path := filepath.Join(t.TempDir(), "key")
		if _, err := OpenKey(path); err != nil {
			t.Fatal(err)
		}
		if err := spoil(path); err != nil {
			t.Fatal(err)
		}
		if _, err := OpenKey(path); err == nil {
			t.Errorf("%s: it is taken", name)
		}
	}
}
