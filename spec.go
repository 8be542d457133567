package cove

// Spec is what a sandbox is asked to be. It is deterministic and says nothing about
// the host: the same spec means the same sandbox on every machine. A zero field means
// the default, which the host fills in.
type Spec struct {
	Name       string            `json:"name,omitempty" doc:"unique among living sandboxes; usable in place of the id"`
	Runtime    string            `json:"runtime,omitempty" doc:"what isolates, driver[:variant]; default gvisor" example:"gvisor"`
	Image      string            `json:"image,omitempty" doc:"where the root filesystem comes from: host, an OCI reference, or an archive; default host" example:"host"`
	Pull       PullPolicy        `json:"pull,omitempty" enum:"missing,always,never" doc:"when the image is fetched; default missing"`
	Platform   string            `json:"platform,omitempty" doc:"os/architecture[/variant] of the image; default this host's" example:"linux/amd64"`
	Limits     Limits            `json:"limits,omitzero" doc:"bounds on what it uses"`
	Network    Network           `json:"network,omitzero" doc:"what it may reach; default nothing"`
	Env        map[string]string `json:"env,omitempty" doc:"environment of every command"`
	User       string            `json:"user,omitempty" doc:"user that commands run as: a name, uid or uid:gid; default user (uid 1000)"`
	Workdir    string            `json:"workdir,omitempty" doc:"working directory of commands; default /workspace"`
	Mounts     []Mount           `json:"mounts,omitempty" doc:"directories of the host, named volumes and memory, to be seen inside"`
	Ports      []Port            `json:"ports,omitempty" doc:"ports inside that are open on the daemon's machine"`
	Ulimits    []Ulimit          `json:"ulimits,omitempty" doc:"resource limits of each process, getrlimit(2)"`
	Hosts      map[string]string `json:"hosts,omitempty" doc:"lines of /etc/hosts: name to address"`
	Options    Options           `json:"options,omitzero" doc:"what some runtimes have beside that; a runtime that lacks one refuses it"`
	ReadOnly   bool              `json:"read_only,omitempty" doc:"root filesystem strictly read-only, with /tmp and /workspace writable"`
	Labels     map[string]string `json:"labels,omitempty" doc:"for the caller to find it by"`
	Timeout    Duration          `json:"timeout,omitempty" doc:"longest time one command may take, unless the command says otherwise; default 300 s"`
	TTL        Duration          `json:"ttl,omitempty" doc:"time until it is destroyed; default 1 h"`
	Idle       Duration          `json:"idle,omitempty" doc:"time without use until it is destroyed; default never"`
	BestEffort bool              `json:"best_effort,omitempty" doc:"accept controls that the runtime can't fully enforce; the reply says which"`
}

// The defaults of a Spec.
const (
	DefaultRuntime  = "gvisor"
	DefaultImage    = "host"
	DefaultUser     = "user"
	DefaultWorkdir  = "/workspace"
	DefaultCPUs     = 1
	DefaultMemory   = 512 * MiB
	DefaultPids     = 256
	DefaultDisk     = 2 * GiB
	DefaultShm      = 64 * MiB
	DefaultTimeout  = Duration(300e9)
	DefaultTTL      = Duration(3600e9)
	DefaultIdle     = Never
	DefaultCapacity = 1 * MiB // of each stream in an ExecResult
)

// WithDefaults returns the spec with its zero fields filled in. Maps are copied.
func (s Spec) WithDefaults() Spec {
	setDefault(&s.Runtime, DefaultRuntime)
	setDefault(&s.Image, DefaultImage)
	setDefault(&s.User, DefaultUser)
	setDefault(&s.Workdir, DefaultWorkdir)
	setDefault(&s.Limits.CPUs, DefaultCPUs)
	setDefault(&s.Limits.Memory, DefaultMemory)
	setDefault(&s.Limits.Pids, DefaultPids)
	setDefault(&s.Limits.Disk, DefaultDisk)
	setDefault(&s.Limits.Shm, DefaultShm)
	setDefault(&s.Pull, PullMissing)
	s.Network = s.Network.withDefaults()
	setDefault(&s.Timeout, DefaultTimeout)
	setDefault(&s.TTL, DefaultTTL)
	setDefault(&s.Idle, DefaultIdle)
	s.Env, s.Labels = copyMap(s.Env), copyMap(s.Labels)
	return s
}

func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

func copyMap(m map[string]string) map[string]string {
	if m == nil {
		return nil
	}
	copied := make(map[string]string, len(m))
	for key, value := range m {
		copied[key] = value
	}
	return copied
}
