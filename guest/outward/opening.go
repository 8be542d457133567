package outward

import (
	"net"
	"slices"
	"sync"

	"github.com/covehq/cove/guest/pair"
	"github.com/covehq/cove/guest/wire"
)

// maxSaid bounds what a program says that is kept until the host has answered: a request, or
// the first message of TLS.
const maxSaid = 16 << 10

// opening is a connection of a program's for which the host is asked. What the program says
// first follows the request without waiting for the answer.
type opening struct {
	program *net.TCPConn
	request []byte             // a frame
	made    chan *net.UnixConn // the stream that has become the connection; closed at the end

	mu     sync.Mutex
	stream *net.UnixConn // on which the request was sent last
	said   []byte        // by the program, and sent wherever the request was
}

func newOpening(program *net.TCPConn, request wire.EgressRequest) (*opening, error) {
	frame, err := wire.AppendFrame(nil, request)
	return &opening{program: program, request: frame, made: make(chan *net.UnixConn, 1)}, err
}

// ask sends the request on a stream.
func (o *opening) ask(stream *net.UnixConn) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.stream = stream
	_, err := stream.Write(append(slices.Clip(o.request), o.said...))
	return err
}

// say sends what the program said. That a stream is dead is found where the answer is
// awaited, and the next gets it with the request.
func (o *opening) say(said []byte) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.said = said
	_, _ = o.stream.Write(said)
}

// silent says that the program has said nothing so far.
func (o *opening) silent() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.said) == 0
}

// up passes on what the program says: its first words at once, the rest when there is a
// connection, and its end. A failure resets the program's connection.
func (w *Way) up(o *opening) {
	var said []byte
	var err error
	if o.silent() {
		if said, err = w.buffers.Next(o.program, maxSaid); len(said) > 0 {
			o.say(said)
		}
	}
	stream := <-o.made
	if stream == nil {
		return
	}
	if err == nil {
		err = w.buffers.Copy(stream, o.program) // to whose end it has come already if it said nothing
	}
	switch {
	case err == nil:
		_ = stream.CloseWrite()
	case pair.HungUp(stream): // the host wants no more; what it has said is still to arrive
		_ = o.program.CloseRead()
	default:
		_ = stream.Close()
		reset(o.program)
	}
}
