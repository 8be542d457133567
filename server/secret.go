package server

import (
	"context"
	"net/http"

	"github.com/covehq/cove"
	"github.com/covehq/cove/internal/httpapi"
)

const secretPath = "/v1/secrets/{name}"

func (s *Server) registerSecrets() {
	register(s, operation("list-secrets", http.MethodGet, "/v1/secrets", tagNetwork, "List secrets",
		"Everybody's and the owner's of the key, for an admin all, by name; without their values, which no operation gives back."), s.listSecrets)
	register(s, operation("get-secret", http.MethodGet, secretPath, tagNetwork, "Get a secret",
		"The owner's of the key, else everybody's, without its value."), s.getSecret)
	register(s, operation("set-secret", http.MethodPut, secretPath, tagNetwork, "Set a secret",
		"Makes it, or replaces the one of that name. It is kept encrypted. It is the owner's of the key, for whose sandboxes it takes the place of everybody's of that name; "+
			"an admin's, and what is set through the Unix socket, is everybody's. Sandboxes that use it send the new value from then on."), s.setSecret)
	register(s, noContent(operation("remove-secret", http.MethodDelete, secretPath, tagNetwork, "Remove a secret",
		"Sandboxes that use it can't from then on. Only an admin removes everybody's.")), s.removeSecret)
}

// SecretTarget is the secret that an operation is about.
type SecretTarget struct {
	Name string `path:"name" doc:"name of the secret" example:"GITHUB_TOKEN"`
}

// OwnedSecretTarget may be somebody else's, for an admin.
type OwnedSecretTarget struct {
	SecretTarget
	Owner string `query:"owner" doc:"whose secret; only an admin may name another owner than the key's" example:"ci"`
}

func (s *Server) listSecrets(ctx context.Context, _ *struct{}) (*struct{ Body httpapi.Secrets }, error) {
	list, err := s.host.Secrets(ctx)
	if err != nil {
		return nil, err
	}
	return &struct{ Body httpapi.Secrets }{httpapi.Secrets{Secrets: append([]cove.Secret{}, list...)}}, nil
}

func (s *Server) getSecret(ctx context.Context, in *OwnedSecretTarget) (*struct{ Body cove.Secret }, error) {
	secret, err := s.host.Secret(ctx, in.Owner, in.Name)
	return &struct{ Body cove.Secret }{secret}, err
}

type setSecretInput struct {
	SecretTarget
	Body cove.SecretInput
}

func (s *Server) setSecret(ctx context.Context, in *setSecretInput) (*struct{ Body cove.Secret }, error) {
	secret, err := s.host.SetSecret(ctx, in.Name, in.Body)
	return &struct{ Body cove.Secret }{secret}, err
}

func (s *Server) removeSecret(ctx context.Context, in *OwnedSecretTarget) (*struct{}, error) {
	return nil, s.host.RemoveSecret(ctx, in.Owner, in.Name)
}
