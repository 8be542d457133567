package docker

import (
	"context"
	"net"

	"github.com/covehq/cove/guest/dial/carrier"
	"github.com/covehq/cove/runtime/internal/agent"
)

// link is a way to an agent.
type link interface {
	Dial(ctx context.Context) (net.Conn, error)
	Close()
}

// linkOf returns the way to a machine's agent: its socket, where that is a file of this
// machine's kernel, else the streams of a process inside. stdio may be nil.
func (d *Driver) linkOf(m *machine, stdio *stdio) link {
	if m.facts.givesDisk() {
		return socket{agent.Socket{First: m.first}}
	}
	return d.line(m.known.Container, stdio)
}

// line returns the link by the streams of the first process, as long as they last, and then
// by those of one that connects to the agent inside.
func (d *Driver) line(made string, stdio *stdio) link {
	var first *carrier.Stream
	if stdio != nil {
		first = &carrier.Stream{Conn: stdio}
	}
	return carrier.NewLine(first, func(ctx context.Context) (*carrier.Stream, error) {
		conn, err := d.connect(ctx, made)
		if err != nil {
			return nil, err
		}
		return &carrier.Stream{Conn: conn, Said: conn.complaint}, nil
	})
}

// socket is the link by the agent's socket. It needs no engine.
type socket struct{ agent.Socket }

// Close implements link.
func (socket) Close() {}
