package sandbox

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/covehq/cove"
	"github.com/covehq/cove/egress"
	"github.com/covehq/cove/guest/wire"
)

// given returns the secrets with which a connection of a sandbox is opened.
func given(t *testing.T, r *rig, out *outside, s *Sandbox) []egress.SecretValue {
	t.Helper()
	r.world.find(s.ID()).agent.ask(t, wire.EgressRequest{Kind: wire.EgressConnect, Name: "api.example.org", Port: 443})
	return (<-out.opened).Secrets
}

// gets reports whether the sandbox has this value to send to api.example.org.
func gets(list []egress.SecretValue, value string) bool {
	return len(list) == 1 && list[0].Value == value && slices.Contains(list[0].Hosts, "api.example.org")
}

func TestT82SecretsAreTheirOwnersAlone(t *testing.T) {
	out := newOutside()
	r := newRig(t, Options{Network: out.options(t)})
	const everybodys, anns, bobs = "everybody's 0123456789", "ann's own 0123456789abc", "bob's own 0123456789abc"
	as := func(owner string) context.Context { return As(t.Context(), Caller{Owner: owner}) }
	admin := As(t.Context(), Caller{Owner: "root", All: true})
	set := func(ctx context.Context, name, value string) {
		t.Helper()
		if _, err := r.SetSecret(ctx, name, cove.SecretInput{Value: value, Hosts: []string{"api.example.org"}}); err != nil {
			t.Fatal(err)
		}
	}
	box := func(owner, name string) (*Sandbox, error) {
		return r.Create(as(owner), cove.Spec{Network: cove.Network{Allow: []string{"api.example.org"}, Secrets: []cove.SecretUse{{Name: name}}}}, CreateOptions{})
	}
	set(admin, "TOKEN", everybodys)
	set(as("bob"), "TOKEN", bobs)
	set(as("bob"), "BOBS", bobs)

	hers, err := box("ann", "TOKEN")
	if err != nil {
		t.Fatal(err)
	}
	his, err := box("bob", "TOKEN")
	if err != nil {
		t.Fatal(err)
	}
	if !gets(given(t, r, out, hers), everybodys) || !gets(given(t, r, out, his), bobs) {
		t.Error("she does not have everybody's secret, or he not his own")
	}
	set(as("ann"), "TOKEN", anns)
	if !gets(given(t, r, out, hers), everybodys) {
		t.Error("a sandbox has another secret than it was made with")
	}
	change := []cove.SecretUse{{Name: "TOKEN"}}
	if _, err := hers.SetNetwork(admin, cove.NetworkUpdate{Secrets: &change}); err != nil {
		t.Fatal(err)
	}
	if !gets(given(t, r, out, hers), anns) {
		t.Error("after an admin's change of her sandbox it does not have her secret")
	}

	// What is somebody else's is as what is nobody's.
	for name, try := range map[string]func(name string) error{
		"use": func(name string) error { _, err := box("ann", name); return err },
		"get": func(name string) error { _, err := r.Secret(as("ann"), "", name); return err },
		"get his": func(name string) error {
			_, err := r.Secret(as("ann"), "bob", name)
			return err
		},
		"remove":     func(name string) error { return r.RemoveSecret(as("ann"), "", name) },
		"remove his": func(name string) error { return r.RemoveSecret(as("ann"), "bob", name) },
	} {
		theirs, nobodys := try("BOBS"), try("NONE")
		if !errors.Is(theirs, cove.NotFound) || masked(theirs, "BOBS") != masked(nobodys, "NONE") {
			t.Errorf("%s: of bob's %v, and of nobody's %v", name, theirs, nobodys)
		}
	}
	list, err := r.Secrets(as("ann"))
	if err != nil || len(list) != 2 || list[0].Owner != "" || list[1].Owner != "ann" {
		t.Errorf("she sees %+v, %v", list, err)
	}
	if list, err := r.Secrets(admin); err != nil || len(list) != 4 {
		t.Errorf("an admin sees %+v, %v", list, err)
	}
	if s, err := r.Secret(as("eve"), "", "TOKEN"); err != nil || s.Owner != "" {
		t.Errorf("eve means a secret of %q, %v", s.Owner, err)
	}

	// Everybody's is not hers to remove, and what she removes is hers.
	if err := r.RemoveSecret(as("ann"), "", "TOKEN"); err != nil {
		t.Error(err)
	}
	if list := given(t, r, out, hers); len(list) != 1 || list[0].Value != "" || len(list[0].Hosts) > 0 {
		t.Errorf("after its removal her sandbox has %d secrets, which go to %v", len(list), list[0].Hosts)
	}
	if err := r.RemoveSecret(as("ann"), "", "TOKEN"); !errors.Is(err, cove.Forbidden) || cove.HintOf(err) == "" {
		t.Errorf("everybody's is removed by an owner: %v", err)
	}
	if s, err := r.Secret(as("ann"), "", "TOKEN"); err != nil || s.Owner != "" {
		t.Errorf("she means a secret of %q, %v", s.Owner, err)
	}
	if !gets(given(t, r, out, his), bobs) {
		t.Error("his sandbox has lost his secret")
	}
	if err := r.RemoveSecret(admin, "bob", "BOBS"); err != nil {
		t.Errorf("an admin removes an owner's: %v", err)
	}
	if err := r.RemoveSecret(admin, "", "TOKEN"); err != nil {
		t.Errorf("an admin removes everybody's: %v", err)
	}
	if _, err := r.SetSecret(as(""), "TOKEN", cove.SecretInput{Value: anns, Hosts: []string{"api.example.org"}}); !errors.Is(err, cove.Forbidden) {
		t.Errorf("set by somebody who owns nothing: %v", err)
	}
	if err := r.RemoveSecret(as(""), "bob", "TOKEN"); !errors.Is(err, cove.Forbidden) {
		t.Errorf("removed by somebody who owns nothing: %v", err)
	}
}

// masked is an error's text and hint without the name that was asked for.
func masked(err error, name string) string {
	return strings.ReplaceAll(fmt.Sprint(err, cove.HintOf(err)), name, "NAME")
}
