package main

import (
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// sizeVariable is in the environment of a container's first process where its root
// filesystem is to have a size. An engine gives every container the same flags, and this is
// the one way to say more that all of them have. Whoever sets it could at most give a
// container the room that it has without.
const sizeVariable = "COVE_ROOT_SIZE"

// maxConfig bounds what is read of a bundle's configuration.
const maxConfig = 16 << 20

// withSize returns the arguments with a bound on the root filesystem, where they are to
// create a container that asks for one.
func withSize(args []string) []string {
	verb := slices.Index(args, "create")
	if verb < 0 {
		return args
	}
	bundle := "."
	for i, arg := range args[verb:] {
		name, value, joined := strings.Cut(strings.TrimLeft(arg, "-"), "=")
		switch {
		case name != "bundle" && name != "b" || !strings.HasPrefix(arg, "-"):
		case joined:
			bundle = value
		case verb+i+1 < len(args):
			bundle = args[verb+i+1]
		}
	}
	size := sizeOf(filepath.Join(bundle, "config.json"))
	if size <= 0 {
		return args
	}
	return slices.Insert(slices.Clone(args), verb, "--overlay2=root:self,size="+strconv.FormatInt(size, 10))
}

// sizeOf returns the size that a container's configuration asks for, 0 for none.
func sizeOf(path string) int64 {
	file, err := os.Open(path)
	if err != nil {
		return 0 // gVisor says what is wrong with it
	}
	defer file.Close()
	var config struct{ Process struct{ Env []string } }
	if err := json.NewDecoder(io.LimitReader(file, maxConfig)).Decode(&config); err != nil {
		return 0
	}
	for _, variable := range config.Process.Env {
		if text, ok := strings.CutPrefix(variable, sizeVariable+"="); ok {
			size, _ := strconv.ParseInt(text, 10, 64)
			return size
		}
	}
	return 0
}
