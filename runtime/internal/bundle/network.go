package bundle

import (
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/covehq/cove"
)

// NetworkVariable tells the agent to make a way out of the sandbox before it serves. It lists
// the capabilities that the agent was given for that alone, as in NET_ADMIN,NET_RAW: it gives
// them away for ever then, so that no command has them.
const NetworkVariable = "COVE_NETWORK"

// wayOut is what the agent needs at its start: to make every address loopback's and to
// redirect connections.
var wayOut = []string{"NET_ADMIN", "NET_RAW"}

// WayOut returns the capabilities that the agent gets at its start to make a way out, as in
// CAP_NET_ADMIN, and the value of NetworkVariable. Both are empty where there is to be none:
// where nothing may ever be reached, and on a network of an engine's.
//
// What may be reached can change while a sandbox runs, so that it is there also where that
// is nothing for now.
func WayOut(spec *cove.Spec) (capabilities []string, value string) {
	never := spec.Network.Final && spec.Network.Mode == cove.NetworkNone
	if never || spec.Options.NetworkMode != "" {
		return nil, ""
	}
	for _, name := range wayOut {
		capabilities = append(capabilities, "CAP_"+name)
	}
	own := slices.DeleteFunc(slices.Clone(wayOut), func(name string) bool {
		return spec.Options.Privileged || slices.Contains(spec.Options.CapAdd, name) || slices.Contains(spec.Options.CapAdd, cove.AllCapabilities)
	})
	if len(own) == 0 {
		return capabilities, "NONE"
	}
	return capabilities, strings.Join(own, ",")
}

// addWayOut has the agent make a way out.
func addWayOut(config *specs.Spec, spec *cove.Spec) {
	names, value := WayOut(spec)
	if value == "" {
		return
	}
	config.Process.Env = append(config.Process.Env, NetworkVariable+"="+value)
	sets := config.Process.Capabilities
	for _, set := range []*[]string{&sets.Bounding, &sets.Effective, &sets.Permitted} {
		*set = slices.Concat(*set, slices.DeleteFunc(slices.Clone(names), func(name string) bool { return slices.Contains(*set, name) }))
	}
}
