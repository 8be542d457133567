package agent

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"
)

// readyTimeout bounds the time from the runtime's "it runs" to the agent's first answer.
const readyTimeout = 30 * time.Second

// ErrGone is what Ready returns when the sandbox ended before its agent answered.
var ErrGone = errors.New("the sandbox ended at its start")

// Ready returns when the agent that dial leads to answers. A closed gone means that the
// sandbox ended.
func Ready(ctx context.Context, dial func(context.Context) (net.Conn, error), gone <-chan struct{}) error {
	ctx, cancel := context.WithTimeoutCause(ctx, readyTimeout, errors.New("the guest agent did not answer in time"))
	defer cancel()
	conn, err := dial(ctx)
	if err != nil {
		return ended(fmt.Errorf("guest agent: %w", err), gone)
	}
	defer conn.Close()
	answered := make(chan error, 1)
	go func() { // ends with conn
		answered <- health(conn)
	}()
	select {
	case err := <-answered:
		if err != nil {
			return ended(fmt.Errorf("guest agent: %w", err), gone)
		}
		return nil
	case <-gone:
		return ErrGone
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// endPatience is how much later than the hang-up the end of a sandbox is seen, on a busy
// machine.
const endPatience = 2 * time.Second

// ended returns ErrGone in place of err where the sandbox has ended: that is what a hang-up
// means, most of the time, and the end is seen a moment later.
func ended(err error, gone <-chan struct{}) error {
	select {
	case <-gone:
		return ErrGone
	case <-time.After(endPatience):
		return err
	}
}

// longestReply bounds the agent's sign of life.
const longestReply = 16 << 10

// health asks the agent for a sign of life.
func health(conn io.ReadWriter) error {
	if _, err := conn.Write([]byte("GET /health HTTP/1.1\r\nHost: guest\r\nConnection: close\r\n\r\n")); err != nil {
		return err
	}
	reply := &io.LimitedReader{R: conn, N: longestReply}
	response, err := http.ReadResponse(bufio.NewReaderSize(reply, 1<<10), nil)
	switch {
	case err != nil && reply.N == 0:
		return errors.New("the reply is too long")
	case err != nil:
		return err
	}
	response.Body.Close()
	if response.StatusCode/100 != 2 {
		return fmt.Errorf("health is %s", response.Status)
	}
	return nil
}
