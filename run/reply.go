package run

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"io"
	"slices"

	"github.com/covehq/cove"
	"github.com/covehq/cove/patch"
)

// Archive returns an archive that came with the request, to be given to Do.
func (*Run) Archive(archive []byte) io.Reader { return bytes.NewReader(archive) }

// HasNew reports whether anything was added, renamed or modified.
func (r *Run) HasNew() bool {
	return r.Changes != nil && slices.ContainsFunc(r.Changes.List(), func(c cove.Change) bool { return c.Kind != cove.ChangeDeleted })
}

// WriteJSON writes a cove.RunResult as JSON, piece by piece: what changed may be larger
// than what is well kept in memory.
func (r *Run) WriteJSON(w io.Writer, back cove.RunReturn) error {
	changes := []cove.Change{}
	if r.Changes != nil && len(r.Changes.List()) > 0 {
		changes = r.Changes.List()
	}
	out := &object{w: w}
	out.member("results", r.Results)
	out.member("changes", changes)
	archive := back == "" || back == cove.ReturnArchive || back == cove.ReturnBoth
	if out.key("archive"); archive && r.HasNew() {
		out.text(`"`)
		encoder := base64.NewEncoder(base64.StdEncoding, out)
		_, err := r.Changes.WriteArchive(encoder, patch.Selection{})
		out.fail(err)
		out.fail(encoder.Close())
		out.text(`"`)
	} else {
		out.text("null")
	}
	text := &quoted{out: out}
	if out.key("patch"); r.Changes != nil && (back == cove.ReturnPatch || back == cove.ReturnBoth) {
		out.fail(r.Changes.WritePatch(text))
	}
	text.end()
	out.text("}\n")
	return out.err
}

// object writes an object of JSON. After an error it does nothing.
type object struct {
	w     io.Writer
	begun bool
	err   error
}

func (o *object) fail(err error) {
	if o.err == nil {
		o.err = err
	}
}

// Write writes bytes as they are.
func (o *object) Write(p []byte) (int, error) {
	if o.err != nil {
		return 0, o.err
	}
	n, err := o.w.Write(p)
	o.fail(err)
	return n, err
}

func (o *object) text(text string) { _, _ = io.WriteString(o, text) }

func (o *object) key(name string) {
	if o.begun {
		o.text(`,"` + name + `":`)
	} else {
		o.text(`{"` + name + `":`)
	}
	o.begun = true
}

func (o *object) member(name string, value any) {
	o.key(name)
	encoder := json.NewEncoder(o)
	encoder.SetEscapeHTML(false)
	o.fail(encoder.Encode(value))
}

// quoted writes text as a string of JSON, null where there is none. Each Write is of
// whole characters.
type quoted struct {
	out   *object
	begun bool
}

// Write adds to the string.
func (q *quoted) Write(p []byte) (int, error) {
	if !q.begun {
		q.out.text(`"`)
		q.begun = true
	}
	var text bytes.Buffer
	encoder := json.NewEncoder(&text)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(string(p)); err != nil {
		return 0, err
	}
	line := bytes.TrimSuffix(text.Bytes(), []byte("\n"))
	if _, err := q.out.Write(line[1 : len(line)-1]); err != nil {
		return 0, err
	}
	return len(p), nil
}

func (q *quoted) end() {
	if q.begun {
		q.out.text(`"`)
	} else {
		q.out.text("null")
	}
}
