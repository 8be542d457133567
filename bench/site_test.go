package main

import (
	"os/exec"
	"path/filepath"
	"testing"
)

// TestTheProgramOfTheNetworkRows runs the benchmark's own client and server against each
// other, with little to do.
func TestTheProgramOfTheNetworkRows(t *testing.T) {
	site, err := startSite(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(site.stop)
	program := filepath.Join(t.TempDir(), "reach")
	if output, err := exec.CommandContext(t.Context(), "go", "build", "-o", program, "./reach").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v: %s", err, output)
	}
	for name, args := range map[string][]string{
		"plain": {"-url", "http://" + site.plain, "-echo", site.echo, "-open", "10"},
		"TLS":   {"-url", "https://localhost:" + port(site.secure), "-ca", site.ca},
	} {
		if output, err := exec.CommandContext(t.Context(), program, append(args, "-n", "3", "-size", "1000000")...).CombinedOutput(); err != nil {
			t.Errorf("%s: %v: %s", name, err, output)
		}
	}
}
