package sandbox

import (
	"cmp"
	"context"
	"maps"
	"net"
	"slices"

	"github.com/covehq/cove"
	"github.com/covehq/cove/egress"
	"github.com/covehq/cove/guest/dial"
	"github.com/covehq/cove/guest/wire"
	"github.com/covehq/cove/secret"
)

// NetworkOptions is what a Host needs for its sandboxes to reach out. Without a Gateway
// they can't, and a spec that asks for it is cove.NotSupported.
type NetworkOptions struct {
	// Gateway stays the caller's to close, after the Host.
	Gateway *egress.Gateway
	// Opener speaks TLS and HTTP for rules on requests and for secrets, which are
	// cove.NotSupported without it. CA are the certificates, in PEM, that programs inside
	// have to trust then.
	Opener egress.Opener
	CA     []byte
	// Vault has the secrets; nil for none.
	Vault *secret.Vault
	// Presets says what names of rules mean; nil for none.
	Presets Presets
}

// Presets says what names of rules mean on this machine. Its methods may be called
// concurrently.
type Presets interface {
	// Rules returns what a name stands for. The error is for the user.
	Rules(name string) ([]string, error)
	// Environment returns the variables by which programs inside use what a name stands
	// for.
	Environment(name string) map[string]string
	// List describes all that there are.
	List(ctx context.Context) []cove.NetworkPreset
}

// route is a sandbox's way out.
type route struct {
	rules   *egress.Rules
	lent    []secret.Lease
	session *egress.Session // nil before it is open
}

// takeSecrets moves the values of secrets out of a spec, which is written down and shown.
func takeSecrets(spec *cove.Spec) map[string]string {
	values := map[string]string{}
	spec.Network.Secrets = slices.Clone(spec.Network.Secrets)
	for i := range spec.Network.Secrets {
		use := &spec.Network.Secrets[i]
		if use.Value != "" {
			values[use.Name] = use.Value
			use.Value = ""
		}
	}
	return values
}

// plan makes the way out that a spec asks for, and completes the hosts of its secrets. It
// notes what is wrong with it. values are those of secrets that the spec came with; stored ones
// are the owner's.
func (h *Host) plan(ctx context.Context, p *problems, owner string, spec *cove.Spec, values map[string]string, before []secret.Lease) *route {
	n := &spec.Network
	if n.Mode != cove.NetworkNone && h.network.Gateway == nil {
		p.add(cove.NotSupported, "use network mode none, which is loopback only", "network mode %s is not supported by this host", quote(string(n.Mode)))
		return nil
	}
	if h.network.Gateway == nil {
		return &route{}
	}
	if (len(n.Requests) > 0 || len(n.Secrets) > 0) && h.network.Opener == nil {
		p.add(cove.NotSupported, "leave out rules on requests and secrets", "this host does not look into requests")
		return nil
	}
	n.Secrets = slices.Clone(n.Secrets) // whoever asked keeps what was asked for
	lent := h.lend(ctx, p, owner, n, spec.Env, values, before)
	sound := *n
	sound.Secrets = slices.DeleteFunc(slices.Clone(n.Secrets), func(use cove.SecretUse) bool {
		return !slices.ContainsFunc(lent, func(l secret.Lease) bool { return l.Name == use.Name }) // which is noted
	})
	rules, err := egress.Compile(sound, egress.CompileOptions{Presets: h.presetRules(), Private: h.policy().Private()})
	if err != nil {
		p.add(cove.CodeOf(err), cove.HintOf(err), "%s", reason(err))
		return nil
	}
	return &route{rules: rules, lent: lent}
}

func (h *Host) presetRules() func(string) ([]string, error) {
	if h.network.Presets == nil {
		return nil
	}
	return h.network.Presets.Rules
}

// lend makes the placeholders of the secrets that a network uses, and keeps those that a
// sandbox has already. Where a secret is a stored one, the network may go nowhere with it
// that it is not bound to.
func (h *Host) lend(ctx context.Context, p *problems, owner string, n *cove.Network, env, values map[string]string, before []secret.Lease) []secret.Lease {
	var lent []secret.Lease
	variables := map[string]bool{}
	for i := range n.Secrets {
		use := &n.Secrets[i]
		if h.network.Vault == nil {
			p.add(cove.NotSupported, "leave secrets out", "this host keeps no secrets")
			return nil
		}
		lease, err := h.lease(ctx, owner, use, values[use.Name], before)
		if err != nil {
			p.add(cove.CodeOf(err), cove.HintOf(err), "secret %s: %s", quote(use.Name), reason(err))
			continue
		}
		variable := cmp.Or(use.Env, use.Name)
		if _, taken := env[variable]; taken || variables[variable] {
			p.invalid("name another variable with env", "secret %s: the variable %s is set already", quote(use.Name), quote(variable))
		}
		if slices.ContainsFunc(lent, func(other secret.Lease) bool { return other.Name == use.Name }) {
			p.invalid("name each secret once, with all of its hosts", "secret %s is used twice", quote(use.Name))
		}
		variables[variable] = true
		lent = append(lent, lease)
	}
	return lent
}

// lease completes one use of a secret.
func (h *Host) lease(ctx context.Context, owner string, use *cove.SecretUse, value string, before []secret.Lease) (secret.Lease, error) {
	kept := slices.IndexFunc(before, func(l secret.Lease) bool { return l.Name == use.Name })
	switch {
	case value != "": // of this sandbox alone
		own, err := secret.Check(use.Name, cove.SecretInput{Value: value, Hosts: use.Hosts, In: use.In})
		if err != nil {
			return secret.Lease{}, err
		}
		use.Hosts, use.In = own.Hosts, own.In
		return secret.Lease{Name: use.Name, Placeholder: secret.Placeholder(value), Value: value}, nil
	case kept >= 0 && before[kept].Value != "":
		return before[kept], nil
	}
	stored, bound, err := h.network.Vault.For(ctx, owner, use.Name)
	if err != nil {
		return secret.Lease{}, err
	}
	if len(use.Hosts) == 0 {
		use.Hosts = bound.Hosts
	}
	if len(use.In) == 0 {
		use.In = bound.In
	}
	if err := secret.Within(*use, bound); err != nil {
		return secret.Lease{}, err
	}
	if kept >= 0 && before[kept].Owner == bound.Owner {
		return before[kept], nil
	}
	return secret.Lease{Name: use.Name, Owner: bound.Owner, Placeholder: secret.Placeholder(stored)}, nil
}

// reaches reports whether anything of the way out is set up inside a sandbox.
func reaches(spec *cove.Spec) bool {
	return spec.Options.NetworkMode == "" && !(spec.Network.Mode == cove.NetworkNone && spec.Network.Final)
}

// environment returns the variables of every command: the spec's, the placeholders of
// secrets, which servers the clients of presets use, and where the certificates are by which requests are looked into. What the spec
// says wins.
func (h *Host) environment(spec *cove.Spec, lent []secret.Lease) map[string]string {
	env := map[string]string{}
	if h.network.Presets != nil {
		for _, rule := range spec.Network.Allow {
			maps.Copy(env, h.network.Presets.Environment(rule))
		}
	}
	if opens(spec.Network) {
		maps.Copy(env, wire.TrustVariables())
	}
	for _, use := range spec.Network.Secrets {
		for _, lease := range lent {
			if lease.Name == use.Name {
				env[cmp.Or(use.Env, use.Name)] = lease.Placeholder
			}
		}
	}
	maps.Copy(env, spec.Env)
	return env
}

// opens reports whether TLS is opened anywhere for a network.
func opens(n cove.Network) bool { return len(n.Requests) > 0 || len(n.Secrets) > 0 }

// openRoute begins to serve the way out of a sandbox that has come up, or was found again.
func (s *Sandbox) openRoute(ctx context.Context, client *dial.Client) error {
	s.mu.Lock()
	spec, way := s.record.Spec, s.route
	s.mu.Unlock()
	if way == nil || s.host.network.Gateway == nil || !reaches(&spec) {
		return nil
	}
	if spec.Network.Mode != cove.NetworkNone { // the agent begins with none
		if err := client.SetNetwork(ctx, s.host.setup(spec.Network, way.rules)); err != nil {
			return err
		}
	}
	session := s.host.network.Gateway.Open(egress.SessionOptions{
		ID: s.id, Rules: way.rules, Secrets: s.secretValues, Opener: s.host.network.Opener,
		Spare: s.spare, Peer: s.peer,
	})
	s.mu.Lock()
	defer s.mu.Unlock()
	way.session = session
	return nil
}

func (h *Host) setup(n cove.Network, rules *egress.Rules) wire.NetworkSetup {
	setup := rules.Setup()
	if opens(n) {
		setup.CA = string(h.network.CA)
	}
	return setup
}

// spare opens a stream on which the guest may ask for a connection.
func (s *Sandbox) spare(ctx context.Context) (net.Conn, error) {
	s.mu.Lock()
	client := s.client
	s.mu.Unlock()
	if client == nil {
		return nil, cove.Errorf(cove.Unavailable, "open the way out", s.id, "the sandbox is not there", "wait until its runtime answers again")
	}
	return client.DialEgress(ctx)
}

// peer connects to a port of another sandbox, which a rule allows by its name.
func (s *Sandbox) peer(ctx context.Context, name string, port int) (net.Conn, error) {
	// One of the same owner: its name tells another one's sandboxes nothing.
	other, err := s.host.Sandbox(As(ctx, Caller{Owner: s.owner}), name)
	if err != nil {
		return nil, err
	}
	return other.DialPort(ctx, port)
}

// secretValues returns the secrets of the sandbox as they are now. One that the daemon
// has no longer is left out, so that its placeholder goes nowhere; one of the same name that
// its owner, or an admin, has set meanwhile is another secret.
func (s *Sandbox) secretValues() []egress.SecretValue {
	s.mu.Lock()
	uses, way := s.record.Spec.Network.Secrets, s.route
	s.mu.Unlock()
	var values []egress.SecretValue
	for _, use := range uses {
		i := slices.IndexFunc(way.lent, func(l secret.Lease) bool { return l.Name == use.Name })
		if i < 0 {
			continue
		}
		value, hosts := way.lent[i].Value, use.Hosts
		if value == "" {
			stored, bound, err := s.host.network.Vault.Value(s.life, way.lent[i].Owner, use.Name)
			if err != nil || secret.Within(use, bound) != nil {
				s.host.log.Warn("a secret that a sandbox uses can't be given", "id", s.id, "secret", use.Name, "err", err)
				hosts = nil // its placeholder is still known, and refused everywhere
			}
			value = stored
		}
		values = append(values, egress.SecretValue{Name: use.Name, Placeholder: way.lent[i].Placeholder, Value: value, Hosts: hosts, In: use.In})
	}
	return values
}

// closeRoute ends every connection to the outside. A second call does nothing.
func (s *Sandbox) closeRoute() {
	s.mu.Lock()
	way := s.route
	s.mu.Unlock()
	if way != nil && way.session != nil {
		if err := way.session.Close(); err != nil {
			s.host.log.Debug("closing the way out of a sandbox", "id", s.id, "err", err)
		}
	}
}

// returnSecrets forgets the secrets of a sandbox that has ended.
func (s *Sandbox) returnSecrets(ctx context.Context) error {
	if s.host.network.Vault == nil || len(s.snapshot().Spec.Network.Secrets) == 0 {
		return nil
	}
	return s.host.network.Vault.Return(ctx, s.id)
}

// reclaimSecrets forgets what was lent to sandboxes of which a crash has left nothing else.
func (h *Host) reclaimSecrets(ctx context.Context) {
	if h.network.Vault == nil {
		return
	}
	borrowers, err := h.network.Vault.Borrowers(ctx)
	if err != nil {
		h.log.Error("looking for secrets that no sandbox uses", "err", err)
		return
	}
	for _, id := range borrowers {
		h.mu.Lock()
		s := h.sandboxes[id]
		h.mu.Unlock()
		if s != nil && !s.snapshot().Ended() {
			continue
		}
		if err := h.network.Vault.Return(ctx, id); err != nil {
			h.log.Error("forgetting secrets that no sandbox uses, will try again at the next start", "id", id, "err", err)
		}
	}
}

// findRoute makes the way out of a sandbox of an earlier host again. Where that can't be
// done nothing is let out, and the reason is logged.
func (s *Sandbox) findRoute(ctx context.Context) {
	h := s.host
	if h.network.Gateway == nil {
		return
	}
	n := s.snapshot().Spec.Network
	rules, err := egress.Compile(n, egress.CompileOptions{Presets: h.presetRules(), Private: h.policy().Private()})
	if err != nil {
		h.log.Error("the network policy of a sandbox can't be applied any more, nothing is let out", "id", s.id, "err", err)
		n = cove.Network{Mode: cove.NetworkNone}
		if rules, err = egress.Compile(n, egress.CompileOptions{}); err != nil {
			return
		}
	}
	way := &route{rules: rules}
	if h.network.Vault != nil && len(n.Secrets) > 0 {
		if way.lent, err = h.network.Vault.Lent(ctx, s.id); err != nil {
			h.log.Error("the secrets of a sandbox can't be read", "id", s.id, "err", err)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.route = way
}
