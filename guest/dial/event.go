package dial

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/covehq/cove"
	"github.com/covehq/cove/guest/wire/gen/process"
)

// event is one message of a process's stream, a StartResponse or a ConnectResponse. It is
// decoded by hand into a buffer that is used again, since protobuf would allocate every
// byte that a process writes.
type event struct {
	pid    int // of a start event, else 0
	stream cove.Stream
	offset uint64
	data   *[]byte
	end    *process.ProcessEvent_EndEvent

	buffers *sync.Pool // where data is from
}

// release gives the event's buffer back.
func (e *event) release() {
	if e.data != nil {
		e.buffers.Put(e.data)
		e.data = nil
	}
}

// eventCodec is Connect's binary codec for calls that answer in events.
type eventCodec struct {
	buffers *sync.Pool // of *[]byte, for the data of events
}

func newEventCodec() eventCodec {
	return eventCodec{&sync.Pool{New: func() any { return new([]byte) }}}
}

// Name returns the codec's name in the Content-Type header.
func (eventCodec) Name() string { return "proto" }

// Marshal encodes a request.
func (eventCodec) Marshal(message any) ([]byte, error) {
	request, ok := message.(proto.Message)
	if !ok {
		return nil, fmt.Errorf("%T is not a protobuf message", message)
	}
	return proto.Marshal(request)
}

// Unmarshal decodes an event. It keeps nothing of data.
func (c eventCodec) Unmarshal(data []byte, message any) error {
	e, ok := message.(*event)
	if !ok {
		return fmt.Errorf("%T is not an event", message)
	}
	e.buffers = c.buffers
	return eachField(data, func(number protowire.Number, _ uint64, value []byte) error {
		if number != 1 { // StartResponse.event, ConnectResponse.event
			return nil
		}
		return eachField(value, e.decode)
	})
}

// decode reads one field of a ProcessEvent.
func (e *event) decode(number protowire.Number, _ uint64, value []byte) error {
	switch number {
	case 1: // start
		return eachField(value, func(number protowire.Number, n uint64, _ []byte) error {
			if number == 1 {
				e.pid = int(uint32(n))
			}
			return nil
		})
	case 2: // data
		return eachField(value, e.decodeData)
	case 3: // end
		e.end = new(process.ProcessEvent_EndEvent)
		return proto.Unmarshal(value, e.end)
	}
	return nil
}

// decodeData reads one field of a ProcessEvent.DataEvent.
func (e *event) decodeData(number protowire.Number, n uint64, value []byte) error {
	switch number {
	case 1:
		e.stream = cove.Stdout
	case 2:
		e.stream = cove.Stderr
	case 3:
		e.stream = cove.PTY
	case 100:
		e.offset = n
		return nil
	default:
		return nil
	}
	e.release()
	e.data = e.buffers.Get().(*[]byte)
	*e.data = append((*e.data)[:0], value...)
	return nil
}

// eachField calls f with every field of a message: its number and its value, a number or
// bytes. Fields of other types are skipped, as a newer agent may send them.
func eachField(data []byte, f func(protowire.Number, uint64, []byte) error) error {
	for len(data) > 0 {
		number, kind, n := protowire.ConsumeTag(data)
		if n < 0 {
			return protowire.ParseError(n)
		}
		data = data[n:]
		var value []byte
		var integer uint64
		switch kind {
		case protowire.VarintType:
			integer, n = protowire.ConsumeVarint(data)
		case protowire.BytesType:
			value, n = protowire.ConsumeBytes(data)
		default:
			if n = protowire.ConsumeFieldValue(number, kind, data); n >= 0 {
				data = data[n:]
				continue
			}
		}
		if n < 0 {
			return protowire.ParseError(n)
		}
		data = data[n:]
		if err := f(number, integer, value); err != nil {
			return err
		}
	}
	return nil
}

// exitOf converts the end of a process.
func exitOf(end *process.ProcessEvent_EndEvent) *cove.Exit {
	exit := &cove.Exit{
		Code:       int(end.ExitCode),
		TimedOut:   end.TimedOut,
		DurationMS: float64(end.DurationUs) / 1000,
	}
	if end.Signal != 0 {
		exit.Signal = signalName(syscall.Signal(end.Signal))
	}
	if end.Error != nil && !end.Exited && end.Signal == 0 {
		exit.Error = printable(*end.Error)
	}
	return exit
}

// signalName returns "SIGKILL" for 9, and "SIG35" for one without a name.
func signalName(signal syscall.Signal) string {
	if name := unix.SignalName(signal); name != "" {
		return name
	}
	return fmt.Sprintf("SIG%d", int(signal))
}

// errNoStart is a stream that does not begin with the start event.
var errNoStart = errors.New("the guest agent's stream has no beginning")

// commandLine shows a vector in an error.
func commandLine(argv []string) string {
	line := strings.Join(argv, " ")
	if len(line) > 80 {
		line = line[:80] + "…"
	}
	return printable(line)
}
