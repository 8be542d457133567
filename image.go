package cove

import "time"

// Image is what an image reference stands for, as a runtime has it.
type Image struct {
	Reference string      `json:"reference" doc:"as it was asked for"`
	Digest    string      `json:"digest,omitempty" doc:"of its manifest, sha256:…; empty for an image that has none"`
	Platform  string      `json:"platform,omitempty" doc:"os/architecture[/variant]" example:"linux/amd64"`
	Size      Bytes       `json:"size,omitempty" doc:"bytes that it takes on this host, unpacked"`
	CreatedAt *time.Time  `json:"created_at,omitempty" doc:"when this host got it"`
	UsedAt    *time.Time  `json:"used_at,omitempty" doc:"when a sandbox was last made of it"`
	Config    ImageConfig `json:"config,omitzero"`
}

// ImageConfig is the part of an OCI image's configuration that has an effect. All of it
// comes from whoever made the image.
type ImageConfig struct {
	Env        []string `json:"env,omitempty" doc:"KEY=value: below what the spec sets"`
	Workdir    string   `json:"workdir,omitempty" doc:"working directory, unless the spec sets one"`
	User       string   `json:"user,omitempty" doc:"user that commands run as, unless the spec sets one"`
	Entrypoint []string `json:"entrypoint,omitempty" doc:"goes before the command of cove run without a command"`
	Cmd        []string `json:"cmd,omitempty" doc:"command of cove run without a command"`
	Ports      []string `json:"ports,omitempty" doc:"port/protocol on which it says that it listens" example:"8000/tcp"`
	Volumes    []string `json:"volumes,omitempty" doc:"directories that are a tmpfs of their own"`
}

// ImagePull asks for an image to be fetched.
type ImagePull struct {
	Reference string     `json:"reference" doc:"as the image of a spec" example:"python:3.12"`
	Runtime   string     `json:"runtime,omitempty" doc:"for which it is; default the daemon's default" example:"gvisor"`
	Platform  string     `json:"platform,omitempty" doc:"os/architecture[/variant]; default this host's" example:"linux/amd64"`
	Pull      PullPolicy `json:"pull,omitempty" enum:"missing,always,never" doc:"default missing"`
}

// PullPolicy says when an image is fetched.
type PullPolicy string

// The policies.
const (
	PullMissing PullPolicy = "missing" // when it is not here; the default
	PullAlways  PullPolicy = "always"  // also when it is: a tag may have moved
	PullNever   PullPolicy = "never"   // it has to be here
)

// PullProgress is how far the fetching of an image has come. Later ones replace earlier
// ones.
type PullProgress struct {
	Phase    string `json:"phase" enum:"resolving,pulling,unpacking,done"`
	Layers   int    `json:"layers,omitempty" doc:"how many the image has"`
	Complete int    `json:"complete,omitempty" doc:"how many are here"`
	Bytes    Bytes  `json:"bytes,omitempty" doc:"fetched so far"`
	Total    Bytes  `json:"total,omitempty" doc:"to be fetched in all; 0: not known yet"`
}
