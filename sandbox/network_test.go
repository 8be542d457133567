package sandbox

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/covehq/cove"
	"github.com/covehq/cove/egress"
	"github.com/covehq/cove/guest/wire"
	"github.com/covehq/cove/secret"
	"github.com/covehq/cove/store/sqlite"
)

// token is a secret that nothing but the vault and the opener may have.
const token = "ghp_0123456789abcdefghij"

// outside is a world beyond a host: every name is at one address, where whoever connects
// is told the address back.
type outside struct{ opened chan egress.Opened }

func (o *outside) options(t *testing.T) NetworkOptions {
	t.Helper()
	gateway, err := egress.New(egress.Options{
		Lookup: func(context.Context, string) ([]netip.Addr, error) {
			return []netip.Addr{netip.MustParseAddr("93.184.215.14")}, nil
		},
		Dial: func(_ context.Context, to netip.AddrPort) (net.Conn, error) {
			ours, theirs := net.Pipe()
			go func() { _, _ = io.WriteString(theirs, to.String()); _ = theirs.Close() }()
			return ours, nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { gateway.Close() })
	records, err := sqlite.Open(t.Context(), filepath.Join(t.TempDir(), "secrets"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { records.Close() })
	vault, err := secret.Open(records, filepath.Join(t.TempDir(), "key"))
	if err != nil {
		t.Fatal(err)
	}
	return NetworkOptions{Gateway: gateway, Opener: o, Vault: vault, CA: []byte("certificates")}
}

// Serve implements egress.Opener: it says what it was given and hangs up.
func (o *outside) Serve(_ context.Context, _ net.Conn, c egress.Opened) error {
	o.opened <- c
	return nil
}

func newOutside() *outside { return &outside{opened: make(chan egress.Opened, 1)} }

// serveEgress keeps the spare streams that the host opens, for ask.
func (a *agent) serveEgress(w http.ResponseWriter, _ *http.Request) {
	conn, _, err := w.(http.Hijacker).Hijack()
	if err != nil {
		return
	}
	_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: "+wire.EgressProtocol+"\r\n\r\n")
	select {
	case a.spares <- conn:
	case <-a.stopped:
		_ = conn.Close()
	}
}

// ask asks the host for something, as a program inside would have it.
func (a *agent) ask(t *testing.T, request wire.EgressRequest) (net.Conn, string) {
	t.Helper()
	var conn net.Conn
	select {
	case conn = <-a.spares:
	case <-time.After(20 * time.Second):
		t.Fatal("the host opens no stream")
	}
	t.Cleanup(func() { conn.Close() })
	var reply wire.EgressReply
	if err := errors.Join(wire.WriteFrame(conn, request), wire.ReadFrame(conn, &reply)); err != nil {
		t.Fatal(err)
	}
	if reply.Code != wire.EgressOK {
		a.spares <- conn // for the next request
	}
	return conn, reply.Code
}

// told returns what the guest was told of its environment.
func (a *agent) told(variable string) string {
	a.mu.Lock()
	defer a.mu.Unlock()
	env, _ := a.init["envVars"].(map[string]any)
	return fmt.Sprint(env[variable])
}

func TestASandboxReachesWhatItsRulesAllow(t *testing.T) {
	r := newRig(t, Options{Network: newOutside().options(t)})
	s := r.create(cove.Spec{Network: cove.Network{Allow: []string{"api.example.org"}}})
	if mode := s.View().Spec.Network.Mode; mode != cove.NetworkAllow {
		t.Errorf("mode %q, want allow by default where there are rules", mode)
	}
	agent := r.world.find(s.ID()).agent
	conn, code := agent.ask(t, wire.EgressRequest{Kind: wire.EgressConnect, Name: "api.example.org", Port: 443})
	if code != wire.EgressOK {
		t.Fatalf("allowed: %s", code)
	}
	if got, err := io.ReadAll(conn); err != nil || string(got) != "93.184.215.14:443" {
		t.Errorf("the server says %q, %v", got, err)
	}
	if _, code := agent.ask(t, wire.EgressRequest{Kind: wire.EgressConnect, Name: "other.example.org", Port: 443}); code != wire.EgressForbidden {
		t.Errorf("without a rule: %s", code)
	}
	if _, err := s.SetNetwork(t.Context(), cove.NetworkUpdate{Allow: &[]string{"other.example.org"}}); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"api.example.org": wire.EgressForbidden, "other.example.org": wire.EgressOK} {
		if _, code := agent.ask(t, wire.EgressRequest{Kind: wire.EgressConnect, Name: name, Port: 443}); code != want {
			t.Errorf("%s after the change: %s", name, code)
		}
	}
	status, err := s.Network()
	if err != nil || status.Total != 2 || status.Refused != 2 {
		t.Errorf("status %+v, %v", status, err)
	}
}

func TestT83ASecretIsInNoRecordAndGivenBackAtTheEnd(t *testing.T) {
	out := newOutside()
	network := out.options(t)
	r := newRig(t, Options{Network: network})
	spec := cove.Spec{Name: "box", Network: cove.Network{Secrets: []cove.SecretUse{{Name: "TOKEN", Hosts: []string{"api.example.org"}, Value: token}}}}
	s := r.create(spec)
	again, reused, err := r.Reuse(t.Context(), spec, CreateOptions{})
	if err != nil || !reused || again != s {
		t.Errorf("reuse: %v, %v", reused, err)
	}
	records, err := r.store.List(t.Context())
	if err != nil || len(records) != 1 {
		t.Fatal(records, err)
	}
	if text := fmt.Sprintf("%+v %+v %s", records, s.View(), r.log); strings.Contains(text, token) {
		t.Errorf("the secret is in %s", text)
	}
	agent := r.world.find(s.ID()).agent
	placeholder := agent.told("TOKEN")
	if placeholder == token || len(placeholder) != len(token) || !strings.HasPrefix(placeholder, "ghp_") {
		t.Errorf("the placeholder is %q", placeholder)
	}
	if got := agent.told("SSL_CERT_FILE"); got != wire.TrustBundle {
		t.Errorf("SSL_CERT_FILE is %q", got)
	}
	agent.ask(t, wire.EgressRequest{Kind: wire.EgressConnect, Name: "api.example.org", Port: 443})
	if c := <-out.opened; len(c.Secrets) != 1 || c.Secrets[0].Value != token || c.Secrets[0].Placeholder != placeholder {
		t.Errorf("opened with %d secrets", len(c.Secrets))
	}
	if lent, err := network.Vault.Borrowers(t.Context()); err != nil || len(lent) != 1 {
		t.Errorf("lent to %v, %v", lent, err)
	}
	if err := s.Destroy(t.Context()); err != nil {
		t.Fatal(err)
	}
	if lent, err := network.Vault.Borrowers(t.Context()); err != nil || len(lent) != 0 {
		t.Errorf("lent after the end to %v, %v", lent, err)
	}
}

func TestTheNextHostKnowsTheWayOut(t *testing.T) {
	out := newOutside()
	network := out.options(t)
	r := newRig(t, Options{Network: network})
	s := r.create(cove.Spec{Network: cove.Network{Secrets: []cove.SecretUse{{Name: "TOKEN", Hosts: []string{"api.example.org"}, Value: token}}}})
	if err := network.Vault.Lend(t.Context(), "nobody", []secret.Lease{{Name: "OLD", Placeholder: "abcdefgh"}}); err != nil {
		t.Fatal(err)
	}
	r.shut()
	next := openRig(t, r.world, r.dir, Options{Network: network})
	agent := r.world.find(s.ID()).agent
	placeholder := agent.told("TOKEN")
	for len(agent.spares) > 0 { // of the host before
		(<-agent.spares).Close()
	}
	eventually(t, "the next host serves the way out", func() bool {
		conn := <-agent.spares
		defer conn.Close()
		var reply wire.EgressReply
		request := wire.EgressRequest{Kind: wire.EgressConnect, Name: "api.example.org", Port: 443}
		return wire.WriteFrame(conn, request) == nil && wire.ReadFrame(conn, &reply) == nil && reply.Code == wire.EgressOK
	})
	if c := <-out.opened; len(c.Secrets) != 1 || c.Secrets[0].Value != token || c.Secrets[0].Placeholder != placeholder {
		t.Errorf("opened with %d secrets, the first with another placeholder or value", len(c.Secrets))
	}
	if lent, err := network.Vault.Borrowers(t.Context()); err != nil || len(lent) != 1 || lent[0] != s.ID() {
		t.Errorf("lent to %v, %v", lent, err)
	}
	if _, err := next.Sandbox(t.Context(), s.ID()); err != nil {
		t.Error(err)
	}
}

func TestT69ASandboxReachesThoseOfItsOwnerAlone(t *testing.T) {
	r := newRig(t, Options{Network: newOutside().options(t)})
	for _, owner := range []string{"ann", "bob"} {
		if _, err := r.Create(As(t.Context(), Caller{Owner: owner}), cove.Spec{Name: owner + "s"}, CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	s, err := r.Create(As(t.Context(), Caller{Owner: "ann"}), cove.Spec{Network: cove.Network{Allow: []string{"sandbox:anns:80", "sandbox:bobs:80"}}}, CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	agent := r.world.find(s.ID()).agent
	conn, code := agent.ask(t, wire.EgressRequest{Kind: wire.EgressConnect, Name: "anns.sandbox", Port: 80})
	if code != wire.EgressOK {
		t.Fatalf("its owner's other sandbox: %s", code)
	}
	said := make([]byte, 4)
	if _, err := io.WriteString(conn, "echo"); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(conn, said); err != nil || string(said) != "echo" {
		t.Errorf("the port says %q, %v", said, err)
	}
	for name, port := range map[string]int{"bobs.sandbox": 80, "anns.sandbox": 81, "nobodys.sandbox": 80} {
		if _, code := agent.ask(t, wire.EgressRequest{Kind: wire.EgressConnect, Name: name, Port: port}); code == wire.EgressOK && port != 80 {
			t.Errorf("%s:%d is reached", name, port)
		}
	}
}

func TestNetworksThatCantBe(t *testing.T) {
	r := newRig(t, Options{Network: newOutside().options(t)})
	if _, err := r.SetSecret(t.Context(), "STORED", cove.SecretInput{Value: token, Hosts: []string{"api.example.org"}}); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		network cove.Network
		code    cove.Code
		texts   []string
	}{
		"an unknown mode":                   {cove.Network{Mode: "some"}, cove.Invalid, []string{"some"}},
		"rules in none":                     {cove.Network{Mode: cove.NetworkNone, Allow: []string{"a.test"}}, cove.Invalid, []string{"allow"}},
		"a rule that is none":               {cove.Network{Allow: []string{"a..b"}}, cove.Invalid, []string{"a..b"}},
		"a name of 300 characters":          {cove.Network{Allow: []string{strings.Repeat("a.", 150) + "test"}}, cove.Invalid, nil},
		"a range with a private one in it":  {cove.Network{Allow: []string{"10.0.0.0/7"}}, cove.Forbidden, []string{"10.0.0.0/7"}},
		"a preset of which there is none":   {cove.Network{Allow: []string{"pip"}}, cove.Invalid, []string{"pip"}},
		"a limit below zero":                {cove.Network{Allow: []string{"a.test"}, Limits: cove.NetworkLimits{Rate: -1}}, cove.Invalid, nil},
		"a secret that nobody has set":      {cove.Network{Secrets: []cove.SecretUse{{Name: "NONE"}}}, cove.NotFound, []string{"NONE"}},
		"a secret for a host it is not for": {cove.Network{Secrets: []cove.SecretUse{{Name: "STORED", Hosts: []string{"evil.test"}}}}, cove.Forbidden, []string{"evil.test"}},
		"a secret without a host":           {cove.Network{Secrets: []cove.SecretUse{{Name: "TOKEN", Value: token}}}, cove.Invalid, []string{"TOKEN"}},
		"a secret twice":                    {cove.Network{Secrets: []cove.SecretUse{{Name: "STORED"}, {Name: "STORED", Env: "B"}}}, cove.Invalid, []string{"twice"}},
		"a variable that is no name":        {cove.Network{Secrets: []cove.SecretUse{{Name: "STORED", Env: "A=B"}}}, cove.Invalid, []string{"A=B"}},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := r.Create(t.Context(), cove.Spec{Network: c.network}, CreateOptions{})
			wantError(t, err, c.code, c.texts...)
			if strings.Contains(fmt.Sprint(err), token) {
				t.Errorf("the error has the secret: %v", err)
			}
			if ids := r.world.ids(); len(ids) > 0 {
				t.Errorf("made: %v", ids)
			}
		})
	}
}
