package process

import (
	"context"
	"net/http"
	"sync"
	"time"

	wire "github.com/covehq/cove/guest/wire/gen/process"
)

// The sizes of a message's data. A client that takes its time over one gets smaller ones,
// so that it is seen to make progress.
const (
	largeMessage = 256 << 10
	smallMessage = 4 << 10
	slowSend     = time.Second
)

// A busy process's output is sent in pieces of batch bytes, or after batchDelay. The first
// piece after a silence is sent at once.
const (
	batch      = 64 << 10
	batchDelay = time.Millisecond
)

// relay sends what a process does to one client.
type relay struct {
	process *Process
	reader  *Reader
	buffers *sync.Pool // of *[largeMessage]byte
	send    func(*wire.ProcessEvent) error
}

// run sends the start event, the output, and the end event. It returns early when ctx ends.
func (r *relay) run(ctx context.Context, header http.Header) error {
	if err := r.send(&wire.ProcessEvent{Event: &wire.ProcessEvent_Start{
		Start: &wire.ProcessEvent_StartEvent{Pid: uint32(r.process.PID)},
	}}); err != nil {
		return err
	}
	interval := keepaliveOf(header)
	timer := time.NewTimer(interval)
	defer timer.Stop()
	for {
		done, err := r.output(ctx)
		if err != nil {
			return err
		}
		if done {
			flushAtEnd(ctx)
			return r.end()
		}
		r.reader.Want(batch)
		timer.Reset(batchDelay)
		batching := true
	idle:
		for {
			select {
			case <-r.reader.Ready():
				break idle
			case <-ctx.Done():
				return ctx.Err()
			case <-timer.C:
				if !batching {
					if err := r.send(&wire.ProcessEvent{Event: &wire.ProcessEvent_Keepalive{Keepalive: &wire.ProcessEvent_KeepAlive{}}}); err != nil {
						return err
					}
				}
				batching = false
				r.reader.Want(1)
				timer.Reset(interval)
			}
		}
	}
}

// output sends what there is to send now.
func (r *relay) output(ctx context.Context) (done bool, err error) {
	buffer := r.buffers.Get().(*[largeMessage]byte)
	defer r.buffers.Put(buffer)
	message := newDataMessage(r.process.Command.Terminal != nil)
	for size := largeMessage; ; {
		chunk, done := r.reader.Take(buffer[:size])
		if len(chunk.Data) == 0 {
			return done, nil
		}
		if err := ctx.Err(); err != nil {
			return false, err
		}
		began := time.Now()
		if err := r.send(message.of(chunk)); err != nil {
			return false, err
		}
		if time.Since(began) > slowSend {
			size = max(size/4, smallMessage)
		} else {
			size = min(size*2, largeMessage)
		}
	}
}

// end sends the end event, unless there is more to come that the client did not ask for.
func (r *relay) end() error {
	end, ended := r.process.End()
	if !ended || !r.reader.whole {
		return nil
	}
	return r.send(&wire.ProcessEvent{Event: &wire.ProcessEvent_End{End: endEvent(end)}})
}

func endEvent(end End) *wire.ProcessEvent_EndEvent {
	event := &wire.ProcessEvent_EndEvent{
		ExitCode:   int32(end.Status.ExitStatus()),
		Exited:     end.Status.Exited(),
		Status:     end.Text(),
		TimedOut:   end.TimedOut,
		Signal:     uint32(end.Signal()),
		DurationUs: uint64(end.Duration.Microseconds()),
	}
	if end.Status.ExitStatus() != 0 {
		event.Error = &event.Status
	}
	return event
}

// dataMessage is a message that is used again for every piece of data.
type dataMessage struct {
	event  wire.ProcessEvent
	data   wire.ProcessEvent_DataEvent
	stdout wire.ProcessEvent_DataEvent_Stdout
	stderr wire.ProcessEvent_DataEvent_Stderr
	pty    wire.ProcessEvent_DataEvent_Pty

	terminal bool
}

func newDataMessage(terminal bool) *dataMessage {
	m := &dataMessage{terminal: terminal}
	m.event.Event = &wire.ProcessEvent_Data{Data: &m.data}
	return m
}

func (m *dataMessage) of(chunk Chunk) *wire.ProcessEvent {
	m.data.Offset = chunk.Offset
	switch {
	case m.terminal:
		m.pty.Pty = chunk.Data
		m.data.Output = &m.pty
	case chunk.Stream == stderr:
		m.stderr.Stderr = chunk.Data
		m.data.Output = &m.stderr
	default:
		m.stdout.Stdout = chunk.Data
		m.data.Output = &m.stdout
	}
	return &m.event
}
