package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/covehq/cove"
	"github.com/covehq/cove/internal/daemon"
)

// ServeOptions is what the verb serve was asked to do.
type ServeOptions struct {
	Dirs           daemon.Dirs
	DefaultRuntime string              // "": Cove's own default
	MaxSandboxes   int                 // 0: the host's default, 1000
	IdleExit       time.Duration       // leave after this long without use; 0: never
	Policy         string              // file of the operator's policy
	PolicyOptional bool                // nobody named that file: it may be missing
	Mirrors        map[string][]string // of registries, by name; the best first
	Presets        map[string][]string // the operator's names for rules of the network
	Resolver       netip.AddrPort      // name server of sandboxes' names; zero: the system's
	EgressProxy    *url.URL            // through which sandboxes' connections go out; nil: none
	Previews       PreviewOptions      // of ports inside, to browsers
	Door           DoorOptions         // of the API, to the network
	Daiv           DaivOptions         // of the API of daiv-sandbox
	Logger         *slog.Logger
	Ready          func() error // to be called once requests are answered
}

// PreviewOptions is how ports inside are shown to browsers.
type PreviewOptions struct {
	Listen      string // HOST:PORT; "": not at all
	Domain      string // DOMAIN[:PORT] that their names end in
	TLSCert     string // file, or ""
	TLSKey      string // file, or ""
	BehindProxy bool   // a proxy in front speaks TLS
}

// DoorOptions is how the API is served to the network.
type DoorOptions struct {
	Listen      string   // HOST:PORT; "": not at all
	Hosts       []string // names by which the daemon may be called, beside those of its certificate
	KeyRate     int      // requests that a key may make in a second; 0: the server's default
	TLSCert     string   // file, or ""
	TLSKey      string   // file, or ""
	BehindProxy bool     // a proxy in front speaks TLS
}

// serveFlags are the flags of serve as they are given.
type serveFlags struct {
	idleExit       cove.Duration
	defaultRuntime string
	maxSandboxes   int
	policy         string
	mirrors        mirrors
	presets        presets
	resolver       resolver
	egressProxy    proxyURL
	previews       PreviewOptions
	door           DoorOptions
	logFormat      logFormat
	logLevel       slog.LevelVar
	logFile        string
	ready          bool
}

func (p *program) serveVerb() *cobra.Command {
	o := serveFlags{logFormat: "text"}
	cmd := &cobra.Command{
		Use:   "serve [flags]",
		Short: "Be the daemon",
		Long: `Be the daemon that the other verbs speak to, on the socket cove.sock of the state
directory, until SIGTERM. Sandboxes go on running without it, and the next one takes
them over. The other verbs start it by themselves when none answers, with --idle-exit.

Each flag may also be a variable of the environment, as COVE_IDLE_EXIT, or a key of
cove.yaml, as idle_exit. A flag wins over a variable, and that over the file.

With DAIV_SANDBOX_API_KEY in the environment, and with the other variables of daiv-sandbox, it
also serves the API of daiv-sandbox, on port 8000: docs/migrate/daiv-sandbox.md.

With --json, writes its log as JSON.`,
		Example: `  cove serve
  cove serve --log-format json --default-runtime runc`,
		Args: func(cmd *cobra.Command, args []string) error {
			// Asked before COVE_URL is looked at, which is for the other verbs.
			if cmd.Flags().Changed("host") {
				return usage("serve takes no --host", "--state-dir says where its socket is")
			}
			return arguments()(cmd, args)
		},
		RunE: verb(func(ctx context.Context, _ []string) error { return p.serve(ctx, &o) }),
	}
	flags := cmd.Flags()
	flags.Var(durationFlag(&o.idleExit), "idle-exit", "leave after this time without requests and sandboxes; default never")
	flags.StringVar(&o.defaultRuntime, "default-runtime", "", "runtime of sandboxes that ask for none; default gvisor")
	flags.Var(countFlag(&o.maxSandboxes), "max-sandboxes", "most sandboxes at a time; default 1000")
	flags.Var(&o.mirrors, "mirrors", "where to look for images first, as in 'docker.io=mirror.example:5000 ghcr.io=mirror.example/ghcr'; several of one registry are asked in order")
	flags.Var(&o.presets, "presets", "names for rules of the network, as in 'git=github.com,*.github.com:443 api=api.example.org'; a map in cove.yaml. See cove network presets")
	flags.Var(&o.resolver, "resolver", "name server that resolves what sandboxes may reach, as in 192.0.2.53 or 192.0.2.53:53; default the system's")
	flags.Var(&o.egressProxy, "egress-proxy", "proxy through which sandboxes' connections go out: http://, https:// or socks5://HOST:PORT; where it needs a password, write it in cove.yaml or COVE_EGRESS_PROXY")
	flags.StringVar(&o.policy, "policy", "", "file that says what sandboxes may be given of this machine, read again when it changes; default policy.yaml of the data directory, else /etc/cove/policy.yaml")
	flags.StringVar(&o.door.Listen, "listen", "", "serve the API on this HOST:PORT too, to who has a key (cove key create); with TLS unless that is loopback. Default the socket alone")
	flags.StringSliceVar(&o.door.Hosts, "allow-hosts", nil, "names by which that may be called, beside localhost and those of the certificate; a proxy's name, with --behind-proxy")
	flags.Var(countFlag(&o.door.KeyRate), "key-rate", "requests that a key may make in a second, and twice as many at once; default 500")
	flags.StringVar(&o.previews.Listen, "preview-listen", "", "serve previews, and nothing else, on this HOST:PORT, as in 127.0.0.1:7080; default not at all")
	flags.StringVar(&o.previews.Domain, "preview-domain", "localhost", "DOMAIN[:PORT] below which browsers find previews, as <port>-<id>.DOMAIN")
	flags.StringVar(&o.previews.TLSCert, "tls-cert", "", "file with the certificate for --listen and *.DOMAIN, and its chain, in PEM; read again when it changes")
	flags.StringVar(&o.previews.TLSKey, "tls-key", "", "file with the certificate's key, in PEM")
	flags.BoolVar(&o.previews.BehindProxy, "behind-proxy", false, "a proxy in front speaks TLS; what it says in X-Forwarded-For and -Proto is believed where it calls from loopback")
	flags.Var(&o.logFormat, "log-format", "text or json")
	flags.Var(levelFlag{&o.logLevel}, "log-level", "debug, info, warn or error")
	flags.StringVar(&o.logFile, "log-file", "", "write the log to this file, which is set aside at 8MiB; default standard error")
	flags.BoolVar(&o.ready, "ready", false, "tell the program that started this one when requests are answered")
	must(flags.MarkHidden("ready"))
	must(cmd.RegisterFlagCompletionFunc("log-format", cobra.FixedCompletions([]string{"text", "json"}, cobra.ShellCompDirectiveNoFileComp)))
	must(cmd.RegisterFlagCompletionFunc("log-level", cobra.FixedCompletions([]string{"debug", "info", "warn", "error"}, cobra.ShellCompDirectiveNoFileComp)))
	return cmd
}

func (p *program) serve(ctx context.Context, o *serveFlags) error {
	dirs, err := p.dirs()
	if err != nil {
		return err
	}
	if err := dirs.Prepare(); err != nil {
		return err
	}
	ready := func() error { return nil }
	if o.ready {
		if ready, err = daemon.InheritReady(); err != nil {
			return err
		}
	}
	to := p.Stderr
	if o.logFile != "" {
		file, err := daemon.OpenLog(o.logFile, int(os.Stdout.Fd()), int(os.Stderr.Fd()))
		if err != nil {
			return err
		}
		defer file.Close()
		to = file
	}
	idle := time.Duration(o.idleExit)
	if o.idleExit == cove.Never {
		idle = 0
	}
	policy, optional, err := policyFile(o.policy, dirs)
	if err != nil {
		return err
	}
	previews, err := o.previews.absolute()
	if err != nil {
		return err
	}
	if o.door.KeyRate < 0 {
		return usage("--key-rate is negative", "give a number of requests, as in 500")
	}
	door := o.door // of one certificate, as previews are behind one proxy
	door.TLSCert, door.TLSKey, door.BehindProxy = previews.TLSCert, previews.TLSKey, previews.BehindProxy
	daiv, err := daivOptions(os.Getenv)
	if err != nil {
		return err
	}
	return p.Serve(ctx, ServeOptions{
		Previews: previews, Door: door, Daiv: daiv,
		Policy: policy, PolicyOptional: optional, Mirrors: o.mirrors,
		Presets: o.presets, Resolver: o.resolver.AddrPort, EgressProxy: o.egressProxy.URL,
		Dirs: dirs, DefaultRuntime: o.defaultRuntime, MaxSandboxes: o.maxSandboxes, IdleExit: idle,
		Logger: slog.New(o.handler(to, p.json)), Ready: ready,
	})
}

// absolute returns o with paths that hold for the daemon, wherever it is started.
func (o PreviewOptions) absolute() (PreviewOptions, error) {
	if (o.TLSCert == "") != (o.TLSKey == "") {
		return o, usage("--tls-cert and --tls-key need each other", "give both, or none")
	}
	for _, file := range []*string{&o.TLSCert, &o.TLSKey} {
		if *file == "" {
			continue
		}
		path, err := filepath.Abs(*file)
		if err != nil {
			return o, err
		}
		*file = path
	}
	return o, nil
}

// policyFile returns the file of the operator's policy: the one that was asked for, else
// the first that is there, else the one that may appear.
func policyFile(asked string, dirs daemon.Dirs) (path string, optional bool, err error) {
	if asked != "" {
		path, err = filepath.Abs(asked)
		return path, false, err
	}
	own := filepath.Join(dirs.Data, "policy.yaml")
	for _, path := range []string{own, "/etc/cove/policy.yaml"} {
		if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
			return path, true, nil
		}
	}
	return own, true, nil
}

func (o *serveFlags) handler(to io.Writer, json bool) slog.Handler {
	options := &slog.HandlerOptions{Level: &o.logLevel}
	if json || o.logFormat == "json" {
		return slog.NewJSONHandler(escaper{to}, options)
	}
	return slog.NewTextHandler(to, options)
}

// escaper escapes the control characters that JSON allows in text, and that terminals
// obey: DEL and C1. What callers send ends up in the log.
type escaper struct{ to io.Writer }

// Write writes whole lines of JSON.
func (e escaper) Write(line []byte) (int, error) {
	escaped := make([]byte, 0, len(line))
	for _, r := range string(line) {
		if r >= 0x7f && r < 0xa0 {
			escaped = fmt.Appendf(escaped, `\u%04x`, r)
		} else {
			escaped = utf8.AppendRune(escaped, r)
		}
	}
	if _, err := e.to.Write(escaped); err != nil {
		return 0, err
	}
	return len(line), nil
}

// logFormat is a flag: text or json.
type logFormat string

// Set implements pflag.Value.
func (f *logFormat) Set(text string) error {
	if text != "text" && text != "json" {
		return fmt.Errorf("%s is neither text nor json", quote(text))
	}
	*f = logFormat(text)
	return nil
}

// String implements pflag.Value.
func (f *logFormat) String() string { return string(*f) }

// Type implements pflag.Value.
func (f *logFormat) Type() string { return "format" }

// levelFlag is a flag: the least important messages that are logged.
type levelFlag struct{ *slog.LevelVar }

// Set implements pflag.Value.
func (l levelFlag) Set(text string) error {
	if l.UnmarshalText([]byte(text)) != nil {
		return errors.New(quote(text) + " is none of debug, info, warn and error")
	}
	return nil
}

// String implements pflag.Value.
func (l levelFlag) String() string {
	if l.LevelVar == nil {
		return ""
	}
	return strings.ToLower(l.Level().String())
}

// Type implements pflag.Value.
func (l levelFlag) Type() string { return "level" }
