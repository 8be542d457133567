// Package carrier provides many streams to a guest agent over one: for sandboxes that no
// socket and no descriptor reaches, so that all there is are the standard streams of a
// process inside.
//
// The one connection speaks HTTP/2, and each stream is a request to wire.TunnelPath: its
// body is one direction and its reply the other, in pieces with their length before them,
// since a reply can't be half-closed. The agent serves the stream as any other connection.
package carrier

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"os"
	"sync"
	"time"

	"github.com/covehq/cove"
	"github.com/covehq/cove/guest/pair"
	"github.com/covehq/cove/guest/wire"
)

const (
	// patience bounds the agent's answer to a new stream.
	patience = 10 * time.Second
	// pieces is how much is copied at once.
	pieces = 64 << 10
)

// Carrier is one connection to an agent that carries many. Its methods may be called
// concurrently.
type Carrier struct {
	transport *http.Transport
	client    *http.ClientConn
	conn      net.Conn
	ctx       context.Context // ends with Close
	stop      context.CancelFunc
	streams   sync.WaitGroup

	mu     sync.Mutex
	closed bool
}

// New takes over a connection to an agent that is not used for anything else. On error it
// is closed.
func New(ctx context.Context, conn net.Conn) (*Carrier, error) {
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	c := &Carrier{conn: conn}
	c.transport = &http.Transport{
		Protocols:              protocols,
		DialContext:            func(context.Context, string, string) (net.Conn, error) { return conn, nil },
		DisableCompression:     true,
		MaxResponseHeaderBytes: 16 << 10,
		HTTP2:                  &http.HTTP2Config{MaxReadFrameSize: 256 << 10, MaxReceiveBufferPerStream: 1 << 20},
	}
	var err error
	if c.client, err = c.transport.NewClientConn(ctx, "http", "guest:80"); err != nil {
		_ = conn.Close()
		return nil, fmt.Errorf("carrier: %w", err)
	}
	c.ctx, c.stop = context.WithCancel(context.Background())
	return c, nil
}

// Err returns why the carrier carries nothing any more, or nil.
func (c *Carrier) Err() error {
	if c.ctx.Err() != nil {
		return net.ErrClosed
	}
	return c.client.Err()
}

// Close ends the connection with all of its streams, and waits for that.
func (c *Carrier) Close() error {
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	c.stop()
	err := errors.Join(c.conn.Close(), ignoreClosed(c.client.Close()))
	c.streams.Wait()
	c.transport.CloseIdleConnections()
	return err
}

func ignoreClosed(err error) error {
	if errors.Is(err, net.ErrClosed) || errors.Is(err, os.ErrClosed) {
		return nil
	}
	return err
}

// StreamError is of one stream, and says nothing against its carrier.
type StreamError struct{ Err error }

// Error implements error.
func (s *StreamError) Error() string { return s.Err.Error() }

// Unwrap returns the cause.
func (s *StreamError) Unwrap() error { return s.Err }

// Dial opens a stream. What it returns is one end of a socket pair, so that deadlines and
// half-closing are those of a socket. An error says that the carrier is of no use any more,
// unless it is a StreamError, or ctx ended.
func (c *Carrier) Dial(ctx context.Context) (net.Conn, error) {
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return nil, cove.Gone
	}
	c.streams.Add(1)
	c.mu.Unlock()
	life, end := context.WithCancel(c.ctx)
	s, err := c.open(ctx, life)
	if err != nil {
		end()
		c.streams.Done()
		return nil, err
	}
	theirs, ours, err := pair.New()
	if err != nil {
		_ = s.reply.Close()
		end()
		c.streams.Done()
		return nil, &StreamError{err}
	}
	go func() {
		defer c.streams.Done()
		defer end()
		s.run(life, end, ours)
	}()
	return theirs, nil
}

// stream is one request.
type stream struct {
	request *io.PipeWriter // what goes to the agent
	wrote   chan struct{}  // closed when all of that is on its way
	reply   io.ReadCloser  // what comes from it
}

// open sends the request and waits for the head of its reply. The stream lives as long as
// life, and not with ctx.
func (c *Carrier) open(ctx, life context.Context) (*stream, error) {
	life, giveUp := context.WithCancelCause(life)
	timer := time.AfterFunc(patience, func() { giveUp(errors.New("the guest agent did not take a stream in time")) })
	defer timer.Stop()
	stop := context.AfterFunc(ctx, func() { giveUp(context.Cause(ctx)) })
	defer stop()
	body, request := io.Pipe()
	wrote := make(chan struct{})
	written := sync.OnceFunc(func() { close(wrote) })
	life = httptrace.WithClientTrace(life, &httptrace.ClientTrace{WroteRequest: func(httptrace.WroteRequestInfo) { written() }})
	r, err := http.NewRequestWithContext(life, http.MethodPost, "http://guest"+wire.TunnelPath, body)
	if err != nil {
		return nil, err
	}
	response, err := c.client.RoundTrip(r)
	if err == nil && response.StatusCode != http.StatusOK {
		_ = response.Body.Close()
		err = &StreamError{fmt.Errorf("the guest agent refuses a stream: %s", http.StatusText(response.StatusCode))}
	}
	if err == nil && (!stop() || !timer.Stop()) { // given up at the last moment
		_ = response.Body.Close()
		err = context.DeadlineExceeded
	}
	if err != nil {
		giveUp(err)
		_ = body.CloseWithError(err)
		return nil, fmt.Errorf("carrier: %w", context.Cause(life))
	}
	return &stream{request: request, wrote: wrote, reply: response.Body}, nil
}

// run copies both ways between the agent and the caller's socket, and returns when both
// have ended, or either has broken.
func (s *stream) run(life context.Context, end context.CancelFunc, socket *net.UnixConn) {
	defer socket.Close()
	stop := context.AfterFunc(life, func() { _ = socket.Close() })
	defer stop()
	var out sync.WaitGroup
	out.Go(func() {
		if _, err := io.CopyBuffer(s.request, onlyReader{socket}, make([]byte, pieces)); err != nil {
			end()
			_ = s.request.CloseWithError(net.ErrClosed)
			return
		}
		_ = s.request.Close()
		s.awaitHangUp(life, socket)
		end()
	})
	_ = s.receive(socket) // until the agent hangs up, or the caller
	end()
	_ = socket.Close()
	_ = s.reply.Close()
	out.Wait()
}

// awaitHangUp returns when the caller, who has said all, has closed its socket whole, and
// that is on its way to the agent.
func (s *stream) awaitHangUp(life context.Context, socket *net.UnixConn) {
	if !pair.AwaitHangUp(socket) {
		return
	}
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-s.wrote:
	case <-timer.C: // the agent does not take it
	case <-life.Done():
	}
}

// receive copies the pieces of the reply to the caller's socket: each has its length in
// four bytes before it, and one of no bytes says that no more will come, while the agent
// still listens. The end of the reply is the end of the stream.
func (s *stream) receive(socket *net.UnixConn) error {
	buffer, head := make([]byte, pieces), make([]byte, 4)
	for {
		if _, err := io.ReadFull(s.reply, head); err != nil {
			return err
		}
		size := int64(binary.BigEndian.Uint32(head))
		if size == 0 {
			if err := socket.CloseWrite(); err != nil {
				return err
			}
			continue
		}
		if _, err := io.CopyBuffer(onlyWriter{socket}, io.LimitReader(s.reply, size), buffer); err != nil {
			return err
		}
	}
}

// onlyReader and onlyWriter hide the ways past the buffer that a socket has, which make a
// copy of their own.
type (
	onlyReader struct{ io.Reader }
	onlyWriter struct{ io.Writer }
)
