package cove_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"testing"

	"github.com/covehq/cove"
)

func TestErrorsSayWhatWasDoneToWhat(t *testing.T) {
	tests := []struct {
		name string
		err  *cove.Error
		want string
	}{
		{"operation, subject and cause", &cove.Error{Code: cove.NotFound, Op: "read file", ID: "/a", Err: io.EOF}, "read file /a: EOF"},
		{"without a subject", &cove.Error{Code: cove.NotFound, Op: "list", Err: io.EOF}, "list: EOF"},
		{"without an operation", &cove.Error{Code: cove.NotFound, ID: "x", Err: io.EOF}, "x: EOF"},
		{"without a cause it is the code in words", &cove.Error{Code: cove.NoSpace, Op: "create"}, "create: no space"},
		{"the code alone", &cove.Error{Code: cove.Gone}, "gone"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if got := test.err.Error(); got != test.want {
				t.Errorf("Error() = %q, want %q", got, test.want)
			}
		})
	}
}

func TestCodeOf(t *testing.T) {
	inner := &cove.Error{Code: cove.Conflict, Op: "create", Err: io.EOF}
	tests := []struct {
		name string
		err  error
		want cove.Code
	}{
		{"nil has none", nil, ""},
		{"an error has its code", inner, cove.Conflict},
		{"a wrapped error too", fmt.Errorf("around: %w", inner), cove.Conflict},
		{"the outermost error counts", &cove.Error{Code: cove.Unavailable, Err: inner}, cove.Unavailable},
		{"a bare code is one", fmt.Errorf("around: %w", cove.NotFound), cove.NotFound},
		{"a passed deadline is a timeout", fmt.Errorf("around: %w", context.DeadlineExceeded), cove.Timeout},
		{"anything else is internal", io.EOF, cove.Internal},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if got := cove.CodeOf(test.err); got != test.want {
				t.Errorf("CodeOf(%v) = %q, want %q", test.err, got, test.want)
			}
		})
	}
}

func TestErrorsIsKnowsCodesAndCauses(t *testing.T) {
	err := fmt.Errorf("around: %w", &cove.Error{Code: cove.NotFound, Op: "stat", Err: io.ErrUnexpectedEOF})
	if !errors.Is(err, cove.NotFound) {
		t.Errorf("errors.Is(%v, NotFound) = false, want true", err)
	}
	if errors.Is(err, cove.Gone) {
		t.Errorf("errors.Is(%v, Gone) = true, want false", err)
	}
	if !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("errors.Is(%v, its cause) = false, want true", err)
	}
}

func TestWrap(t *testing.T) {
	bare := &cove.Error{Code: cove.Gone, ID: "box", Err: io.EOF, Hint: "make another"}
	tests := []struct {
		name string
		err  error
		want cove.Error
	}{
		{"a foreign error becomes internal", io.EOF, cove.Error{Code: cove.Internal, Op: "exec", ID: "id", Err: io.EOF}},
		{"a bare code keeps its kind", cove.NotFound, cove.Error{Code: cove.NotFound, Op: "exec", ID: "id", Err: cove.NotFound}},
		{"an error without an operation is filled in", bare, cove.Error{Code: cove.Gone, Op: "exec", ID: "box", Err: io.EOF, Hint: "make another"}},
		{
			"an error of the same operation gets a subject",
			&cove.Error{Code: cove.Invalid, Op: "exec", Err: io.EOF},
			cove.Error{Code: cove.Invalid, Op: "exec", ID: "id", Err: io.EOF},
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			got, ok := cove.Wrap(test.err, "exec", "id").(*cove.Error)
			if !ok || *got != test.want {
				t.Errorf("Wrap = %+v, want %+v", got, test.want)
			}
		})
	}
	if bare.Op != "" {
		t.Errorf("Wrap changed the error that it was given: %+v", bare)
	}
	if err := cove.Wrap(nil, "exec", "id"); err != nil {
		t.Errorf("Wrap(nil) = %v, want nil", err)
	}
	other := &cove.Error{Code: cove.TooLarge, Op: "write", ID: "/a", Err: io.EOF, Hint: "split it"}
	outer := cove.Wrap(other, "exec", "id")
	if got := outer.Error(); got != "exec id: write /a: EOF" {
		t.Errorf("Wrap of another operation = %q, want both", got)
	}
	if cove.CodeOf(outer) != cove.TooLarge || cove.HintOf(outer) != "split it" {
		t.Errorf("Wrap = %v with hint %q, want the inner code and hint", cove.CodeOf(outer), cove.HintOf(outer))
	}
	whole := &cove.Error{Code: cove.TooLarge, Op: "exec", ID: "/a", Err: io.EOF}
	if cove.Wrap(whole, "exec", "id") != error(whole) {
		t.Error("Wrap of a whole error of the same operation made another one")
	}
}

func TestHintIsTheOneNearestToTheSurface(t *testing.T) {
	inner := &cove.Error{Code: cove.Invalid, Hint: "inner"}
	tests := []struct {
		name string
		err  error
		want string
	}{
		{"nil has none", nil, ""},
		{"a foreign error has none", io.EOF, ""},
		{"its own", inner, "inner"},
		{"below one without", &cove.Error{Err: fmt.Errorf("around: %w", inner)}, "inner"},
		{"above another", &cove.Error{Err: inner, Hint: "outer"}, "outer"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if got := cove.HintOf(test.err); got != test.want {
				t.Errorf("HintOf = %q, want %q", got, test.want)
			}
		})
	}
}

func TestProblemsAreOneError(t *testing.T) {
	var p cove.Problems
	if err := p.Err(cove.Invalid, "create", "hint"); err != nil {
		t.Fatalf("Err without problems = %v, want nil", err)
	}
	p.Add("one is wrong")
	p.Add("two is wrong")
	err := p.Err(cove.Invalid, "create", "mend it")
	if err == nil || err.Error() != "create: one is wrong; two is wrong" || !errors.Is(err, cove.Invalid) || cove.HintOf(err) != "mend it" {
		t.Errorf("Err = %v, want both problems, invalid, with the hint", err)
	}
}
