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

// wayVariable is there where the agent is to make a way out of the sandbox, for which it
// needs raw sockets: gVisor takes the capability from all who were not promised it.
const wayVariable = "COVE_NETWORK"

// withOwn returns the arguments with flags for the one container that they are to create: a
// bound on the root filesystem, and raw sockets, where it asks for them.
func withOwn(args []string) []string {
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
	var flags []string
	for _, variable := range environmentOf(filepath.Join(bundle, "config.json")) {
		name, value, _ := strings.Cut(variable, "=")
		size, err := strconv.ParseInt(value, 10, 64)
		switch {
		case name == sizeVariable && err == nil && size > 0:
			flags = append(flags, "--overlay2=root:self,size="+strconv.FormatInt(size, 10))
		case name == wayVariable && value != "":
			flags = append(flags, "--net-raw")
		}
	}
	return slices.Insert(slices.Clone(args), verb, flags...)
}

// environmentOf returns the environment of a container's first process.
func environmentOf(path string) []string {
	file, err := os.Open(path)
	if err != nil {
		return nil // gVisor says what is wrong with it
	}
	defer file.Close()
	var config struct{ Process struct{ Env []string } }
	if err := json.NewDecoder(io.LimitReader(file, maxConfig)).Decode(&config); err != nil {
		return nil
	}
	return config.Process.Env
}
