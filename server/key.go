package server

import (
	"context"
	"net/http"

	"github.com/covehq/cove"
	"github.com/covehq/cove/internal/httpapi"
	"github.com/covehq/cove/key"
)

func (s *Server) registerKeys() {
	register(s, operation("list-keys", http.MethodGet, "/v1/keys", tagKeys, "List keys",
		"By name, without the keys themselves, which are not kept."), s.listKeys)
	create := operation("create-key", http.MethodPost, "/v1/keys", tagKeys, "Create a key",
		"The reply has the key, which is shown this once.")
	create.DefaultStatus = http.StatusCreated
	register(s, create, s.createKey)
	register(s, noContent(operation("remove-key", http.MethodDelete, "/v1/keys/{name}", tagKeys, "Revoke a key",
		"It opens nothing from then on, and what is open with it ends. Sandboxes that were made with it stay its owner's.")), s.removeKey)
}

// ring returns the daemon's keys. A document is made of a server without any.
func (s *Server) ring() (*key.Ring, error) {
	if s.keys == nil {
		return nil, cove.Errorf(cove.NotSupported, "", "", "this daemon keeps no keys", "call it through its Unix socket")
	}
	return s.keys, nil
}

func (s *Server) listKeys(context.Context, *struct{}) (*struct{ Body httpapi.Keys }, error) {
	ring, err := s.ring()
	if err != nil {
		return nil, err
	}
	return &struct{ Body httpapi.Keys }{httpapi.Keys{Keys: ring.List()}}, nil
}

type createKeyInput struct{ Body cove.KeyInput }

type createKeyOutput struct {
	CacheControl string `header:"Cache-Control"`
	Body         cove.NewKey
}

func (s *Server) createKey(ctx context.Context, in *createKeyInput) (*createKeyOutput, error) {
	ring, err := s.ring()
	if err != nil {
		return nil, err
	}
	made, err := ring.Create(ctx, in.Body)
	if err != nil {
		return nil, err
	}
	s.log.InfoContext(ctx, "key made", "id", made.ID, "name", made.Name, "owner", made.Owner, "scope", made.Scope)
	return &createKeyOutput{CacheControl: "no-store", Body: made}, nil
}

type keyTarget struct {
	Name string `path:"name" doc:"name or id of the key" example:"ci"`
}

func (s *Server) removeKey(ctx context.Context, in *keyTarget) (*struct{}, error) {
	ring, err := s.ring()
	if err != nil {
		return nil, err
	}
	if err := ring.Remove(ctx, in.Name); err != nil {
		return nil, err
	}
	s.log.InfoContext(ctx, "key revoked", "name", in.Name)
	return nil, nil
}
