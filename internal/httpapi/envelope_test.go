package httpapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/covehq/cove"
)

func TestDescribe(t *testing.T) {
	cause := errors.New("no such file")
	for name, test := range map[string]struct {
		err  error
		want ErrorBody
	}{
		"an error of ours": {
			&cove.Error{Code: cove.NotFound, Op: "read file", ID: "/x", Err: cause, Hint: "look around"},
			ErrorBody{cove.NotFound, "read file /x: no such file", "no such file", "look around", 0},
		},
		"the hint of an inner error is kept": {
			fmt.Errorf("outer: %w", &cove.Error{Code: cove.Exhausted, Err: cause, Hint: "wait"}),
			ErrorBody{cove.Exhausted, "outer: no such file", "no such file", "wait", 0},
		},
		"a cause that says nothing new is left out": {
			&cove.Error{Code: cove.Invalid, Err: cause},
			ErrorBody{cove.Invalid, "no such file", "", "", 0},
		},
		"a command that could not be started": {
			cove.Wrap(&cove.Error{Code: cove.Invalid, Err: cause, Exit: 127}, "exec", "x"),
			ErrorBody{cove.Invalid, "exec x: no such file", "no such file", "", 127},
		},
		"a bare code":         {cove.Gone, ErrorBody{cove.Gone, "gone", "", "", 0}},
		"an expired context":  {context.DeadlineExceeded, ErrorBody{cove.Timeout, "context deadline exceeded", "", "", 0}},
		"a foreign error":     {cause, ErrorBody{cove.Internal, "no such file", "", "", 0}},
		"control characters":  {cove.Errorf(cove.Invalid, "", "", "a\x1b[31mb\x00c\u009bd", ""), ErrorBody{cove.Invalid, "a?[31mb?c?d", "", "", 0}},
		"lines stay lines":    {cove.Errorf(cove.Invalid, "", "", "a\nb\tc", ""), ErrorBody{cove.Invalid, "a\nb\tc", "", "", 0}},
		"bytes that are text": {cove.Errorf(cove.Invalid, "", "", "caf\xe9", ""), ErrorBody{cove.Invalid, "caf?", "", "", 0}},
	} {
		t.Run(name, func(t *testing.T) {
			if got := Describe(test.err); got != test.want {
				t.Errorf("got  %+v\nwant %+v", got, test.want)
			}
		})
	}
}

func TestDescribeBoundsText(t *testing.T) {
	body := Describe(cove.Errorf(cove.Invalid, "", "", strings.Repeat("é", maxText), ""))
	if len(body.Message) > maxText+len("…") {
		t.Errorf("a message of %d bytes, want at most %d", len(body.Message), maxText)
	}
	if !strings.HasSuffix(body.Message, "é…") {
		t.Errorf("the message ends in %q, want a whole character and …", body.Message[len(body.Message)-6:])
	}
}

func TestErrorsSurviveTheWire(t *testing.T) {
	for _, code := range Codes() {
		sent := &cove.Error{Code: code, Op: "exec", ID: "web", Err: errors.New("it broke"), Hint: "mend it"}
		data, err := json.Marshal(ErrorReply{Describe(sent)})
		if err != nil {
			t.Fatal(err)
		}
		got := ReadError(&http.Response{StatusCode: Status(code), Body: io.NopCloser(strings.NewReader(string(data)))})
		if !errors.Is(got, code) || got.Error() != sent.Error() || got.Hint != sent.Hint {
			t.Errorf("%s came back as %s %q, hint %q", code, got.Code, got, got.Hint)
		}
	}
}

func TestReadErrorOfSomebodyElse(t *testing.T) {
	for name, test := range map[string]struct {
		status int
		body   string
		code   cove.Code
		text   string
	}{
		"a proxy's text":        {502, "bad gateway\n<html>", cove.Unavailable, "bad gateway"},
		"nothing":               {404, "", cove.NotFound, "404"},
		"another envelope":      {400, `{"error":"no"}`, cove.Invalid, "400"},
		"an envelope in pieces": {503, `{"error":{"code":"una`, cove.Unavailable, "503"},
		"a page":                {500, strings.Repeat("x", 5000), cove.Internal, "500"},
	} {
		t.Run(name, func(t *testing.T) {
			got := ReadError(&http.Response{
				StatusCode: test.status, Status: fmt.Sprint(test.status, " ", http.StatusText(test.status)),
				Body: io.NopCloser(strings.NewReader(test.body)),
			})
			if got.Code != test.code || !strings.Contains(got.Error(), test.text) || got.Hint == "" || len(got.Error()) > 300 {
				t.Errorf("got %s %q, hint %q; want %s with %q and a hint", got.Code, got, got.Hint, test.code, test.text)
			}
		})
	}
}
