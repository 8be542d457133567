package carrier_test

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/covehq/cove"
	"github.com/covehq/cove/guest"
	"github.com/covehq/cove/guest/dial"
	"github.com/covehq/cove/guest/dial/carrier"
)

// served is an agent in this process, and what connects to it.
type served struct {
	agent   *guest.Agent
	opened  atomic.Int32
	forgot  atomic.Int32
	mu      sync.Mutex
	current net.Conn // the agent's end of the last connection
}

func serve(t *testing.T) *served {
	t.Helper()
	s := &served{agent: guest.New(guest.Options{})}
	done := make(chan error, 1)
	go func() { done <- s.agent.Serve() }()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := errors.Join(s.agent.Close(ctx), <-done); err != nil {
			t.Error(err)
		}
	})
	return s
}

func (s *served) open(context.Context) (*carrier.Stream, error) {
	s.opened.Add(1)
	ours, theirs := net.Pipe()
	s.mu.Lock()
	s.current = theirs
	s.mu.Unlock()
	s.agent.ServeConn(theirs)
	return &carrier.Stream{Conn: ours, Forget: func() { s.forgot.Add(1) }}, nil
}

// hangUp breaks the last connection.
func (s *served) hangUp() {
	s.mu.Lock()
	defer s.mu.Unlock()
	_ = s.current.Close()
}

func TestALineIsRenewedWhenItBroke(t *testing.T) {
	s := serve(t)
	first, err := s.open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	line := carrier.NewLine(first, s.open)
	client := dial.New(line.Dial)
	defer client.Close()
	for range 3 {
		if err := client.Health(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if opened, forgot := s.opened.Load(), s.forgot.Load(); opened != 1 || forgot != 0 {
		t.Errorf("opened %d and forgot %d connections, want 1 and 0", opened, forgot)
	}
	s.hangUp()
	if conn, err := line.Dial(t.Context()); err != nil {
		t.Error(err)
	} else {
		conn.Close()
	}
	if opened, forgot := s.opened.Load(), s.forgot.Load(); opened != 2 || forgot != 1 {
		t.Errorf("after a break: opened %d and forgot %d connections, want 2 and 1", opened, forgot)
	}
	line.Close()
	line.Close()
	if _, err := line.Dial(t.Context()); !errors.Is(err, cove.Gone) {
		t.Errorf("after the end: got %v, want gone", err)
	}
	if forgot := s.forgot.Load(); forgot != 1 {
		t.Errorf("after the end: forgot %d, want 1, of the break", forgot)
	}
}

// TestALineThatBreaksHammer has many callers while connections break. A stream may break
// with its connection; nobody may be told that the sandbox is gone, or wait for ever.
func TestALineThatBreaksHammer(t *testing.T) {
	s := serve(t)
	line := carrier.NewLine(nil, s.open)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	var callers sync.WaitGroup
	for i := range 8 {
		callers.Go(func() {
			for j := range 20 {
				conn, err := line.Dial(ctx)
				if err == nil {
					conn.Close()
				}
				if errors.Is(err, cove.Gone) || ctx.Err() != nil {
					t.Errorf("got %v", err)
				}
				if i == 0 && j%5 == 0 {
					s.hangUp()
				}
			}
		})
	}
	callers.Wait()
	if conn, err := line.Dial(ctx); err != nil {
		t.Errorf("at last: %v", err)
	} else {
		conn.Close()
	}
	line.Close()
}

func TestAnEngineThatIsSilentHoldsNobodyPastItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		line := carrier.NewLine(nil, func(ctx context.Context) (*carrier.Stream, error) {
			<-ctx.Done() // answers nothing
			return nil, ctx.Err()
		})
		first := make(chan error, 1)
		go func() {
			_, err := line.Dial(t.Context())
			first <- err
		}()
		synctest.Wait() // it has the turn
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		began := time.Now()
		if _, err := line.Dial(ctx); !errors.Is(err, context.DeadlineExceeded) || time.Since(began) != time.Second {
			t.Errorf("got %v after %v, want the end of the context after 1s", err, time.Since(began))
		}
		waiting := make(chan error, 1)
		go func() {
			_, err := line.Dial(t.Context())
			waiting <- err
		}()
		synctest.Wait()
		line.Close()
		for _, caller := range []chan error{first, waiting} {
			if err := <-caller; !errors.Is(err, cove.Gone) {
				t.Errorf("got %v, want gone after the end", err)
			}
		}
	})
}

func TestAnEngineThatIsNotThereIsAskedOnceForAllWhoWait(t *testing.T) {
	for name, test := range map[string]struct {
		err  error
		want int32
	}{
		"an engine that does not answer":   {cove.Errorf(cove.Unavailable, "connect", "", "no answer", ""), 1},
		"an error of one attempt's, alone": {errors.New("no such process"), 10},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var asked atomic.Int32
				line := carrier.NewLine(nil, func(context.Context) (*carrier.Stream, error) {
					asked.Add(1)
					time.Sleep(20 * time.Second)
					return nil, test.err
				})
				defer line.Close()
				var callers sync.WaitGroup
				for range 10 {
					callers.Go(func() {
						if _, err := line.Dial(t.Context()); !errors.Is(err, test.err) {
							t.Errorf("got %v, want %v", err, test.err)
						}
					})
				}
				callers.Wait()
				if got := asked.Load(); got != test.want {
					t.Errorf("asked %d times, want %d", got, test.want)
				}
				time.Sleep(time.Second)
				_, _ = line.Dial(t.Context())
				if got := asked.Load(); got != test.want+1 {
					t.Errorf("a caller who came later: asked %d times, want %d", got, test.want+1)
				}
			})
		})
	}
}

func TestARefusedStreamLeavesTheOthers(t *testing.T) {
	refuse := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "no more descriptors", http.StatusServiceUnavailable)
	}))
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	refuse.Config.Protocols = protocols
	refuse.Start()
	defer refuse.Close()
	opened := 0
	line := carrier.NewLine(nil, func(ctx context.Context) (*carrier.Stream, error) {
		opened++
		var dialer net.Dialer
		conn, err := dialer.DialContext(ctx, "tcp", refuse.Listener.Addr().String())
		return &carrier.Stream{Conn: conn}, err
	})
	defer line.Close()
	for range 3 {
		var one *carrier.StreamError
		if _, err := line.Dial(t.Context()); !errors.As(err, &one) {
			t.Errorf("got %v, want an error of the stream alone", err)
		}
	}
	if opened != 1 {
		t.Errorf("opened %d connections, want 1", opened)
	}
}

func TestWhatBrokeAtOnceSaysWhy(t *testing.T) {
	forgot := 0
	line := carrier.NewLine(nil, func(context.Context) (*carrier.Stream, error) {
		ours, theirs := net.Pipe()
		theirs.Close()
		return &carrier.Stream{Conn: ours, Forget: func() { forgot++ }, Said: func() string { return "connect: no such file" }}, nil
	})
	defer line.Close()
	_, err := line.Dial(t.Context())
	if err == nil || !strings.Contains(err.Error(), "the guest agent was not reached") || !strings.HasSuffix(err.Error(), ": connect: no such file") {
		t.Errorf("got %v, want what was said at the other end", err)
	}
	if forgot == 0 {
		t.Error("it was not forgotten")
	}
}

func TestALineThatWasNeverUsedClosesItsFirstConnection(t *testing.T) {
	ours, theirs := net.Pipe()
	line := carrier.NewLine(&carrier.Stream{Conn: ours}, nil)
	line.Close()
	if _, err := theirs.Write([]byte("x")); err == nil {
		t.Error("the connection is still open")
	}
}
