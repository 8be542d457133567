package cli

import (
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/covehq/cove"
)

// specFlags adds the flags that describe a sandbox, the same for every verb that makes
// one. A flag that is not given leaves its field zero, so that the daemon's default holds.
func specFlags(flags *pflag.FlagSet, spec *cove.Spec) {
	flags.StringVar(&spec.Runtime, "runtime", "", "what isolates it, see cove runtime ls; default gvisor")
	flags.StringVar(&spec.Image, "image", "", "root filesystem: host, a name such as python:3.12, docker-archive:TAR, rootfs:DIR, see cove image; default host")
	pullFlags(flags, &spec.Pull, &spec.Platform, "missing")
	flags.StringVar(&spec.Name, "name", "", "a name to use in place of the id")
	flags.Var(cpusFlag(&spec.Limits.CPUs), "cpus", "processors, as in 2 or 0.5; default 1")
	flags.Var(bytesFlag(&spec.Limits.Memory), "memory", "memory without swap; default 512m")
	flags.Var(countFlag(&spec.Limits.Pids), "pids", "processes and threads; default 256")
	flags.Var(bytesFlag(&spec.Limits.Disk), "disk", "bytes written to its root filesystem; default 2g")
	flags.Var(durationFlag(&spec.Timeout), "timeout", "longest time one command may take, or never; default 300s")
	flags.Var(durationFlag(&spec.TTL), "ttl", "time until it is destroyed, or never; default 1h")
	flags.Var(durationFlag(&spec.Idle), "idle", "time without use until it is destroyed; default never")
	networkFlags(flags, &spec.Network)
	flags.VarP(environment{&spec.Env}, "env", "e", "variable of every command; KEY alone copies yours (repeatable)")
	flags.StringVarP(&spec.User, "user", "u", "", "user that commands run as: a name, uid or uid:gid; default user")
	flags.StringVarP(&spec.Workdir, "workdir", "w", "", "directory that commands run in; default /workspace")
	flags.BoolVar(&spec.ReadOnly, "read-only", false, "make its root filesystem read-only, but for /tmp and /workspace")
	flags.Var(labels{&spec.Labels}, "label", "label to find it by (repeatable)")
	optionFlags(flags, spec)
	flags.BoolVar(&spec.BestEffort, "best-effort", false, "accept limits that this machine can't fully enforce")
}

// completeSpec offers values for the flags of specFlags that have a few.
func (p *program) completeSpec(cmd *cobra.Command) {
	must(cmd.RegisterFlagCompletionFunc("runtime", p.completeRuntimes))
	must(cmd.RegisterFlagCompletionFunc("image", cobra.FixedCompletions([]string{"host", "rootfs:", "docker-archive:", "oci-archive:", "oci:", "docker-daemon:"}, cobra.ShellCompDirectiveNoSpace)))
	completePull(cmd)
	completeOptions(cmd)
	p.completeNetwork(cmd, "network")
}

// must is for errors that only a mistake in this package can cause.
func must(err error) {
	if err != nil {
		panic(err)
	}
}
