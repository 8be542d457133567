package sandbox

import (
	"errors"
	"os"
	"slices"

	"github.com/covehq/cove"
	"github.com/covehq/cove/policy"
	"github.com/covehq/cove/sandbox/driver/bind"
)

// complete returns the spec with its defaults, as far as the operator's policy lets them
// be, in the one form that drivers get.
func (h *Host) complete(asked cove.Spec) cove.Spec {
	spec := asked
	if spec.Runtime == "" {
		spec.Runtime = h.fallback
	}
	spec = spec.WithDefaults()
	h.policy().Bound(&spec, asked)
	return normal(spec)
}

// forbid notes what the operator's policy forbids, with the lines of it that would allow
// that. It is logged too: an operator wants to know who tries what.
func (h *Host) forbid(p *problems, check func(*policy.Policy) []policy.Violation) {
	operator := h.policy()
	found := check(operator)
	for _, violation := range found {
		p.add(cove.Forbidden, operator.Hint(found), "%s", violation.Message)
		h.log.Warn("forbidden by the operator's policy", "what", plain(violation.Message))
	}
}

// forbidUser notes where the operator's policy does not allow a user.
func (h *Host) forbidUser(p *problems, user string) {
	h.forbid(p, func(operator *policy.Policy) []policy.Violation { return operator.CheckUser(user) })
}

// sources opens what the bind mounts of a spec show, and makes their paths those of the
// descriptors, which a driver can rely on. The caller closes them when the driver has
// made the sandbox. Everything that is wrong is in one error.
func (h *Host) sources(spec *cove.Spec) (close func(), err error) {
	var (
		files []*os.File
		p     problems
	)
	close = func() {
		for _, file := range files {
			_ = file.Close()
		}
	}
	spec.Mounts = slices.Clone(spec.Mounts)
	for i, mount := range spec.Mounts {
		if mount.Type != cove.MountBind {
			continue
		}
		operator := h.policy()
		rules := bind.Rules{Prefixes: operator.Directories(), Never: h.private, Sockets: operator.Mount(mount.Source).Sockets}
		file, err := rules.Resolve(mount.Source)
		var refusal *cove.Error
		if errors.As(err, &refusal) {
			p.add(refusal.Code, refusal.Hint, "%s can't be mounted: %s", mount.Source, reason(err))
			continue
		}
		if err != nil {
			close()
			return nil, err
		}
		files = append(files, file)
		spec.Mounts[i].Source = bind.Path(file)
	}
	if err := p.err("create"); err != nil {
		close()
		return nil, err
	}
	return close, nil
}
