package sandbox

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	"github.com/covehq/cove"
)

// errTaken is part of the error of a create whose name a living sandbox has.
var errTaken = errors.New("the name is taken")

// Reuse returns the living sandbox with the spec's name, when it has come up, and creates
// it where there is none. The error is cove.Conflict where that sandbox was created with
// another configuration, and names every field that differs; how the image is pulled is
// not part of it. What was changed since, such as its time to live, stays changed.
func (h *Host) Reuse(ctx context.Context, asked cove.Spec, o CreateOptions) (s *Sandbox, reused bool, err error) {
	if !h.enter() {
		return nil, false, cove.Wrap(errClosed, "create", "")
	}
	defer h.tasks.Done()
	whole := asked
	takeSecrets(&asked)
	spec := h.complete(asked)
	var p problems
	checkSpec(&p, &spec)
	if asked.Name == "" {
		p.invalid("give it a name", "there is no name by which a sandbox could exist already")
	}
	if p.code == cove.Invalid {
		return nil, false, p.err("create")
	}
	wanted := identity(&spec, &asked)
	for {
		holder := h.holder(owned{CallerOf(ctx).Owner, spec.Name})
		if holder == nil {
			s, err := h.Create(ctx, whole, o)
			if errors.Is(err, errTaken) {
				continue // somebody else was faster
			}
			return s, false, err
		}
		err := holder.answersTo(ctx, wanted)
		if errors.Is(err, errRetry) {
			continue // it did not come up
		}
		if err != nil {
			return nil, false, h.wrap(err, "create", spec.Name)
		}
		return holder, true, nil
	}
}

// holder returns the living sandbox with an owner's name, or nil.
func (h *Host) holder(name owned) *Sandbox {
	h.mu.Lock()
	defer h.mu.Unlock()
	holder := h.names[name]
	if holder == nil || holder.snapshot().Ended() {
		return nil
	}
	return holder
}

// answersTo returns nil when the sandbox has come up, and was asked to be what wanted is.
func (s *Sandbox) answersTo(ctx context.Context, wanted *cove.Spec) error {
	select {
	case <-s.ready:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	r := s.snapshot()
	if r.Ended() {
		return errRetry
	}
	was := r.Asked
	if was.Runtime == "" { // written by a release that did not note it
		was = r.Spec
	}
	was.Pull = wanted.Pull
	found := differences("", reflect.ValueOf(was), reflect.ValueOf(*wanted))
	if len(found) == 0 {
		return nil
	}
	if more := len(found) - maxProblems; more > 0 {
		found = append(found[:maxProblems], fmt.Sprintf("and %d more", more))
	}
	return &cove.Error{
		Code: cove.Conflict, ID: s.name,
		Err:  fmt.Errorf("sandbox %s has that name and another configuration: %s", s.id, strings.Join(found, "; ")),
		Hint: "ask for the same configuration, choose another name, or remove that sandbox",
	}
}

// differences describes the fields in which two values of one type differ, by their names
// in JSON. Values of variables are often secrets, and are not shown.
func differences(path string, has, asked reflect.Value) []string {
	if path == "env" {
		return mapDifferences(path, has, asked, false)
	}
	switch has.Kind() {
	case reflect.Struct:
		var found []string
		for i := range has.NumField() {
			name, _, _ := strings.Cut(has.Type().Field(i).Tag.Get("json"), ",")
			if path != "" {
				name = path + "." + name
			}
			found = append(found, differences(name, has.Field(i), asked.Field(i))...)
		}
		return found
	case reflect.Map:
		return mapDifferences(path, has, asked, true)
	}
	if reflect.DeepEqual(has.Interface(), asked.Interface()) || has.Kind() == reflect.Slice && has.Len()+asked.Len() == 0 {
		return nil
	}
	return []string{fmt.Sprintf("%s is %s, asked for is %s", path, show(has), show(asked))}
}

func mapDifferences(path string, has, asked reflect.Value, values bool) []string {
	one, other := has.Interface().(map[string]string), asked.Interface().(map[string]string)
	keys := maps.Clone(one)
	if keys == nil {
		keys = map[string]string{}
	}
	maps.Copy(keys, other)
	var found []string
	for _, key := range slices.Sorted(maps.Keys(keys)) {
		was, had := one[key]
		is, wanted := other[key]
		name := path + "." + key
		switch {
		case had == wanted && was == is:
		case !wanted:
			found = append(found, fmt.Sprintf("%s is set, and not asked for", name))
		case !had:
			found = append(found, fmt.Sprintf("%s is asked for, and not set", name))
		case values:
			found = append(found, fmt.Sprintf("%s is %s, asked for is %s", name, quote(was), quote(is)))
		default:
			found = append(found, name+" has another value")
		}
	}
	return found
}

// show is a value as people write it.
func show(value reflect.Value) string {
	switch v := value.Interface().(type) {
	case fmt.Stringer:
		return v.String()
	case string:
		return quote(v)
	}
	if value.Kind() == reflect.Slice {
		if text, err := json.Marshal(value.Interface()); err == nil {
			return plain(string(text))
		}
	}
	return plain(fmt.Sprint(value.Interface()))
}
