// Package policy provides what the operator of a host lets specs ask for. Without a
// policy, nothing that a sandbox is given reaches the host.
package policy

import (
	"net/netip"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/covehq/cove"
)

// Policy is the content of a policy file. Lists of what stays in a sandbox allow anything
// where they are absent; lists of what reaches the host allow nothing then. The zero value
// is that of a host without a policy file, and so is nil.
type Policy struct {
	// Images, Runtimes, Users and Volumes stay in a sandbox. Each is a list of patterns.
	Images   []string `yaml:"images"`
	Runtimes []string `yaml:"runtimes"`
	Users    []string `yaml:"users"`
	Volumes  []string `yaml:"volumes"`

	// Imports allows images to be imported where Images is given: whoever imports one
	// chooses the name that it gets, and what is in it.
	Imports bool `yaml:"imports"`

	// Mounts are the directories of the host that may be bound.
	Mounts []Mount `yaml:"mounts"`
	// Capabilities are those that cap_add may name; ALL is all of them.
	Capabilities []string `yaml:"capabilities"`
	// Devices are patterns of paths of the host.
	Devices []string `yaml:"devices"`
	// Networks are patterns of the engine networks that network_mode may name.
	Networks []string `yaml:"networks"`
	// Privileged allows privileged sandboxes, which may do anything to the host.
	Privileged bool `yaml:"privileged"`
	// PortAddresses are the addresses of the host, beside loopback, on which ports may
	// be open; 0.0.0.0 and :: are all of them.
	PortAddresses []string `yaml:"port_addresses"`

	// Egress is what may be asked for of the network outside.
	Egress Egress `yaml:"egress"`

	// Limits are the largest that a spec may ask for, and the defaults where those are
	// larger.
	Limits Limits `yaml:"limits"`
	// MaxSandboxes bounds the living sandboxes, beside the host's own bound.
	MaxSandboxes int `yaml:"max_sandboxes"`

	path string // of the file, for hints
}

// Mount is a directory of the host that may be bound, with everything beneath it.
type Mount struct {
	Path    string `yaml:"path"`
	Write   bool   `yaml:"write"`   // also writable
	Sockets bool   `yaml:"sockets"` // also where Unix sockets lie in it
}

// Limits are the largest that a spec may ask for. A zero field is no limit.
type Limits struct {
	CPUs   float64       `yaml:"cpus"`
	Memory cove.Bytes    `yaml:"memory"`
	Pids   int           `yaml:"pids"`
	Disk   cove.Bytes    `yaml:"disk"`
	TTL    cove.Duration `yaml:"ttl"`
}

// Violation is one part of a spec that the policy forbids.
type Violation struct {
	Message string
	Line    string // of the policy, that would allow it
}

// violations collects them.
type violations []Violation

func (v *violations) add(message, line string) {
	*v = append(*v, Violation{message, line})
}

// Hint says in which file the lines of violations would have to be.
func (p *Policy) Hint(found []Violation) string {
	lines := make([]string, len(found))
	for i, violation := range found {
		lines[i] = violation.Line
	}
	where := "the policy file of cove serve --policy"
	if p != nil && p.path != "" {
		where = p.path
	}
	return "the operator allows it with " + strings.Join(lines, ", ") + " in " + where
}

// Check returns what the policy forbids of a complete spec.
func (p *Policy) Check(spec *cove.Spec) []Violation {
	if p == nil {
		p = new(Policy)
	}
	v := new(violations)
	v.contents(p, spec)
	v.mounts(p, spec.Mounts)
	v.options(p, spec.Options)
	v.ports(p, spec.Ports)
	v.network(&p.Egress, &spec.Network)
	v.limits(p, spec)
	return *v
}

// contents checks what stays in the sandbox.
func (v *violations) contents(p *Policy, spec *cove.Spec) {
	v.image(p, spec.Image)
	v.listed("runtime", p.Runtimes, spec.Runtime)
	v.listed("user", p.Users, spec.User)
	for _, mount := range spec.Mounts {
		if mount.Type == cove.MountVolume {
			v.listed("volume", p.Volumes, mount.Source)
		}
	}
}

func (v *violations) image(p *Policy, image string) {
	full := fullImage(image)
	if p.Images != nil && !slices.ContainsFunc(p.Images, func(pattern string) bool { return match(fullImage(pattern), full) }) {
		v.unlisted("image", image)
	}
}

// listed checks a value against a list that allows anything when it is absent.
func (v *violations) listed(noun string, allowed []string, value string) {
	if allowed != nil && !matchAny(allowed, value) {
		v.unlisted(noun, value)
	}
}

func (v *violations) unlisted(noun, value string) {
	v.add(noun+" "+strconv.Quote(value)+" is not among those that the operator allows", noun+"s: ["+value+"]")
}

func (v *violations) mounts(p *Policy, mounts []cove.Mount) {
	for _, mount := range mounts {
		if mount.Type != cove.MountBind {
			continue
		}
		line := "mounts: [{path: " + mount.Source + "}]"
		if !mount.ReadOnly {
			line = "mounts: [{path: " + mount.Source + ", write: true}]"
		}
		switch rule, ok := p.mount(mount.Source); {
		case !ok:
			v.add("the operator allows no mount of "+mount.Source+" of the host", line)
		case !mount.ReadOnly && !rule.Write:
			v.add("the operator allows the mount of "+mount.Source+" read-only alone", line)
		}
	}
}

// mount returns the rule for a source of the host: that of the longest path at or beneath
// which it lies.
func (p *Policy) mount(source string) (longest Mount, ok bool) {
	for _, rule := range p.Mounts {
		beneath := rule.Path == source || strings.HasPrefix(source, strings.TrimSuffix(rule.Path, "/")+"/")
		if beneath && len(rule.Path) > len(longest.Path) {
			longest, ok = rule, true
		}
	}
	return longest, ok
}

// Mount returns the directory that the policy allows to be bound, at or beneath which a
// source of the host lies; the zero Mount without one.
func (p *Policy) Mount(source string) Mount {
	if p == nil {
		return Mount{}
	}
	rule, _ := p.mount(source)
	return rule
}

// Directories returns those of the host that may be bound, with what lies beneath them.
func (p *Policy) Directories() []string {
	if p == nil {
		return nil
	}
	directories := make([]string, len(p.Mounts))
	for i, rule := range p.Mounts {
		directories[i] = rule.Path
	}
	return directories
}

func (v *violations) options(p *Policy, o cove.Options) {
	if o.Privileged && !p.Privileged {
		v.add("the operator allows no privileged sandboxes", "privileged: true")
	}
	for _, name := range o.CapAdd {
		if !slices.Contains(p.Capabilities, name) && !slices.Contains(p.Capabilities, cove.AllCapabilities) {
			v.add("the operator does not allow capability "+name, "capabilities: ["+name+"]")
		}
	}
	for _, device := range o.Devices {
		source, _, _ := strings.Cut(device, ":")
		if path.Clean(source) != source || !matchAny(p.Devices, source) {
			v.add("the operator does not allow device "+source+" of the host", "devices: ["+source+"]")
		}
	}
	if o.NetworkMode != "" && !matchAny(p.Networks, o.NetworkMode) {
		v.add("the operator does not allow network_mode "+o.NetworkMode, "networks: ["+o.NetworkMode+"]")
	}
}

func (v *violations) ports(p *Policy, ports []cove.Port) {
	for _, port := range ports {
		address, err := netip.ParseAddr(port.Address)
		if err != nil || address.Unmap().IsLoopback() || slices.ContainsFunc(p.PortAddresses, func(text string) bool {
			allowed, err := netip.ParseAddr(text)
			return err == nil && (allowed == address || allowed.IsUnspecified() && allowed.Is4() == address.Is4())
		}) {
			continue // what is no address, validation has noted
		}
		v.add("the operator allows ports on loopback alone, not on "+port.Address, "port_addresses: ["+strconv.Quote(port.Address)+"]")
	}
}

func (v *violations) limits(p *Policy, spec *cove.Spec) {
	most, asked := p.Limits, spec.Limits
	above := func(exceeds bool, name, asked, most string) {
		if exceeds {
			v.add(name+" "+asked+" is above "+most+", the most that the operator allows", "limits: {"+name+": "+asked+"}")
		}
	}
	number := func(n float64) string { return strconv.FormatFloat(n, 'g', -1, 64) }
	above(most.CPUs > 0 && asked.CPUs > most.CPUs, "cpus", number(asked.CPUs), number(most.CPUs))
	above(most.Memory > 0 && asked.Memory > most.Memory, "memory", asked.Memory.String(), most.Memory.String())
	above(most.Pids > 0 && asked.Pids > most.Pids, "pids", strconv.Itoa(asked.Pids), strconv.Itoa(most.Pids))
	above(most.Disk > 0 && asked.Disk > most.Disk, "disk", asked.Disk.String(), most.Disk.String())
	above(!p.allowsTTL(spec.TTL), "ttl", spec.TTL.String(), most.TTL.String())
}

func (p *Policy) allowsTTL(ttl cove.Duration) bool {
	most := p.Limits.TTL
	return most == 0 || most == cove.Never || ttl != cove.Never && ttl <= most
}

// CheckTTL returns what the policy forbids of a new time to live.
func (p *Policy) CheckTTL(ttl cove.Duration) []Violation {
	if p == nil || p.allowsTTL(ttl) {
		return nil
	}
	v := new(violations)
	v.add("ttl "+ttl.String()+" is above "+p.Limits.TTL.String()+", the most that the operator allows", "limits: {ttl: "+ttl.String()+"}")
	return *v
}

// CheckUser returns what the policy forbids of a user that one command or file is for.
func (p *Policy) CheckUser(user string) []Violation {
	v := new(violations)
	if p != nil {
		v.listed("user", p.Users, user)
	}
	return *v
}

// CheckImage returns what the policy forbids of an image that is pulled.
func (p *Policy) CheckImage(image string) []Violation {
	v := new(violations)
	if p != nil {
		v.image(p, image)
	}
	return *v
}

// CheckImport returns what the policy forbids of an image that a caller brings along, under
// a name of its own choice.
func (p *Policy) CheckImport(name string) []Violation {
	v := new(violations)
	if p == nil || p.Images == nil {
		return nil
	}
	v.image(p, name)
	if !p.Imports {
		v.add("the operator lists images, and lets nobody import one under their names", "imports: true")
	}
	return *v
}

// Bound lowers those defaults of a complete spec that the policy's limits don't reach;
// asked is the spec without the defaults.
func (p *Policy) Bound(spec *cove.Spec, asked cove.Spec) {
	if p == nil {
		return
	}
	lower(&spec.Limits.CPUs, asked.Limits.CPUs, p.Limits.CPUs)
	lower(&spec.Limits.Memory, asked.Limits.Memory, p.Limits.Memory)
	lower(&spec.Limits.Pids, asked.Limits.Pids, p.Limits.Pids)
	lower(&spec.Limits.Disk, asked.Limits.Disk, p.Limits.Disk)
	lower(&spec.TTL, asked.TTL, p.Limits.TTL)
}

func lower[T float64 | int | cove.Bytes | cove.Duration](value *T, asked, most T) {
	if asked == 0 && most > 0 && *value > most {
		*value = most
	}
}

// Most returns the largest number of living sandboxes; 0 for any.
func (p *Policy) Most() int {
	if p == nil {
		return 0
	}
	return p.MaxSandboxes
}
