package cli

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/goccy/go-yaml"
	"github.com/spf13/pflag"
)

// settings is what cove.yaml may say. Every key is also a flag, and a variable of the
// environment: flags win over variables, and those over the file.
type settings struct {
	Host           string `yaml:"host"`
	StateDir       string `yaml:"state_dir"`
	DataDir        string `yaml:"data_dir"`
	DefaultRuntime string `yaml:"default_runtime"`
	IdleExit       string `yaml:"idle_exit"`
	LogFormat      string `yaml:"log_format"`
	LogLevel       string `yaml:"log_level"`
	MaxSandboxes   string `yaml:"max_sandboxes"`
	Policy         string `yaml:"policy"`
	Mirrors        string `yaml:"mirrors"`
	Resolver       string `yaml:"resolver"`
	EgressProxy    string `yaml:"egress_proxy"`
	PreviewListen  string `yaml:"preview_listen"`
	PreviewDomain  string `yaml:"preview_domain"`
	Listen         string `yaml:"listen"`
	AllowHosts     string `yaml:"allow_hosts"`
	KeyRate        string `yaml:"key_rate"`
	TLSCert        string `yaml:"tls_cert"`
	TLSKey         string `yaml:"tls_key"`
	BehindProxy    string `yaml:"behind_proxy"`

	Presets presets `yaml:"presets"` // a map, as no other key is
}

// sources lists where the value of a flag comes from when it is not given.
func (s settings) sources() []source {
	return []source{
		{"host", "COVE_URL", "host", s.Host},
		{"state-dir", "COVE_STATE_DIR", "state_dir", s.StateDir},
		{"data-dir", "COVE_DATA_DIR", "data_dir", s.DataDir},
		{"default-runtime", "COVE_DEFAULT_RUNTIME", "default_runtime", s.DefaultRuntime},
		{"idle-exit", "COVE_IDLE_EXIT", "idle_exit", s.IdleExit},
		{"log-format", "COVE_LOG_FORMAT", "log_format", s.LogFormat},
		{"log-level", "COVE_LOG_LEVEL", "log_level", s.LogLevel},
		{"max-sandboxes", "COVE_MAX_SANDBOXES", "max_sandboxes", s.MaxSandboxes},
		{"policy", "COVE_POLICY", "policy", s.Policy},
		{"mirrors", "COVE_MIRRORS", "mirrors", s.Mirrors},
		{"resolver", "COVE_RESOLVER", "resolver", s.Resolver},
		{"egress-proxy", "COVE_EGRESS_PROXY", "egress_proxy", s.EgressProxy},
		{"preview-listen", "COVE_PREVIEW_LISTEN", "preview_listen", s.PreviewListen},
		{"preview-domain", "COVE_PREVIEW_DOMAIN", "preview_domain", s.PreviewDomain},
		{"listen", "COVE_LISTEN", "listen", s.Listen},
		{"allow-hosts", "COVE_ALLOW_HOSTS", "allow_hosts", s.AllowHosts},
		{"key-rate", "COVE_KEY_RATE", "key_rate", s.KeyRate},
		{"tls-cert", "COVE_TLS_CERT", "tls_cert", s.TLSCert},
		{"tls-key", "COVE_TLS_KEY", "tls_key", s.TLSKey},
		{"behind-proxy", "COVE_BEHIND_PROXY", "behind_proxy", s.BehindProxy},
		{"presets", "COVE_PRESETS", "presets", s.Presets.String()},
	}
}

type source struct{ flag, variable, key, value string }

// configure fills in the flags that were not given.
func (p *program) configure(flags *pflag.FlagSet) error {
	path, file, err := p.readConfig()
	if err != nil {
		return err
	}
	for _, source := range file.sources() {
		flag := flags.Lookup(source.flag)
		if flag == nil || flag.Changed {
			continue
		}
		value, where := source.value, path+": "+source.key
		if variable := os.Getenv(source.variable); variable != "" {
			value, where = variable, source.variable
		}
		if value == "" {
			continue
		}
		if err := flags.Set(source.flag, value); err != nil {
			return usage(where+": "+cause(err).Error(), "see cove serve --help for what it may be")
		}
	}
	return nil
}

// cause returns what a flag's Set said, without pflag's words around it.
func cause(err error) error {
	var invalid *pflag.InvalidValueError
	if errors.As(err, &invalid) {
		return invalid.Unwrap()
	}
	return err
}

// readConfig reads cove.yaml. It may be missing where nobody asked for it.
func (p *program) readConfig() (path string, file settings, err error) {
	path = p.config
	if path == "" {
		path = os.Getenv("COVE_CONFIG")
	}
	asked := path != ""
	if !asked {
		path = defaultConfig(os.Geteuid(), os.Getenv)
	}
	if p.config, err = filepath.Abs(path); err != nil {
		return path, file, err
	}
	stream, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) && !asked {
		p.config = ""
		return path, file, nil
	}
	if err != nil {
		return path, file, problem("read configuration", "", err.Error(), "name another file with --config or COVE_CONFIG")
	}
	defer stream.Close()
	const most = 1 << 20
	err = yaml.NewDecoder(io.LimitReader(stream, most), yaml.Strict()).Decode(&file)
	if err != nil && !errors.Is(err, io.EOF) {
		return path, file, problem("read configuration", path, yaml.FormatError(err, false, true), "the keys are those of cove serve --help, with _ for -")
	}
	return path, file, nil
}

func defaultConfig(uid int, getenv func(string) string) string {
	if uid == 0 {
		return "/etc/cove/cove.yaml"
	}
	base := getenv("XDG_CONFIG_HOME")
	if !filepath.IsAbs(base) {
		base = filepath.Join(getenv("HOME"), ".config")
	}
	return filepath.Join(base, "cove", "cove.yaml")
}
