package sandbox

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"

	"github.com/covehq/cove"
	"github.com/covehq/cove/egress"
	"github.com/covehq/cove/policy"
	"github.com/covehq/cove/secret"
)

// Network returns what the sandbox may reach and what has passed.
func (s *Sandbox) Network() (cove.NetworkStatus, error) {
	r := s.snapshot()
	if err := alive(r, "network"); err != nil {
		return cove.NetworkStatus{}, err
	}
	return s.networkStatus(r.Spec.Network), nil
}

func (s *Sandbox) networkStatus(n cove.Network) cove.NetworkStatus {
	var status cove.NetworkStatus
	if session := s.session(); session != nil {
		status = session.Status()
	}
	status.Network = n
	return status
}

// session returns the open way out, or nil.
func (s *Sandbox) session() *egress.Session {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.route == nil {
		return nil
	}
	return s.route.session
}

// SetNetwork changes what the sandbox may reach, from when it returns. Connections that
// are not allowed any more are closed. On error nothing has changed.
func (s *Sandbox) SetNetwork(ctx context.Context, u cove.NetworkUpdate) (cove.NetworkStatus, error) {
	const op = "set network"
	change, err := s.use(ctx, op, "")
	if err != nil {
		return cove.NetworkStatus{}, err
	}
	defer change.close()
	s.saving.Lock()
	defer s.saving.Unlock()
	r := s.snapshot()
	session := s.session()
	switch {
	case r.Spec.Network.Final:
		return cove.NetworkStatus{}, cove.Errorf(cove.Conflict, op, s.id, "the network policy of this sandbox is final", "create another sandbox")
	case session == nil:
		return cove.NetworkStatus{}, cove.Errorf(cove.NotSupported, op, s.id, "this sandbox has no way out that could be changed", "create another sandbox, without network_mode")
	}
	next, values := updated(r.Spec, u)
	var p problems
	checkNetwork(&p, &next)
	way := s.host.plan(change.ctx, &p, s.owner, &next, values, s.leases())
	s.host.forbid(&p, func(operator *policy.Policy) []policy.Violation { return operator.CheckNetwork(&next.Network) })
	if err := p.err(op); err != nil {
		return cove.NetworkStatus{}, err
	}
	if err := s.changeRoute(change, r.Spec, next, way); err != nil {
		return cove.NetworkStatus{}, change.fail(err)
	}
	return s.networkStatus(next.Network), nil
}

// leases returns what was lent to the sandbox.
func (s *Sandbox) leases() []secret.Lease {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.route == nil {
		return nil
	}
	return s.route.lent
}

// updated returns a spec with a changed network, and the values that came with the change.
func updated(spec cove.Spec, u cove.NetworkUpdate) (cove.Spec, map[string]string) {
	n := &spec.Network
	if u.Allow != nil {
		n.Allow = *u.Allow
	}
	if u.Deny != nil {
		n.Deny = *u.Deny
	}
	if u.Requests != nil {
		n.Requests = *u.Requests
	}
	if u.Secrets != nil {
		n.Secrets = *u.Secrets
	}
	if u.Limits != nil {
		n.Limits = *u.Limits
	}
	switch {
	case u.Mode != nil:
		n.Mode = *u.Mode
	case n.Mode == cove.NetworkNone && len(n.Allow)+len(n.Requests)+len(n.Secrets) > 0:
		n.Mode = cove.NetworkAllow // as at creation
	}
	values := takeSecrets(&spec)
	return spec.WithDefaults(), values
}

// changeRoute writes a new policy down and has it hold. What narrows it holds before the
// call can fail, what widens it after nothing can. The caller holds saving.
func (s *Sandbox) changeRoute(change *use, was, next cove.Spec, way *route) error {
	h := s.host
	if err := s.lendAll(change.ctx, way.lent); err != nil {
		return err
	}
	r := s.snapshot()
	r.Spec.Network = next.Network
	if err := h.store.Put(change.ctx, r); err != nil {
		return err
	}
	s.mu.Lock()
	way.session = s.route.session
	s.route, s.record.Spec.Network = way, next.Network
	s.mu.Unlock()
	way.session.SetRules(way.rules)
	h.events.publish(cove.EventUpdated, s.snapshot())
	err := change.client.SetNetwork(change.ctx, h.setup(next.Network, way.rules))
	if before, after := h.environment(&was, s.leases()), h.environment(&next, way.lent); !maps.Equal(before, after) {
		err = errors.Join(err, change.client.Init(change.ctx, initOf(&next, after)))
	}
	return err
}

// lendAll writes down what is lent to the sandbox.
func (s *Sandbox) lendAll(ctx context.Context, lent []secret.Lease) error {
	if len(lent) == 0 {
		return nil
	}
	return s.host.network.Vault.Lend(ctx, s.id, lent)
}

// NetworkLog returns the decisions about the sandbox after the one with that number, as
// far as they are kept; lost says that some before are not. The channel is closed when
// there may be more.
func (s *Sandbox) NetworkLog(after uint64) (events []cove.NetworkEvent, lost bool, changed <-chan struct{}, err error) {
	if err := alive(s.snapshot(), "network log"); err != nil {
		return nil, false, nil, err
	}
	session := s.session()
	if session == nil {
		return nil, false, nil, cove.Errorf(cove.NotSupported, "network log", s.id, "this sandbox has no way out", "create another sandbox, without network_mode")
	}
	events, lost, changed = session.Log(after)
	return events, lost, changed, nil
}

// NetworkPresets describes the names of rules that there are.
func (h *Host) NetworkPresets(ctx context.Context) []cove.NetworkPreset {
	if h.network.Presets == nil {
		return []cove.NetworkPreset{}
	}
	return h.network.Presets.List(ctx)
}

// checkNetwork notes what is wrong with a network wherever it may be; its rules are looked
// at when they are compiled.
func checkNetwork(p *problems, s *cove.Spec) {
	n := s.Network
	if n.Mode != cove.NetworkNone && s.Options.NetworkMode != "" {
		p.invalid("leave out either", "network mode %s is of Cove's way out, and network_mode %s is of the engine", n.Mode, quote(s.Options.NetworkMode))
	}
	if n.Mode == cove.NetworkNone && len(n.Allow)+len(n.Requests)+len(n.Secrets) > 0 {
		p.invalid("use mode allow, or leave the rules out", "network mode none allows nothing, and there are rules that do")
	}
	if n.Limits.Connections < 0 || n.Limits.Rate < 0 || n.Limits.Total < 0 {
		p.invalid("leave a limit out for its default", "a limit of the network is negative")
	}
	if most := 65536; n.Limits.Connections > most {
		p.invalid(fmt.Sprintf("use at most %d", most), "network limit of %d connections is too large", n.Limits.Connections)
	}
	for _, use := range n.Secrets {
		if use.Env != "" && strings.ContainsAny(use.Env, "=\x00") {
			p.invalid("use a name such as API_TOKEN", "env %s of a secret is not the name of a variable", quote(use.Env))
		}
	}
}
