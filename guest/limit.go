package guest

import "github.com/covehq/cove/guest/process"

// Limit is the part of the agent's program that gives a command its resource limits: a main
// calls it first. It returns where this process is not that part.
func Limit() { process.Limit() }
