package sandbox

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/covehq/cove"
	"github.com/covehq/cove/guest/dial"
)

const (
	// healthTimeout is what a guest may take to show that it is alive.
	healthTimeout = time.Second
	// endNoticed is within how much time of a sandbox's end its driver reports it, by
	// the contract of driver.Machine, and some more.
	endNoticed = 3 * time.Second
)

// use is one use of a running sandbox. While it lasts the sandbox is not idle. Its
// context ends with the caller's, with the sandbox and with the host.
type use struct {
	sandbox *Sandbox
	client  *dial.Client
	op      string // for errors
	subject string
	ctx     context.Context
	cancel  context.CancelCauseFunc
	detach  func() bool // from the sandbox's life
	once    sync.Once
}

// errDone is the cause of a use's context when the use is over.
var errDone = errors.New("closed by the caller")

// use begins a use of the sandbox, for the caller to close. The op and the subject, or
// the id where that is empty, name it in errors.
func (s *Sandbox) use(ctx context.Context, op, subject string) (*use, error) {
	if subject == "" {
		subject = s.id
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := alive(s.record, op); err != nil {
		return nil, err
	}
	if s.record.State != cove.StateRunning {
		return nil, cove.Errorf(cove.Conflict, op, s.id, "the sandbox is "+string(s.record.State), "resume it first")
	}
	if s.client == nil {
		return nil, &cove.Error{
			Code: cove.Unavailable, Op: op, ID: s.id,
			Err:  errors.Join(errors.New("the sandbox was not found again after the daemon's restart"), s.absence),
			Hint: "wait until its runtime answers again, or remove the sandbox",
		}
	}
	u := &use{sandbox: s, client: s.client, op: op, subject: subject}
	u.ctx, u.cancel = context.WithCancelCause(ctx)
	u.detach = context.AfterFunc(s.life, func() { u.cancel(context.Cause(s.life)) })
	s.uses++
	s.lastUse = time.Now()
	return u, nil
}

// close ends the use and what runs under its context. A second call does nothing.
func (u *use) close() { u.once.Do(u.end) }

func (u *use) end() {
	u.detach()
	u.cancel(errDone)
	s := u.sandbox
	s.mu.Lock()
	defer s.mu.Unlock()
	s.uses--
	s.lastUse = time.Now()
}

// fail turns what went wrong during the use into the error for the caller: the end of the
// sandbox or of the context where that is behind it. It returns nil for nil.
func (u *use) fail(err error) error {
	if err == nil {
		return nil
	}
	if cause := context.Cause(u.sandbox.life); cause != nil {
		return cove.Wrap(cause, u.op, u.subject)
	}
	if cause := context.Cause(u.ctx); cause != nil {
		return cove.Wrap(cause, u.op, u.subject)
	}
	if errors.Is(err, cove.Unavailable) && !u.answers() {
		// A stream that breaks is often the first sign of a sandbox's end. The driver
		// knows the reason soon.
		select {
		case <-u.ctx.Done():
			return cove.Wrap(context.Cause(u.ctx), u.op, u.subject)
		case <-time.After(endNoticed):
		}
	}
	return u.sandbox.host.wrap(err, u.op, u.subject)
}

// answers reports whether the guest is alive.
func (u *use) answers() bool {
	ctx, cancel := context.WithTimeout(u.ctx, healthTimeout)
	defer cancel()
	return u.client.Health(ctx) == nil
}

// wrap gives an error of a driver, the store or a guest its operation, and logs it whole
// where nobody expected it.
func (h *Host) wrap(err error, op, id string) error {
	if err == nil {
		return nil
	}
	wrapped := cove.Wrap(err, op, id)
	if cove.CodeOf(wrapped) == cove.Internal && !errors.Is(err, context.Canceled) {
		h.log.Error("unexpected error", "op", op, "id", id, "err", err)
	}
	return wrapped
}

// call runs one exchange with the guest as a use of the sandbox.
func (s *Sandbox) call(ctx context.Context, op, subject string, exchange func(context.Context, *dial.Client) error) error {
	u, err := s.use(ctx, op, subject)
	if err != nil {
		return err
	}
	defer u.close()
	return u.fail(exchange(u.ctx, u.client))
}
