package docker

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/moby/moby/client"

	"github.com/covehq/cove/runtime/internal/bundle"
)

// stdio is the standard streams of a process in a container, as a connection. The engine
// sends its output in frames: the stream's number, three empty bytes, the length in four.
type stdio struct {
	client.HijackedResponse
	frame int  // bytes left of the frame
	kind  byte // its stream

	mu   sync.Mutex
	said []byte // the begin of what came on standard error
}

const (
	stdoutFrame = 1
	stderrFrame = 2
	longestSaid = 2 << 10
)

// attach connects to the first process of a container, which may not run yet.
func (d *Driver) attach(ctx context.Context, made string) (*stdio, error) {
	var s *stdio
	err := d.engine.hijack(ctx, func(ctx context.Context, c *client.Client) error {
		result, err := c.ContainerAttach(ctx, made, client.ContainerAttachOptions{Stream: true, Stdin: true, Stdout: true, Stderr: true})
		if err == nil {
			s = &stdio{HijackedResponse: result.HijackedResponse}
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("attach: %w", err)
	}
	return s, nil
}

// connect starts a process in a container that leads its streams to the agent.
func (d *Driver) connect(ctx context.Context, made string) (*stdio, error) {
	if err := d.engine.ping(ctx); err != nil {
		return nil, err
	}
	var created client.ExecCreateResult
	err := d.engine.call(ctx, func(ctx context.Context, c *client.Client) (err error) {
		created, err = c.ExecCreate(ctx, made, client.ExecCreateOptions{
			User: "0:0", WorkingDir: "/", Cmd: []string{bundle.AgentPath, "connect"}, AttachStdin: true, AttachStdout: true, AttachStderr: true,
		})
		return err
	})
	if err == nil && !validContainer.MatchString(created.ID) {
		err = fmt.Errorf("the engine calls a process %.80q", created.ID)
	}
	if err != nil {
		return nil, fmt.Errorf("connect: %w", err)
	}
	var s *stdio
	err = d.engine.hijack(ctx, func(ctx context.Context, c *client.Client) error {
		result, err := c.ExecAttach(ctx, created.ID, client.ExecAttachOptions{})
		if err == nil {
			s = &stdio{HijackedResponse: result.HijackedResponse}
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("connect: %w", err)
	}
	return s, nil
}

// Read reads what the process writes to its standard output.
func (s *stdio) Read(p []byte) (int, error) {
	for s.frame == 0 || s.kind != stdoutFrame {
		if s.frame > 0 {
			if err := s.listen(); err != nil {
				return 0, err
			}
			continue
		}
		var head [8]byte
		if err := s.full(head[:]); err != nil {
			return 0, err
		}
		if head[0] != stdoutFrame && head[0] != stderrFrame {
			return 0, errors.New("the engine's stream is not of frames")
		}
		s.kind, s.frame = head[0], int(binary.BigEndian.Uint32(head[4:]))
	}
	n, err := s.Reader.Read(p[:min(len(p), s.frame)])
	s.frame -= n
	return n, err
}

// full reads all of p.
func (s *stdio) full(p []byte) error {
	for read := 0; read < len(p); {
		n, err := s.Reader.Read(p[read:])
		if read += n; err != nil && read < len(p) {
			return err
		}
	}
	return nil
}

// listen takes in a piece of what came on standard error.
func (s *stdio) listen() error {
	piece := make([]byte, min(s.frame, 4<<10))
	n, err := s.Reader.Read(piece)
	s.frame -= n
	s.mu.Lock()
	defer s.mu.Unlock()
	if room := longestSaid - len(s.said); room > 0 {
		s.said = append(s.said, piece[:min(n, room)]...)
	}
	return err
}

// complaint returns what came on standard error, for an error's text.
func (s *stdio) complaint() string {
	if s == nil {
		return ""
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.TrimSpace(strings.ToValidUTF8(string(s.said), "?"))
}

// Write writes to the process's standard input.
func (s *stdio) Write(p []byte) (int, error) { return s.Conn.Write(p) }

// Close lets go of the streams.
func (s *stdio) Close() error {
	if s == nil {
		return nil
	}
	return s.Conn.Close()
}

// LocalAddr returns the address of the connection to the engine.
func (s *stdio) LocalAddr() net.Addr { return s.Conn.LocalAddr() }

// RemoteAddr returns the engine's address.
func (s *stdio) RemoteAddr() net.Addr { return s.Conn.RemoteAddr() }

// SetDeadline bounds reads and writes.
func (s *stdio) SetDeadline(t time.Time) error { return s.Conn.SetDeadline(t) }

// SetReadDeadline bounds reads.
func (s *stdio) SetReadDeadline(t time.Time) error { return s.Conn.SetReadDeadline(t) }

// SetWriteDeadline bounds writes.
func (s *stdio) SetWriteDeadline(t time.Time) error { return s.Conn.SetWriteDeadline(t) }
