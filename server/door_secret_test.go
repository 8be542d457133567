package server

import (
	"errors"
	"net/http"
	"strings"
	"testing"

	"github.com/covehq/cove"
	"github.com/covehq/cove/client"
)

func TestT82AnOwnersSecretsAreItsOwnThroughTheDoor(t *testing.T) {
	w, _ := outward(t, Options{Door: &DoorOptions{KeyRate: 1e6}})
	h := openHouse(t, nil, w)
	ctx := t.Context()
	ann, bob, admin := h.holder("ann", cove.ScopeRun), h.holder("bob", cove.ScopeRun), h.holder("root", cove.ScopeAdmin)
	reader := h.caller(h.key(cove.KeyInput{Name: "reader", Owner: "ann", Scope: cove.ScopeRead}))
	in := cove.SecretInput{Value: "hush-hush-hush", Hosts: []string{"api.example"}}
	for who, test := range map[*client.Client]struct{ name, owner string }{ann: {"A", "ann"}, bob: {"BOBS", "bob"}, admin: {"ALL", ""}, h.client: {"TOO", ""}} {
		if s, err := who.SetSecret(ctx, test.name, in); err != nil || s.Owner != test.owner {
			t.Fatalf("%s is set as a secret of %q, %v, want of %q", test.name, s.Owner, err, test.owner)
		}
	}
	if _, err := reader.SetSecret(ctx, "A", in); !errors.Is(err, cove.Forbidden) {
		t.Errorf("set with the scope read: %v", err)
	}
	if err := reader.RemoveSecret(ctx, "A"); !errors.Is(err, cove.Forbidden) {
		t.Errorf("removed with the scope read: %v", err)
	}
	for name, test := range map[string]struct {
		who  *client.Client
		want string
	}{
		"ann": {ann, "A ALL TOO"}, "who reads for ann": {reader, "A ALL TOO"}, "bob": {bob, "ALL BOBS TOO"}, "an admin": {admin, "A ALL BOBS TOO"}, "the socket": {h.client, "A ALL BOBS TOO"},
	} {
		list, err := test.who.Secrets(ctx)
		var names []string
		for _, s := range list {
			names = append(names, s.Name)
		}
		if got := strings.Join(names, " "); err != nil || got != test.want {
			t.Errorf("%s sees %s, %v, want %s", name, got, err, test.want)
		}
	}

	// His is to her as what is nobody's, in every way to ask for it.
	key := bearer(h.key(cove.KeyInput{Name: "eve", Owner: "ann"}))
	for _, method := range []string{http.MethodGet, http.MethodDelete} {
		for _, query := range []string{"", "?owner=bob", "?owner=nobody"} {
			var replies [2]string
			for i, name := range []string{"BOBS", "NOBODYS"} {
				reply, text := h.knock(method, "/v1/secrets/"+name+query, key, nil)
				if reply.StatusCode != http.StatusNotFound {
					t.Errorf("%s of %s%s: %d %s", method, name, query, reply.StatusCode, text)
				}
				replies[i] = strings.ReplaceAll(text, name, "NAME")
			}
			if replies[0] != replies[1] {
				t.Errorf("%s%s tells his from nobody's:\n%s\n%s", method, query, replies[0], replies[1])
			}
		}
	}
	if err := ann.RemoveSecret(ctx, "ALL"); !errors.Is(err, cove.Forbidden) {
		t.Errorf("everybody's, removed by her: %v", err)
	}
	if s, err := ann.SetSecret(ctx, "ALL", cove.SecretInput{Value: in.Value, Hosts: []string{"ann.example"}}); err != nil || s.Owner != "ann" {
		t.Errorf("her own of the name of everybody's: of %q, %v", s.Owner, err)
	}
	if s, err := bob.Secret(ctx, "ALL"); err != nil || s.Owner != "" || s.Hosts[0] != "api.example" {
		t.Errorf("he has %+v, %v", s, err)
	}
	if s, err := ann.Secret(ctx, "ALL"); err != nil || s.Owner != "ann" {
		t.Errorf("she has %+v, %v", s, err)
	}
	if s, err := admin.SecretOf(ctx, "bob", "BOBS"); err != nil || s.Owner != "bob" {
		t.Errorf("an admin finds %+v, %v", s, err)
	}
	if err := admin.RemoveSecret(ctx, "BOBS"); !errors.Is(err, cove.NotFound) {
		t.Errorf("an admin who does not say whose: %v", err)
	}
	if err := admin.RemoveSecretOf(ctx, "bob", "BOBS"); err != nil {
		t.Error(err)
	}
	if err := errors.Join(ann.RemoveSecret(ctx, "A"), h.client.RemoveSecret(ctx, "TOO"), admin.RemoveSecret(ctx, "ALL")); err != nil {
		t.Error(err)
	}
	if list, err := h.client.Secrets(ctx); err != nil || len(list) != 1 || list[0].Owner != "ann" {
		t.Errorf("left: %+v, %v", list, err)
	}
}
