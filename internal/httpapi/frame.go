package httpapi

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/covehq/cove"
)

// Kind says what a frame carries.
type Kind byte

// The kinds of frames. The list is append-only; a reader skips a kind that it does not
// know.
const (
	FrameKeepAlive Kind = 0  // nothing
	FrameStdout    Kind = 1  // bytes
	FrameStderr    Kind = 2  // bytes
	FramePTY       Kind = 3  // bytes
	FrameStart     Kind = 16 // cove.Output with its PID, as JSON
	FrameExit      Kind = 17 // cove.Output with its Exit, as JSON
	FrameError     Kind = 18 // ErrorBody, as JSON; the last frame
)

// frameHeader is the length of what precedes a payload: kind, offset, length.
const frameHeader = 1 + 8 + 4

// AppendFrame appends a frame to b: 1 byte kind, 8 bytes offset, 4 bytes length, both
// big-endian, then the payload.
func AppendFrame(b []byte, kind Kind, offset uint64, payload []byte) []byte {
	b = append(b, byte(kind))
	b = binary.BigEndian.AppendUint64(b, offset)
	b = binary.BigEndian.AppendUint32(b, uint32(len(payload)))
	return append(b, payload...)
}

// AppendOutput appends the frame of an output to b.
func AppendOutput(b []byte, o *cove.Output) []byte {
	if len(o.Data) > 0 {
		return AppendFrame(b, streamKind(o.Stream), o.Offset, o.Data)
	}
	kind := FrameStart
	if o.Exit != nil {
		kind = FrameExit
	}
	payload, err := json.Marshal(o)
	if err != nil { // an Output is plain data, so that only a NaN in DurationMS gets here
		return AppendError(b, Describe(err))
	}
	return AppendFrame(b, kind, o.Offset, payload)
}

// AppendError appends the frame of an error to b.
func AppendError(b []byte, body ErrorBody) []byte {
	payload, err := json.Marshal(body)
	if err != nil {
		payload = []byte(`{"code":"internal","message":"internal error"}`)
	}
	return AppendFrame(b, FrameError, 0, payload)
}

func streamKind(s cove.Stream) Kind {
	switch s {
	case cove.Stderr:
		return FrameStderr
	case cove.PTY:
		return FramePTY
	}
	return FrameStdout
}

// FrameReader reads frames as outputs.
type FrameReader struct {
	r      io.Reader
	header [frameHeader]byte
	buf    []byte
}

// NewFrameReader returns a reader of the frames in r. It issues small reads: r should be
// buffered.
func NewFrameReader(r io.Reader) *FrameReader { return &FrameReader{r: r} }

// Next returns the next output, whose Data is valid until the next call. It returns
// io.EOF when the stream ends between two frames, and the server's error as a
// *cove.Error when it sent one.
func (f *FrameReader) Next() (cove.Output, error) {
	for {
		if _, err := io.ReadFull(f.r, f.header[:]); err != nil {
			return cove.Output{}, err
		}
		kind := Kind(f.header[0])
		offset := binary.BigEndian.Uint64(f.header[1:])
		length := binary.BigEndian.Uint32(f.header[9:])
		if length > MaxFrame {
			return cove.Output{}, fmt.Errorf("frame of %d bytes exceeds %d", length, MaxFrame)
		}
		payload, err := f.payload(int(length))
		if err != nil {
			return cove.Output{}, err
		}
		output, known, err := decodeFrame(kind, offset, payload)
		if known || err != nil {
			return output, err
		}
	}
}

func (f *FrameReader) payload(length int) ([]byte, error) {
	if cap(f.buf) < length {
		f.buf = make([]byte, max(length, 64<<10))
	}
	payload := f.buf[:length]
	if _, err := io.ReadFull(f.r, payload); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return nil, err
	}
	return payload, nil
}

func decodeFrame(kind Kind, offset uint64, payload []byte) (output cove.Output, known bool, err error) {
	switch kind {
	case FrameStdout:
		return cove.Output{Stream: cove.Stdout, Offset: offset, Data: payload}, true, nil
	case FrameStderr:
		return cove.Output{Stream: cove.Stderr, Offset: offset, Data: payload}, true, nil
	case FramePTY:
		return cove.Output{Stream: cove.PTY, Offset: offset, Data: payload}, true, nil
	case FrameStart, FrameExit:
		err = json.Unmarshal(payload, &output)
		return output, true, err
	case FrameError:
		var body ErrorBody
		if err := json.Unmarshal(payload, &body); err != nil {
			return output, true, err
		}
		return output, true, body.Err()
	}
	return output, false, nil
}
