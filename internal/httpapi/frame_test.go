package httpapi

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"reflect"
	"strings"
	"testing"

	"github.com/covehq/cove"
)

func TestFramesSurviveTheWire(t *testing.T) {
	outputs := []cove.Output{
		{PID: 7},
		{Stream: cove.Stdout, Offset: 0, Data: []byte("hello")},
		{Stream: cove.Stderr, Offset: 1 << 40, Data: bytes.Repeat([]byte{0xff}, 100_000)},
		{Stream: cove.PTY, Offset: 3, Data: []byte{0}},
		{PID: 7, Exit: &cove.Exit{Code: -1, Signal: "SIGKILL", TimedOut: true, DurationMS: 1.5}},
	}
	var wire []byte
	for i := range outputs {
		wire = AppendFrame(wire, FrameKeepAlive, 0, nil)
		wire = AppendOutput(wire, &outputs[i])
		wire = AppendFrame(wire, 200, 9, []byte("a kind of tomorrow"))
	}
	frames := NewFrameReader(bytes.NewReader(wire))
	for i, want := range outputs {
		got, err := frames.Next()
		if err != nil {
			t.Fatalf("frame %d: %v", i, err)
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("frame %d is %+v, want %+v", i, got, want)
		}
	}
	if _, err := frames.Next(); err != io.EOF {
		t.Errorf("after the last frame: %v, want io.EOF", err)
	}
}

func TestFrameHeader(t *testing.T) {
	got := AppendFrame(nil, FrameStderr, 0x0102030405060708, []byte("ab"))
	want := "\x02\x01\x02\x03\x04\x05\x06\x07\x08\x00\x00\x00\x02ab"
	if string(got) != want {
		t.Errorf("a frame is %q, want %q", got, want)
	}
}

func TestErrorFrame(t *testing.T) {
	wire := AppendError(nil, Describe(&cove.Error{Code: cove.Gone, Op: "exec", Err: errors.New("it is gone"), Hint: "make another"}))
	_, err := NewFrameReader(bytes.NewReader(wire)).Next()
	if !errors.Is(err, cove.Gone) || err.Error() != "exec: it is gone" || cove.HintOf(err) != "make another" {
		t.Errorf("got %v, hint %q", err, cove.HintOf(err))
	}
}

func TestFramesThatAreCut(t *testing.T) {
	whole := AppendOutput(nil, &cove.Output{Stream: cove.Stdout, Data: []byte("hello")})
	for n := 1; n < len(whole); n++ {
		if _, err := NewFrameReader(bytes.NewReader(whole[:n])).Next(); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Fatalf("%d of %d bytes: %v, want an unexpected EOF", n, len(whole), err)
		}
	}
}

func TestFrameTooLong(t *testing.T) {
	header := AppendFrame(nil, FrameStdout, 0, nil)
	binary.BigEndian.PutUint32(header[9:], MaxFrame+1)
	_, err := NewFrameReader(io.MultiReader(bytes.NewReader(header), endless{})).Next()
	if err == nil || !strings.Contains(err.Error(), "exceeds") {
		t.Errorf("got %v, want a refusal", err)
	}
}

type endless struct{}

func (endless) Read(p []byte) (int, error) { return len(p), nil }

func FuzzFrameReader(f *testing.F) {
	f.Add(AppendOutput(nil, &cove.Output{Stream: cove.Stdout, Data: []byte("hello")}))
	f.Add(AppendOutput(nil, &cove.Output{PID: 3}))
	f.Add(AppendError(nil, ErrorBody{Code: cove.Gone}))
	f.Fuzz(func(t *testing.T, data []byte) {
		frames := NewFrameReader(bytes.NewReader(data))
		read := 0
		for {
			output, err := frames.Next()
			if err != nil {
				return
			}
			if read += len(output.Data); read > len(data) {
				t.Fatalf("%d bytes of output from %d bytes of frames", read, len(data))
			}
		}
	})
}

func BenchmarkFrames(b *testing.B) {
	output := cove.Output{Stream: cove.Stdout, Data: make([]byte, 32<<10)}
	wire := AppendOutput(nil, &output)
	reader := bytes.NewReader(wire)
	frames := NewFrameReader(reader)
	b.SetBytes(int64(len(output.Data)))
	for b.Loop() {
		wire = AppendOutput(wire[:0], &output)
		reader.Reset(wire)
		if _, err := frames.Next(); err != nil {
			b.Fatal(err)
		}
	}
}
