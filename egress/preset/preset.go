// Package preset provides names for the rules that package managers need: pip, npm, go,
// cargo and apt stand for the servers that this machine's own clients are set up to use.
// The clients are asked, so that mirrors are honoured and no server is named here; an
// operator adds other presets, or takes the place of these.
package preset

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"os"
	"os/user"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/covehq/cove"
)

const (
	// askTime bounds the commands of one client: npm takes a second on a slow machine.
	askTime = 15 * time.Second
	// freshTime is how long an answer is used again: who changes a mirror does not do so
	// in the middle of a job.
	freshTime = 5 * time.Minute
	// failedTime is the same for an error, which somebody may be mending.
	failedTime = 10 * time.Second
)

// Options configures Presets. The zero value works.
type Options struct {
	// Own are the operator's presets, as rules by name. They win over those of clients.
	Own map[string][]string
	// Home is where the clients find their user's configuration; default that of the user.
	Home string
	// LookPath finds a client's program; default a search of PATH.
	LookPath func(name string) (string, error)
	// Run runs a program in a directory with an environment and returns its standard
	// output; default as a process of this machine.
	Run func(ctx context.Context, dir string, env, argv []string) ([]byte, error)
	// Fetch gets a small document by its URL, as a registry's description of itself;
	// default by HTTP.
	Fetch func(ctx context.Context, url string) ([]byte, error)
}

// Presets knows what each preset means on this machine. Its methods may be called
// concurrently.
type Presets struct {
	own     map[string][]string
	machine machine
	clients map[string]*client
	now     func() time.Time
}

// client is what a preset stands for, and what it answered last.
type client struct {
	ask func(context.Context, machine) (*servers, error)

	mu     sync.Mutex // held while it is asked, so that it is asked once
	at     time.Time
	answer *servers
	err    error
}

// New returns the presets of this machine. Nothing is asked until somebody needs it.
func New(o Options) *Presets {
	m := machine{home: cmp.Or(o.Home, home()), lookPath: o.LookPath, run: o.Run, fetch: o.Fetch}
	if m.lookPath == nil {
		m.lookPath = lookPath
	}
	if m.run == nil {
		m.run = run
	}
	if m.fetch == nil {
		m.fetch = fetch
	}
	p := &Presets{own: maps.Clone(o.Own), machine: m, clients: map[string]*client{}, now: time.Now}
	for name, ask := range map[string]func(context.Context, machine) (*servers, error){
		"apt": askApt, "cargo": askCargo, "go": askGo, "npm": askNpm, "pip": askPip,
	} {
		if p.own[name] == nil {
			p.clients[name] = &client{ask: ask}
		}
	}
	return p
}

// home is the home directory of the user, also for a service that has no HOME.
func home() string {
	if dir := os.Getenv("HOME"); dir != "" {
		return dir
	}
	if u, err := user.Current(); err == nil {
		return u.HomeDir
	}
	return "/"
}

// Names returns the names of all presets, sorted.
func (p *Presets) Names() []string {
	names := slices.AppendSeq(slices.Collect(maps.Keys(p.own)), maps.Keys(p.clients))
	slices.Sort(names)
	return names
}

// Rules returns what a preset means. It is an error that is cove.NotFound when there is
// none of that name, and cove.Unavailable, with a hint, when its client can't be asked.
// The client may have to be run for it, which takes up to some seconds.
func (p *Presets) Rules(name string) ([]string, error) {
	if rules := p.own[name]; rules != nil {
		return slices.Clone(rules), nil
	}
	c := p.clients[name]
	if c == nil {
		return nil, cove.Errorf(cove.NotFound, "preset", name, "there is no such preset",
			"use one of "+strings.Join(p.Names(), ", ")+", or have the operator add it under presets in cove.yaml")
	}
	found, err := p.get(context.Background(), c)
	if err != nil {
		return nil, explain(name, err)
	}
	return slices.Clone(found.rules), nil
}

// Environment returns the variables by which a preset's client inside uses the servers
// that the one of this machine does; none where it can't be told.
func (p *Presets) Environment(name string) map[string]string {
	c := p.clients[name]
	if c == nil {
		return nil
	}
	found, err := p.get(context.Background(), c)
	if err != nil {
		return nil
	}
	return maps.Clone(found.env)
}

// List returns all presets by name, with what they mean, or why they can't be used.
func (p *Presets) List(ctx context.Context) []cove.NetworkPreset {
	names := p.Names()
	list := make([]cove.NetworkPreset, len(names))
	var asked sync.WaitGroup
	for i, name := range names {
		list[i] = cove.NetworkPreset{Name: name, Rules: slices.Clone(p.own[name]), Source: "presets of cove.yaml"}
		if c := p.clients[name]; c != nil {
			asked.Go(func() { list[i] = p.describe(ctx, name, c) })
		}
	}
	asked.Wait()
	return list
}

func (p *Presets) describe(ctx context.Context, name string, c *client) cove.NetworkPreset {
	preset := cove.NetworkPreset{Name: name, Rules: []string{}, Source: name + " of this machine"}
	found, err := p.get(ctx, c)
	if err != nil {
		err = explain(name, err)
		preset.Error = errors.Unwrap(err).Error() + ": " + cove.HintOf(err)
		return preset
	}
	preset.Rules, preset.Source, preset.Warnings = slices.Clone(found.rules), found.source, slices.Clone(found.warnings)
	preset.Env = maps.Clone(found.env)
	return preset
}

// explain adds what can always be done.
func explain(name string, err error) error {
	return &cove.Error{
		Code: cove.Unavailable, Op: "preset", ID: name, Err: err,
		Hint: cmp.Or(cove.HintOf(err), "look at "+name+"'s configuration") + ", or give " + name + " rules of your own under presets in cove.yaml",
	}
}

// get returns what the client answers, or answered a short time ago.
func (p *Presets) get(ctx context.Context, c *client) (*servers, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	keep := freshTime
	if c.err != nil {
		keep = failedTime
	}
	if age := p.now().Sub(c.at); !c.at.IsZero() && age >= 0 && age < keep {
		return c.answer, c.err
	}
	asking, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	answer, err := c.ask(asking, p.machine)
	if err == nil && len(answer.rules) == 0 {
		err = cove.Errorf(cove.Unavailable, "", "", "it is set up to use no server", "look at its configuration")
	}
	if ctx.Err() != nil {
		return nil, ctx.Err() // of whoever asked, which says nothing about the client
	}
	c.at, c.answer, c.err = p.now(), answer, err
	return answer, err
}
