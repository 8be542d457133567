package egress

import (
	"net/netip"

	"github.com/covehq/cove"
	"github.com/covehq/cove/guest/wire"
)

// CompileOptions are what rules mean on this machine.
type CompileOptions struct {
	// Presets returns what a preset stands for; its errors are told to the user. nil is a
	// machine without presets.
	Presets func(name string) (rules []string, err error)
	// Private are Options.Private, which rules may name.
	Private []netip.Prefix
}

// Rules is a policy that has been checked. It does not change.
type Rules struct{ n cove.Network }

// Compile checks a policy. Its error is cove.Invalid, and lists all that is wrong.
func Compile(n cove.Network, o CompileOptions) (*Rules, error) { return &Rules{n: n}, nil }

// Notes tells what is odd about the policy, though valid: rules that are there twice, that
// another one covers, or that a denial makes useless.
func (r *Rules) Notes() []string { return nil }

// Setup returns what the agent has to know; the caller fills in CA.
func (r *Rules) Setup() wire.NetworkSetup { return wire.NetworkSetup{} }

// Opens says that connections to name and port are looked into: it has request rules, or a
// secret is bound to it.
func (r *Rules) Opens(name string, port int) bool { return false }

// Decision is what the rules say to a lookup or a connection.
type Decision struct {
	Allowed bool
	Rule    string // that decided, as it was written; "" where none did
	Reason  string // why it is refused, and what would allow it
}

// Name decides whether a name may be looked up: one that is allowed on any port may.
func (r *Rules) Name(name string) Decision { return Decision{} }

// Connect decides about a connection to a name, or to an address where name is "". Where
// both are given, addr is where the name led, and may be denied as well.
func (r *Rules) Connect(name string, addr netip.Addr, port int) Decision { return Decision{} }
