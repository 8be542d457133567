package image

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/docker/cli/cli/config/configfile"
	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"

	"github.com/covehq/cove"
)

// DockerLogins finds logins where docker login and podman login leave them: in the
// configuration files of this process's user, and with the helpers that those name.
type DockerLogins struct{}

// Resolve implements authn.Keychain.
func (d DockerLogins) Resolve(target authn.Resource) (authn.Authenticator, error) {
	return d.ResolveContext(context.Background(), target)
}

// ResolveContext implements authn.ContextKeychain. The file is read each time: people log
// in while a daemon runs.
func (DockerLogins) ResolveContext(ctx context.Context, target authn.Resource) (authn.Authenticator, error) {
	for _, path := range loginFiles(os.Getenv) {
		file, err := readLogins(path)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, &cove.Error{Code: cove.Invalid, Err: fmt.Errorf("logins of registries in %s: %w", path, err), Hint: "mend the file, or log in again with docker login"}
		}
		login, err := loginFor(ctx, file, target)
		if err != nil {
			return nil, err
		}
		if login != (authn.AuthConfig{}) {
			return authn.FromConfig(login), nil
		}
	}
	return authn.Anonymous, nil
}

// loginFiles lists where logins may be.
func loginFiles(getenv func(string) string) []string {
	var files []string
	if dir := getenv("DOCKER_CONFIG"); dir != "" {
		files = append(files, filepath.Join(dir, "config.json"))
	} else if home := getenv("HOME"); home != "" {
		files = append(files, filepath.Join(home, ".docker", "config.json"))
	}
	if file := getenv("REGISTRY_AUTH_FILE"); file != "" {
		files = append(files, file)
	}
	if dir := getenv("XDG_RUNTIME_DIR"); dir != "" {
		files = append(files, filepath.Join(dir, "containers", "auth.json"))
	}
	return files
}

func readLogins(path string) (*configfile.ConfigFile, error) {
	stream, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer stream.Close()
	file := configfile.New(path)
	return file, file.LoadFromReader(io.LimitReader(stream, maxManifest))
}

// loginFor returns the login that a file has for a repository or its registry, itself or
// by a helper.
func loginFor(ctx context.Context, file *configfile.ConfigFile, target authn.Resource) (authn.AuthConfig, error) {
	key := target.RegistryStr()
	if key == name.DefaultRegistry {
		key = authn.DefaultAuthKey
	}
	helper := file.CredentialsStore
	for of, own := range file.CredentialHelpers {
		if hostOf(of) == hostOf(key) {
			helper = own
		}
	}
	if helper != "" {
		return askHelper(ctx, helper, key)
	}
	login, ok := file.AuthConfigs[target.String()] // as podman login writes it
	if !ok {
		login, ok = file.AuthConfigs[key]
	}
	for of, other := range file.AuthConfigs { // Docker of old wrote whole addresses
		if !ok && hostOf(of) == hostOf(key) {
			login = other
		}
	}
	return authn.AuthConfig{
		Username: login.Username, Password: login.Password, Auth: login.Auth,
		IdentityToken: login.IdentityToken, RegistryToken: login.RegistryToken,
	}, nil
}

// hostOf returns the registry that a key of a configuration file is about.
func hostOf(key string) string {
	_, rest, found := strings.Cut(key, "://")
	if !found {
		rest = key
	}
	if rest = strings.TrimSuffix(strings.TrimSuffix(rest, "/"), "/v1"); rest == "docker.io" {
		return name.DefaultRegistry
	}
	return rest
}

// helperTimeout bounds a helper, which may ask a cloud for a token.
const helperTimeout = 30 * time.Second

var helperName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$`)

// askHelper asks a credential helper. One that does not know the registry is no error.
func askHelper(ctx context.Context, helper, key string) (authn.AuthConfig, error) {
	program := "docker-credential-" + helper
	failed := func(err error) (authn.AuthConfig, error) {
		return authn.AuthConfig{}, &cove.Error{
			Code: cove.Forbidden, Err: fmt.Errorf("%s: %w", program, err),
			Hint: "check that the helper works for the daemon's user, or take it out of Docker's config.json",
		}
	}
	if !helperName.MatchString(helper) {
		return failed(errors.New("not the name of a helper"))
	}
	ctx, cancel := context.WithTimeout(ctx, helperTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, "get")
	cmd.Stdin, cmd.WaitDelay = strings.NewReader(key), time.Second
	cmd.Env = helperEnvironment(os.Environ())
	output, err := cmd.Output()
	var reply struct{ Username, Secret string }
	switch {
	case bytes.Contains(output, []byte("credentials not found")):
		return authn.AuthConfig{}, nil
	case err != nil:
		return failed(err)
	case json.Unmarshal(output, &reply) != nil:
		return failed(errors.New("its reply is not JSON"))
	case reply.Username == "<token>":
		return authn.AuthConfig{IdentityToken: reply.Secret}, nil
	}
	return authn.AuthConfig{Username: reply.Username, Password: reply.Secret}, nil
}

// helperEnvironment is what a helper gets of ours: clouds configure theirs by variables,
// and Cove's own are none of their business.
func helperEnvironment(environ []string) []string {
	var passed []string
	for _, entry := range environ {
		if !strings.HasPrefix(entry, "COVE_") {
			passed = append(passed, entry)
		}
	}
	return passed
}
