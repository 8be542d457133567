package image

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"path"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"unicode/utf8"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/covehq/cove"
)

const (
	// maxManifest bounds a manifest, an index and a configuration; registries accept 4 MiB.
	maxManifest = 4 << 20
	// maxLayers bounds the layers of an image; engines make 127.
	maxLayers = 512
	// maxNesting bounds how deep indexes lie in each other.
	maxNesting = 2
)

// manifestTypes are what we accept of a registry.
var manifestTypes = strings.Join([]string{
	string(types.OCIImageIndex), string(types.DockerManifestList), string(types.OCIManifestSchema1), string(types.DockerManifestSchema2),
}, ", ")

// manifest is that of one image of one platform, checked as far as it can be without its
// blobs.
type manifest struct {
	raw    []byte
	digest string
	config v1.Descriptor
	layers []v1.Descriptor // the lowest first
}

func digestOf(data []byte) string {
	sum := sha256.Sum256(data)
	return "sha256:" + hex.EncodeToString(sum[:])
}

// readAll reads what may have up to most bytes.
func readAll(r io.Reader, most int64, what string) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(r, most+1))
	if err == nil && int64(len(data)) > most {
		return nil, corrupt(fmt.Sprintf("the %s has more than %v", what, cove.Bytes(most)))
	}
	return data, err
}

// document is what an index or a manifest is told by. One that could be read as both is
// refused, since two programs would see two images (CVE-2021-41190).
type document struct {
	SchemaVersion int             `json:"schemaVersion"`
	Manifests     []v1.Descriptor `json:"manifests,omitempty"`
	Config        *v1.Descriptor  `json:"config,omitempty"`
	Layers        []v1.Descriptor `json:"layers,omitempty"`
	FSLayers      json.RawMessage `json:"fsLayers,omitempty"`
}

// chooseManifest returns the manifest for a platform from a document that is one, or an
// index that leads to one. fetch fetches another document, which is verified here.
func chooseManifest(raw []byte, platform v1.Platform, fetch func(v1.Descriptor) ([]byte, error)) (*manifest, error) {
	for range maxNesting + 1 {
		var doc document
		if err := json.Unmarshal(raw, &doc); err != nil {
			return nil, corrupt("the manifest is not JSON of the expected form")
		}
		switch {
		case doc.SchemaVersion == 1 || doc.FSLayers != nil:
			return nil, cove.Errorf(cove.NotSupported, "", "", "the image has a manifest of 2015 (schema 1)", "push it again with a current tool")
		case doc.Manifests != nil && doc.Config == nil && doc.Layers == nil:
		case doc.Config != nil && doc.Manifests == nil:
			return newManifest(raw, doc)
		default:
			return nil, corrupt("neither the manifest of an image nor an index")
		}
		child, err := pick(doc.Manifests, platform)
		if err != nil {
			return nil, err
		}
		if raw, err = fetch(child); err != nil {
			return nil, err
		}
		if digestOf(raw) != child.Digest.String() {
			return nil, corrupt("a manifest is not the one that the index promises")
		}
	}
	return nil, corrupt("indexes lie in each other too deep")
}

// pick chooses a platform's image, or an index in which to look on.
func pick(list []v1.Descriptor, platform v1.Platform) (v1.Descriptor, error) {
	var offered []string
	for _, d := range list {
		if d.Platform == nil && (d.MediaType.IsIndex() || len(list) == 1) {
			return d, nil
		}
		if d.Platform == nil {
			continue
		}
		if d.Platform.Satisfies(platform) {
			return d, nil
		}
		if len(offered) < 10 && d.Platform.OS != "unknown" {
			offered = append(offered, fmt.Sprintf("%.40q", d.Platform.String()))
		}
	}
	return v1.Descriptor{}, wrongPlatform(platform, strings.Join(offered, ", "))
}

func wrongPlatform(platform v1.Platform, offered string) error {
	return &cove.Error{
		Code: cove.NotFound, Err: fmt.Errorf("the image is not for %s", platform),
		Hint: "choose another image; this one is for " + offered,
	}
}

func newManifest(raw []byte, doc document) (*manifest, error) {
	if len(doc.Layers) > maxLayers {
		return nil, cove.Errorf(cove.TooLarge, "", "", fmt.Sprintf("the image has %d layers", len(doc.Layers)), fmt.Sprintf("make an image with at most %d", maxLayers))
	}
	for _, d := range append(slices.Clone(doc.Layers), *doc.Config) {
		if d.Digest.Algorithm != "sha256" || !isHex(d.Digest.Hex) || d.Size < 0 {
			return nil, corrupt("the manifest has an impossible digest or size")
		}
	}
	if doc.Config.Size > maxManifest {
		return nil, corrupt("the configuration is too long")
	}
	for _, layer := range doc.Layers {
		kind := string(layer.MediaType)
		if strings.Contains(kind, "encrypted") {
			return nil, cove.Errorf(cove.NotSupported, "", "", "the image is encrypted", "use one that is not")
		}
		if !strings.HasPrefix(kind, "application/vnd.oci.image.layer.") && !strings.HasPrefix(kind, "application/vnd.docker.image.rootfs.") {
			return nil, cove.Errorf(cove.Invalid, "", "", fmt.Sprintf("what the name leads to is no root filesystem: it has a part of type %.80q", kind), "use the name of a container image")
		}
	}
	return &manifest{raw: raw, digest: digestOf(raw), config: *doc.Config, layers: doc.Layers}, nil
}

// configFile is what we read of an image's configuration. Everything else in there, above
// all labels, is data of no effect.
type configFile struct {
	OS           string `json:"os"`
	Architecture string `json:"architecture"`
	Variant      string `json:"variant"`
	RootFS       struct {
		DiffIDs []string `json:"diff_ids"`
	} `json:"rootfs"`
	Config struct {
		Env          []string            `json:"Env"`
		WorkingDir   string              `json:"WorkingDir"`
		User         string              `json:"User"`
		Entrypoint   []string            `json:"Entrypoint"`
		Cmd          []string            `json:"Cmd"`
		ExposedPorts map[string]struct{} `json:"ExposedPorts"`
		Volumes      map[string]struct{} `json:"Volumes"`
	} `json:"config"`
}

// parseConfig reads and checks a configuration for a manifest.
func parseConfig(raw []byte, m *manifest, platform v1.Platform) (*configFile, cove.ImageConfig, error) {
	var file configFile
	if err := json.Unmarshal(raw, &file); err != nil {
		return nil, cove.ImageConfig{}, corrupt("the configuration is not JSON of the expected form")
	}
	own := v1.Platform{OS: file.OS, Architecture: file.Architecture, Variant: file.Variant}
	if (file.OS != "" && file.OS != platform.OS) || (file.Architecture != "" && file.Architecture != platform.Architecture) {
		return nil, cove.ImageConfig{}, wrongPlatform(platform, fmt.Sprintf("%.40q", own.String()))
	}
	if len(file.RootFS.DiffIDs) != len(m.layers) {
		return nil, cove.ImageConfig{}, corrupt("the configuration is of an image with another number of layers")
	}
	config := cove.ImageConfig{
		Env: file.Config.Env, Workdir: file.Config.WorkingDir, User: file.Config.User,
		Entrypoint: file.Config.Entrypoint, Cmd: file.Config.Cmd,
		Ports: slices.Sorted(maps.Keys(file.Config.ExposedPorts)), Volumes: slices.Sorted(maps.Keys(file.Config.Volumes)),
	}
	return &file, config, checkConfig(&config)
}

// The bounds of a configuration, far above any use.
const (
	maxConfigTexts = 4096
	maxConfigBytes = 1 << 20
	maxVolumes     = 32
)

var portPattern = regexp.MustCompile(`^[0-9]{1,5}(-[0-9]{1,5})?(/(tcp|udp|sctp))?$`)

// reserved are the directories that a sandbox mounts by itself; a volume there is the
// image's attempt to replace them.
var reserved = []string{"/", "/proc", "/dev", "/sys", "/.cove"}

// checkConfig refuses a configuration that no tool writes, and brings its paths into one
// form.
func checkConfig(c *cove.ImageConfig) error {
	texts := slices.Concat(c.Env, c.Entrypoint, c.Cmd, c.Ports, c.Volumes, []string{c.Workdir, c.User})
	size := 0
	for _, text := range texts {
		size += len(text)
		if strings.ContainsRune(text, 0) || !utf8.ValidString(text) {
			return absurd("has text with NUL or not in UTF-8")
		}
	}
	switch {
	case len(texts) > maxConfigTexts || size > maxConfigBytes:
		return absurd("is absurdly long")
	case len(c.Volumes) > maxVolumes:
		return absurd(fmt.Sprintf("has %d volumes", len(c.Volumes)))
	case c.Workdir != "" && (!strings.HasPrefix(c.Workdir, "/") || len(c.Workdir) > 4096):
		return absurd(fmt.Sprintf("has the working directory %.100q", c.Workdir))
	}
	if c.Workdir != "" {
		c.Workdir = path.Clean(c.Workdir)
	}
	for _, entry := range c.Env {
		if key, _, ok := strings.Cut(entry, "="); !ok || key == "" {
			return absurd(fmt.Sprintf("has the variable %.100q", entry))
		}
	}
	for _, port := range c.Ports {
		if !portPattern.MatchString(port) {
			return absurd(fmt.Sprintf("has the port %.100q", port))
		}
	}
	for i, volume := range c.Volumes {
		cleaned := path.Clean(volume)
		inReserved := slices.ContainsFunc(reserved[1:], func(dir string) bool { return cleaned == dir || strings.HasPrefix(cleaned, dir+"/") })
		if !strings.HasPrefix(volume, "/") || cleaned == "/" || inReserved || len(volume) > 4096 {
			return absurd(fmt.Sprintf("has the volume %.100q", volume))
		}
		c.Volumes[i] = cleaned
	}
	slices.Sort(c.Volumes)
	c.Volumes = slices.Compact(c.Volumes)
	return nil
}

func absurd(problem string) error {
	return cove.Errorf(cove.Invalid, "", "", "the image's configuration "+problem, "make the image again without that, or use another")
}

// parsePlatform reads os/architecture[/variant]; "" is this machine's.
func parsePlatform(text string) (v1.Platform, error) {
	if text == "" {
		return v1.Platform{OS: "linux", Architecture: runtime.GOARCH}, nil
	}
	platform, err := v1.ParsePlatform(strings.ToLower(text))
	if err != nil || platform.OS == "" || platform.Architecture == "" || platform.OSVersion != "" || len(text) > 64 {
		return v1.Platform{}, cove.Errorf(cove.Invalid, "image", "", fmt.Sprintf("%.64q is not a platform", text), "write os/architecture, as in linux/"+runtime.GOARCH)
	}
	switch platform.Architecture {
	case "x86_64", "x86-64":
		platform.Architecture = "amd64"
	case "aarch64":
		platform.Architecture = "arm64"
	}
	if platform.Architecture == "arm64" && platform.Variant == "v8" {
		platform.Variant = "" // there is no other
	}
	return *platform, nil
}
