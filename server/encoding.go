package server

import (
	"encoding/base64"
	"encoding/json"
	"mime"
	"strconv"
	"strings"

	"github.com/covehq/cove"
	"github.com/covehq/cove/internal/httpapi"
)

// negotiate returns that of the offered content types which an Accept header likes best,
// the first offered where several are liked alike, and the first of all where none is.
func negotiate(accept string, offers ...string) string {
	best, bestQuality := offers[0], 0.0
	for _, offer := range offers {
		if quality := qualityOf(accept, offer); quality > bestQuality {
			best, bestQuality = offer, quality
		}
	}
	return best
}

// qualityOf returns how much an Accept header likes a content type, 0 to 1.
func qualityOf(accept, offer string) float64 {
	quality, precision := 0.0, 0
	family, _, _ := strings.Cut(offer, "/")
	for part := range strings.SplitSeq(accept, ",") {
		kind, parameters, err := mime.ParseMediaType(strings.TrimSpace(part))
		if err != nil {
			continue
		}
		matches := 0
		switch kind {
		case offer:
			matches = 3
		case family + "/*":
			matches = 2
		case "*/*":
			matches = 1
		}
		if matches <= precision {
			continue
		}
		precision, quality = matches, 1
		if q, err := strconv.ParseFloat(parameters["q"], 64); err == nil {
			quality = q
		}
	}
	return quality
}

// framesEncoding is what our own client reads.
func framesEncoding() encoding {
	return encoding{
		contentType: httpapi.TypeFrames,
		keepAlive:   httpapi.AppendFrame(nil, httpapi.FrameKeepAlive, 0, nil),
		err:         httpapi.AppendError,
	}
}

// sseEncoding is server-sent events.
func sseEncoding() encoding {
	return encoding{
		contentType: httpapi.TypeSSE,
		keepAlive:   []byte(": keepalive\n\n"),
		err: func(b []byte, body httpapi.ErrorBody) []byte {
			return appendEvent(b, "error", "", body)
		},
	}
}

// bytesEncoding is one stream of a process as it is.
func bytesEncoding() encoding { return encoding{contentType: httpapi.TypeBytes} }

// appendEvent appends a server-sent event with v as JSON. The name and the id must be
// free of line breaks; JSON is.
func appendEvent(b []byte, name, id string, v any) []byte {
	data, err := json.Marshal(v)
	if err != nil { // v is plain data of ours
		data, _ = json.Marshal(httpapi.Describe(err))
		name = "error"
	}
	b = appendEventHead(b, name, id)
	b = append(b, "data: "...)
	b = append(b, data...)
	return append(b, "\n\n"...)
}

func appendEventHead(b []byte, name, id string) []byte {
	b = append(b, "event: "...)
	b = append(b, name...)
	b = append(b, '\n')
	if id != "" {
		b = append(b, "id: "...)
		b = append(b, id...)
		b = append(b, '\n')
	}
	return b
}

// appendOutputEvent appends an output as a server-sent event. Data, the hot case, is
// written without reflection.
func appendOutputEvent(b []byte, o *cove.Output, at position) []byte {
	switch {
	case o.Exit != nil:
		return appendEvent(b, "exit", at.String(), o)
	case len(o.Data) == 0:
		return appendEvent(b, "start", at.String(), o)
	}
	b = appendEventHead(b, string(o.Stream), at.String())
	b = append(b, `data: {"stream":"`...)
	b = append(b, o.Stream...)
	b = append(b, `","offset":`...)
	b = strconv.AppendUint(b, o.Offset, 10)
	b = append(b, `,"data":"`...)
	b = base64.StdEncoding.AppendEncode(b, o.Data)
	return append(b, "\"}\n\n"...)
}

// position is how far a stream was read. It is the id of events, and comes back as
// Last-Event-ID. Nil is the end, wherever that is.
type position cove.Offsets

// String returns "<stdout offset>,<stderr offset>".
func (p position) String() string { return offsetText(p.Stdout) + "," + offsetText(p.Stderr) }

// after returns the position behind an output.
func (p position) after(o *cove.Output) position {
	if len(o.Data) == 0 {
		return p
	}
	next := o.Offset + uint64(len(o.Data))
	if o.Stream == cove.Stderr {
		p.Stderr = &next
	} else {
		p.Stdout = &next
	}
	return p
}

func offsetText(offset *uint64) string {
	if offset == nil {
		return httpapi.End
	}
	return strconv.FormatUint(*offset, 10)
}

// parseOffset reads a number or "end"; "" means 0.
func parseOffset(text string) (*uint64, error) {
	switch text {
	case httpapi.End:
		return nil, nil
	case "":
		return new(uint64), nil
	}
	offset, err := strconv.ParseUint(text, 10, 63)
	if err != nil {
		return nil, cove.Errorf(cove.Invalid, "", "", "offset "+strconv.Quote(text)+" is neither a number of bytes nor \"end\"",
			"leave it out to begin at the start of what is kept")
	}
	return &offset, nil
}

// parsePosition reads what String wrote.
func parsePosition(text string) (position, error) {
	stdout, stderr, ok := strings.Cut(text, ",")
	if !ok || stdout == "" || stderr == "" {
		return position{}, cove.Errorf(cove.Invalid, "", "", "Last-Event-ID "+strconv.Quote(text)+" is not one of ours",
			"send the id of the last event that was received, as it was")
	}
	var p position
	var err error
	if p.Stdout, err = parseOffset(stdout); err != nil {
		return p, err
	}
	p.Stderr, err = parseOffset(stderr)
	return p, err
}
