package image

import (
	"errors"
	"strings"
	"testing"

	"github.com/covehq/cove"
)

func TestReferencesHaveOneForm(t *testing.T) {
	digest := "sha256:" + strings.Repeat("ab", 32)
	for text, want := range map[string]string{
		"python":                             "python:latest",
		"python:3.12":                        "python:3.12",
		"library/python:3.12":                "python:3.12",
		"docker.io/library/python:3.12":      "python:3.12",
		"docker.io/team/app":                 "team/app:latest",
		"index.docker.io/team/app:1":         "team/app:1",
		"ghcr.io/team/app":                   "ghcr.io/team/app:latest",
		"localhost:5000/app":                 "localhost:5000/app:latest",
		"localhost/app":                      "localhost/app:latest",
		"[::1]:5000/app:2":                   "[::1]:5000/app:2",
		"python@" + digest:                   "python@" + digest,
		"python:3.12@" + digest:              "python@" + digest,
		"oci:1.0":                            "oci:1.0", // a name in a registry, since it is no path
		"oci:/dir/layout":                    "oci:/dir/layout",
		"oci:/dir//layout/:v1":               "oci:/dir/layout:v1",
		"docker-archive:/a.tar":              "docker-archive:/a.tar",
		"docker-archive:/a.tar:app:1":        "docker-archive:/a.tar:app:1",
		"oci-archive:/a/../b.tar:x":          "oci-archive:/b.tar:x",
		"docker-daemon:app:dev":              "docker-daemon:app:dev",
		"docker-daemon:" + digest:            "docker-daemon:" + digest,
		"":                                   "error",
		"UPPER/case":                         "error",
		"python:":                            "error",
		"python:3.12@sha256:12":              "error",
		"-v":                                 "error",
		"--root=/":                           "error",
		"a/../b":                             "error",
		"../images/json":                     "error",
		"https://ghcr.io/team/app":           "error",
		"ghcr.io/team/app:1 --privileged":    "error",
		"ghcr.io/te\x00am":                   "error",
		"user@evil.example/app":              "error",
		"evil.example#/app/x":                "error",
		"docker-archive:a.tar":               "error",
		"docker-daemon:":                     "error",
		"docker-daemon:../images/json":       "error",
		"docker-daemon:a b":                  "error",
		strings.Repeat("a", maxReference+10): "error",
	} {
		parsed, err := parseReference(text)
		got := "error"
		if err == nil {
			got = parsed.String()
		} else if !errors.Is(err, cove.Invalid) || cove.HintOf(err) == "" {
			t.Errorf("%.100q: got %v, want invalid with a hint", text, err)
		}
		if got != want {
			t.Errorf("%.100q: got %s, want %s", text, got, want)
		}
		if err == nil {
			if again, err := parseReference(got); err != nil || again.String() != got {
				t.Errorf("%q again: got %v, %v, want the same", got, again, err)
			}
		}
	}
}

func TestPlatformsHaveOneForm(t *testing.T) {
	for text, want := range map[string]string{
		"linux/amd64": "linux/amd64", "Linux/x86_64": "linux/amd64", "linux/aarch64": "linux/arm64", "linux/arm64/v8": "linux/arm64",
		"linux/arm/v7": "linux/arm/v7", "linux": "error", "linux/": "error", "/amd64": "error", "linux/amd64:10": "error", "a/b/c/d": "error",
		strings.Repeat("a", 100) + "/b": "error",
	} {
		platform, err := parsePlatform(text)
		got := platform.String()
		if err != nil {
			got = "error"
		}
		if got != want {
			t.Errorf("%q: got %s, %v, want %s", text, got, err, want)
		}
	}
}
