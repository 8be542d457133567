package sandbox

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"strconv"
	"time"

	"github.com/covehq/cove"
	"github.com/covehq/cove/guest/dial"
)

// A port that somebody waits for is looked for after the first of these, and then ever
// more rarely up to the last: a program takes from milliseconds to minutes to listen.
const (
	firstWait = 20 * time.Millisecond
	lastWait  = 500 * time.Millisecond
)

// Ports returns the TCP ports inside on which something listens, by their numbers, as the
// guest tells it.
func (s *Sandbox) Ports(ctx context.Context) ([]cove.ListeningPort, error) {
	return s.listPorts(ctx, "list ports", "")
}

func (s *Sandbox) listPorts(ctx context.Context, op, subject string) (ports []cove.ListeningPort, err error) {
	err = s.call(ctx, op, subject, func(ctx context.Context, client *dial.Client) (err error) {
		ports, err = client.ListeningPorts(ctx)
		return err
	})
	sortPorts(ports)
	return ports, err
}

func sortPorts(ports []cove.ListeningPort) {
	slices.SortStableFunc(ports, func(a, b cove.ListeningPort) int { return cmp.Compare(a.Port, b.Port) })
}

// WaitPort returns what listens inside once something does on that port. When ctx expires
// before that, the error is cove.Timeout. Waiting is a use of the sandbox.
func (s *Sandbox) WaitPort(ctx context.Context, port int) ([]cove.ListeningPort, error) {
	const op = "wait for port"
	subject := strconv.Itoa(port)
	if port < 1 || port > 65535 {
		return nil, cove.Errorf(cove.Invalid, op, subject, "there is no such port", "choose one from 1 to 65535")
	}
	waiting, err := s.use(ctx, op, subject)
	if err != nil {
		return nil, err
	}
	defer waiting.close()
	for pause := firstWait; ; pause = min(pause*3/2, lastWait) {
		ports, err := s.listPorts(waiting.ctx, op, subject)
		if err == nil && slices.ContainsFunc(ports, func(p cove.ListeningPort) bool { return p.Port == port }) {
			return ports, nil
		}
		if err == nil {
			select {
			case <-waiting.ctx.Done():
				err = waiting.fail(context.Cause(waiting.ctx))
			case <-time.After(pause):
				continue
			}
		}
		if errors.Is(ctx.Err(), context.DeadlineExceeded) {
			err = cove.Errorf(cove.Timeout, op, subject, "nothing listened there in time", "look at the output of the program that should, or wait longer")
		}
		return nil, err
	}
}
