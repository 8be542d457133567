package daiv

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strings"
	"time"
)

// runID is what a UUID of version 4 looks like.
var runID = regexp.MustCompile(`(?i)^[0-9a-f]{8}-?[0-9a-f]{4}-?4[0-9a-f]{3}-?[89ab][0-9a-f]{3}-?[0-9a-f]{12}$`)

// problem is one thing that is wrong with a request, as daiv-sandbox reports it.
type problem struct {
	Type     string `json:"type"`
	Location []any  `json:"loc"`
	Message  string `json:"msg"`
}

// fields reads the fields of a request and notes what is wrong with them.
type fields struct {
	values   map[string]json.RawMessage
	problems []problem
}

// read reads the request, and answers it where it is no object of JSON.
func read(w http.ResponseWriter, r *http.Request) (*fields, bool) {
	// Set again when the body is here: else it would end the watch for a client that goes.
	controller := http.NewResponseController(w)
	_ = controller.SetReadDeadline(time.Now().Add(bodyTimeout))
	data, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	_ = controller.SetReadDeadline(time.Time{})
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		refuse(w, http.StatusRequestEntityTooLarge, fmt.Sprintf("the request is larger than %d MiB; POST /v1/run takes larger archives", maxBody>>20))
		return nil, false
	case err != nil:
		refuse(w, http.StatusBadRequest, "There was an error parsing the body")
		return nil, false
	}
	f := &fields{}
	if err := json.Unmarshal(data, &f.values); err != nil || f.values == nil {
		reply(w, http.StatusUnprocessableEntity, map[string]any{"detail": []problem{{"json_invalid", []any{"body"}, "JSON decode error"}}})
		return nil, false
	}
	return f, true
}

func (f *fields) wrong(kind, message string, at ...any) {
	f.problems = append(f.problems, problem{kind, append([]any{"body"}, at...), message})
}

// get decodes a field into to and reports whether it was there and fit.
func (f *fields) get(name string, required bool, to any, kind, message string) bool {
	raw, ok := f.values[name]
	switch {
	case !ok && required:
		f.wrong("missing", "Field required", name)
		return false
	case !ok, !required && string(raw) == "null":
		return false
	case string(raw) == "null" || json.Unmarshal(raw, to) != nil:
		f.wrong(kind, message, name)
		return false
	}
	return true
}

func (f *fields) text(name string, required bool) string {
	var text string
	f.get(name, required, &text, "string_type", "Input should be a valid string")
	return text
}

func (f *fields) texts(name string, required bool) (list []string) {
	if f.get(name, required, &list, "list_type", "Input should be a valid list of strings") && required && len(list) == 0 {
		f.wrong("too_short", "List should have at least 1 item after validation, not 0", name)
	}
	return list
}

func (f *fields) flag(name string) (set bool) {
	f.get(name, false, &set, "bool_type", "Input should be a valid boolean")
	return set
}

func (f *fields) id() {
	if id := f.text("run_id", true); id != "" && !runID.MatchString(id) {
		f.wrong("uuid_parsing", "Input should be a valid UUID, version 4", "run_id")
	}
}

// bytes reads base64, with line breaks or without.
func (f *fields) bytes(name string) []byte {
	text := strings.NewReplacer("\n", "", "\r", "").Replace(f.text(name, true))
	data, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		f.wrong("base64_decode", "Base64 decoding error", name)
	}
	return data
}

// fine answers the request where anything is wrong with it.
func (f *fields) fine(w http.ResponseWriter) bool {
	if len(f.problems) == 0 {
		return true
	}
	reply(w, http.StatusUnprocessableEntity, map[string]any{"detail": f.problems})
	return false
}
