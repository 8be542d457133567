package conformance

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"

	"github.com/covehq/cove/guest/wire"
)

// outside stands for the daemon: it answers what a sandbox asks, and every connection sends
// back what it gets, in capitals.
type outside struct {
	cancel   context.CancelFunc
	answer   func(wire.EgressRequest) string
	requests *requests
	streams  sync.WaitGroup
}

// serveEgress opens the way out of a sandbox and serves it.
func serveEgress(ctx context.Context, x *box, answer func(wire.EgressRequest) string) (*outside, error) {
	const spares = 4
	ctx, cancel := context.WithCancel(ctx)
	o := &outside{cancel: cancel, answer: answer, requests: new(requests)}
	if err := x.guest.SetNetwork(ctx, wire.NetworkSetup{Enabled: true, Ports: []int{80, 443, 444, 8443}}); err != nil {
		cancel()
		return nil, fmt.Errorf("open the way out: %w", err)
	}
	for range spares {
		o.spare(ctx, x)
	}
	return o, nil
}

// spare opens one stream and serves it, in the background. One that becomes a connection is
// followed by another.
func (o *outside) spare(ctx context.Context, x *box) {
	o.streams.Go(func() {
		stream, err := x.guest.DialEgress(ctx)
		if err != nil {
			return // the check sees that nobody answers
		}
		defer stream.Close()
		stop := context.AfterFunc(ctx, func() { _ = stream.Close() })
		defer stop()
		for {
			var request wire.EgressRequest
			if wire.ReadFrame(stream, &request) != nil {
				return
			}
			early := request.Early // which is the agent's to choose
			request.Early = false
			o.requests.add(request)
			code := o.answer(request)
			if wire.WriteFrame(stream, wire.EgressReply{Code: code}) != nil {
				return
			}
			if request.Kind == wire.EgressConnect && code == wire.EgressOK {
				o.spare(ctx, x)
				shout(stream)
				return
			}
			if early { // what follows is no request
				o.spare(ctx, x)
				return
			}
		}
	})
}

// shout sends back what it gets in capitals, to the end, and then ends its own direction.
func shout(stream net.Conn) {
	buffer := make([]byte, 32<<10)
	for {
		n, err := stream.Read(buffer)
		if _, failed := stream.Write([]byte(strings.ToUpper(string(buffer[:n])))); failed != nil || err != nil && !errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			break
		}
	}
	if half, ok := stream.(interface{ CloseWrite() error }); ok {
		_ = half.CloseWrite()
	}
}

// close ends all streams, and waits for that.
func (o *outside) close() {
	o.cancel()
	o.streams.Wait()
}

// got is the error of requests that are not these, in this order. One that came more than
// once counts once: resolvers ask again.
func (o *outside) got(want ...wire.EgressRequest) error {
	if got := slices.Compact(o.requests.all()); !slices.Equal(got, want) {
		return fmt.Errorf("requests at the host: got %+v, want %+v", got, want)
	}
	return nil
}

// connected is the error of a connection that the host was not asked for.
func (o *outside) connected(want wire.EgressRequest) error {
	if got := o.requests.all(); !slices.Contains(got, want) {
		return fmt.Errorf("requests at the host: got %+v, want %+v among them", got, want)
	}
	return nil
}

// requests are what the host was asked for.
type requests struct {
	mu   sync.Mutex
	list []wire.EgressRequest
}

func (r *requests) add(request wire.EgressRequest) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.list = append(r.list, request)
}

func (r *requests) all() []wire.EgressRequest {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]wire.EgressRequest(nil), r.list...)
}
