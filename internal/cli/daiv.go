package cli

import (
	"cmp"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/covehq/cove"
)

// DaivOptions is how the API of daiv-sandbox is served, as its variables of the
// environment say.
type DaivOptions struct {
	Key       string // "": not at all
	Listen    string // HOST:PORT
	Runtime   string // "": the default
	Limits    cove.Limits
	Network   cove.Network
	CodeImage string        // "": the default
	MaxTime   time.Duration // 0: the default
	Unused    []string      // variables that are set, and mean nothing here
}

// daivOptions reads the variables of daiv-sandbox. Without its key there is nothing.
func daivOptions(getenv func(string) string) (DaivOptions, error) {
	of := func(name string) string { return strings.TrimSpace(getenv("DAIV_SANDBOX_" + name)) }
	o := DaivOptions{Key: of("API_KEY"), CodeImage: of("CODE_IMAGE")}
	if o.Key == "" {
		return DaivOptions{}, nil
	}
	port := cmp.Or(of("PORT"), "8000")
	if n, err := strconv.ParseUint(port, 10, 16); err != nil {
		return o, usage("DAIV_SANDBOX_PORT is no port: "+quote(port), "as in 8000")
	} else {
		port = strconv.FormatUint(n, 10)
	}
	o.Listen = net.JoinHostPort(cmp.Or(of("HOST"), "127.0.0.1"), port)
	if o.Runtime = of("RUNTIME"); o.Runtime == "runsc" {
		o.Runtime = "gvisor"
	}
	if memory := of("MEMORY"); memory != "" {
		limit, err := cove.ParseBytes(memory)
		if err != nil {
			return o, usage("DAIV_SANDBOX_MEMORY: "+err.Error(), "as in 2g")
		}
		o.Limits.Memory = limit
	}
	switch network := of("NETWORK"); network {
	case "", "none":
	case "open":
		o.Network.Mode = cove.NetworkOpen
	default:
		o.Network = cove.Network{Mode: cove.NetworkAllow, Allow: strings.FieldsFunc(network, func(r rune) bool { return r == ',' || r == ' ' })}
	}
	if most := of("MAX_EXECUTION_TIME"); most != "" {
		seconds, err := strconv.ParseUint(most, 10, 31)
		if err != nil || seconds == 0 {
			return o, usage("DAIV_SANDBOX_MAX_EXECUTION_TIME is no number of seconds: "+quote(most), "as in 600")
		}
		o.MaxTime = time.Duration(seconds) * time.Second
	}
	for _, name := range []string{"ENVIRONMENT", "SENTRY_DSN", "SENTRY_ENABLE_TRACING", "KEEP_TEMPLATE", "LOG_LEVEL"} {
		if of(name) != "" {
			o.Unused = append(o.Unused, "DAIV_SANDBOX_"+name)
		}
	}
	return o, nil
}
