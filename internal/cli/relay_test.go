package cli

import (
	"context"
	"errors"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/covehq/cove"
	"github.com/covehq/cove/client"
)

// recorder is a command that notes the signals it gets.
type recorder struct {
	got []string
	err error
}

func (r *recorder) Signal(_ context.Context, name string) error {
	r.got = append(r.got, name)
	return r.err
}

func TestRelay(t *testing.T) {
	const pause = syscall.Signal(0) // in these tables: graceTime passes
	tests := map[string]struct {
		before, during []syscall.Signal
		fails          bool
		told           []string
		ended          bool
		status         int
	}{
		"an interrupt before the command ends the program":    {before: []syscall.Signal{syscall.SIGINT}, ended: true, status: 130},
		"other signals before the command are nobody's":       {before: []syscall.Signal{syscall.SIGUSR1}},
		"an interrupt is the command's":                       {during: []syscall.Signal{syscall.SIGINT}, told: []string{"SIGINT"}, status: 130},
		"a command may survive its interrupt for long":        {during: []syscall.Signal{syscall.SIGINT, pause}, told: []string{"SIGINT"}, status: 130},
		"a second interrupt kills":                            {during: []syscall.Signal{syscall.SIGINT, syscall.SIGINT}, told: []string{"SIGINT"}, ended: true, status: 130},
		"a termination after an interrupt is its as well":     {during: []syscall.Signal{syscall.SIGINT, syscall.SIGTERM}, told: []string{"SIGINT", "SIGTERM"}, status: 143},
		"a termination is the command's":                      {during: []syscall.Signal{syscall.SIGTERM}, told: []string{"SIGTERM"}, status: 143},
		"a termination that is ignored kills":                 {during: []syscall.Signal{syscall.SIGTERM, pause}, told: []string{"SIGTERM"}, ended: true, status: 143},
		"so does a hang-up":                                   {during: []syscall.Signal{syscall.SIGHUP, pause}, told: []string{"SIGHUP"}, ended: true, status: 129},
		"signals that ask for nothing may come often":         {during: []syscall.Signal{syscall.SIGUSR1, syscall.SIGUSR2, syscall.SIGUSR1, pause}, told: []string{"SIGUSR1", "SIGUSR2", "SIGUSR1"}},
		"a command that can't be told is ended the other way": {during: []syscall.Signal{syscall.SIGTERM}, fails: true, told: []string{"SIGTERM"}, ended: true, status: 143},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithCancel(t.Context())
				r := &relay{Context: ctx, cancel: cancel}
				for _, s := range test.before {
					r.handle(s)
				}
				process := &recorder{}
				if test.fails {
					process.err = errors.New("gone")
				}
				detach := r.attach(process, func(context.Context) {})
				for _, s := range test.during {
					if s == pause {
						time.Sleep(graceTime + time.Second)
						synctest.Wait()
					} else {
						r.handle(s)
					}
				}
				detach()
				if diff := cmp.Diff(test.told, process.got); diff != "" {
					t.Errorf("told (-want +got):\n%s", diff)
				}
				if ended := ctx.Err() != nil; ended != test.ended {
					t.Errorf("ended = %v, want %v", ended, test.ended)
				}
				if got := r.status(); got != test.status {
					t.Errorf("status = %d, want %d", got, test.status)
				}
				r.stop()
			})
		})
	}
}

func TestRelayResizes(t *testing.T) {
	resized := 0
	r := &relay{Context: t.Context(), cancel: func() {}}
	r.attach(&recorder{}, func(context.Context) { resized++ })
	r.handle(syscall.SIGWINCH)
	if resized != 1 {
		t.Errorf("resized %d times, want once", resized)
	}
}

func TestStatusOfAnExit(t *testing.T) {
	tests := map[string]struct {
		exit cove.Exit
		want int
	}{
		"its code":               {cove.Exit{Code: 7}, 7},
		"success":                {cove.Exit{}, 0},
		"a signal":               {cove.Exit{Code: -1, Signal: "SIGTERM"}, 143},
		"a time-out, however":    {cove.Exit{Code: -1, Signal: "SIGKILL", TimedOut: true}, 124},
		"a code that can't be":   {cove.Exit{Code: 4000}, 1},
		"a signal with a number": {cove.Exit{Code: -1, Signal: "SIGSEGV"}, 139},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			if got := statusOf(test.exit); got != test.want {
				t.Errorf("got %d, want %d", got, test.want)
			}
		})
	}
}

func TestExecResultsAreBase64OnlyWhereTheyMustBe(t *testing.T) {
	text := execResult(&client.Result{Stdout: []byte("ä"), Stderr: []byte("b")})
	if text.Encoding != cove.EncodingUTF8 || text.Stdout != "ä" {
		t.Errorf("got %+v", text)
	}
	binary := execResult(&client.Result{Stdout: []byte{0xff}, Stderr: []byte("b")})
	if binary.Encoding != cove.EncodingBase64 || binary.Stdout != "/w==" || binary.Stderr != "Yg==" {
		t.Errorf("got %+v", binary)
	}
}

func TestLeaseEndsAtItsLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		if got := newLease(0).next(); got != cove.Duration(leaseTime) {
			t.Errorf("without a limit: %v, want %v", got, leaseTime)
		}
		l := newLease(cove.Duration(40 * time.Second))
		if got := l.next(); got != cove.Duration(leaseTime) {
			t.Errorf("at first: %v, want %v", got, leaseTime)
		}
		time.Sleep(35 * time.Second)
		if got := l.next(); got != cove.Duration(5*time.Second) {
			t.Errorf("near the limit: %v, want 5s", got)
		}
		time.Sleep(time.Minute)
		if got := l.next(); got <= 0 || got > cove.Duration(time.Second) {
			t.Errorf("beyond the limit: %v, want next to nothing", got)
		}
	})
}
