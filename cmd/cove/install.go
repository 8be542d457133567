package main

import (
	"github.com/covehq/cove"
	"github.com/covehq/cove/internal/cli"
	"github.com/covehq/cove/runtime/docker"
)

// install plans what makes a runtime available here.
func install(name string) (cli.Installation, error) {
	if name != "docker-gvisor" {
		return cli.Installation{}, cove.Errorf(cove.NotFound, "runtime install", name, "there is nothing to install by that name", "use docker-gvisor; the other runtimes are installed by their own packages")
	}
	if err := docker.Installable(""); err != nil {
		return cli.Installation{}, err
	}
	runsc, err := helper("cove-runsc", "COVE_RUNSC")
	if err != nil {
		return cli.Installation{}, err
	}
	plan, err := docker.Register(docker.DefaultConfig, runsc)
	if err != nil {
		return cli.Installation{}, err
	}
	return cli.Installation{
		Changes: plan.Lines, Apply: plan.Apply,
		Then: "now let the engine read it, which disturbs no container: systemctl reload docker, or kill -HUP $(pidof dockerd)",
	}, nil
}
