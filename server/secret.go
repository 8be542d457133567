package server

import (
	"context"
	"net/http"
	"slices"

	"github.com/covehq/cove"
	"github.com/covehq/cove/internal/httpapi"
)

const secretPath = "/v1/secrets/{name}"

func (s *Server) registerSecrets() {
	register(s, operation("list-secrets", http.MethodGet, "/v1/secrets", tagNetwork, "List secrets",
		"By name, without their values, which no operation gives back."), s.listSecrets)
	register(s, operation("get-secret", http.MethodGet, secretPath, tagNetwork, "Get a secret", "Without its value."), s.getSecret)
	register(s, operation("set-secret", http.MethodPut, secretPath, tagNetwork, "Set a secret",
		"Makes it, or replaces the one of that name. It is kept encrypted. Sandboxes that use it send the new value from then on."), s.setSecret)
	register(s, noContent(operation("remove-secret", http.MethodDelete, secretPath, tagNetwork, "Remove a secret",
		"Sandboxes that use it can't from then on.")), s.removeSecret)
}

// SecretTarget is the secret that an operation is about.
type SecretTarget struct {
	Name string `path:"name" doc:"name of the secret" example:"GITHUB_TOKEN"`
}

func (s *Server) listSecrets(ctx context.Context, _ *struct{}) (*struct{ Body httpapi.Secrets }, error) {
	list, err := s.host.Secrets(ctx)
	if err != nil {
		return nil, err
	}
	return &struct{ Body httpapi.Secrets }{httpapi.Secrets{Secrets: append([]cove.Secret{}, list...)}}, nil
}

func (s *Server) getSecret(ctx context.Context, in *SecretTarget) (*struct{ Body cove.Secret }, error) {
	list, err := s.host.Secrets(ctx)
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(list, func(secret cove.Secret) bool { return secret.Name == in.Name })
	if i < 0 {
		// Without what was asked for: somebody may have sent a value for a name.
		return nil, cove.Errorf(cove.NotFound, "find secret", "", "there is no such secret", "list them with cove secret ls")
	}
	return &struct{ Body cove.Secret }{list[i]}, nil
}

type setSecretInput struct {
	SecretTarget
	Body cove.SecretInput
}

func (s *Server) setSecret(ctx context.Context, in *setSecretInput) (*struct{ Body cove.Secret }, error) {
	secret, err := s.host.SetSecret(ctx, in.Name, in.Body)
	return &struct{ Body cove.Secret }{secret}, err
}

func (s *Server) removeSecret(ctx context.Context, in *SecretTarget) (*struct{}, error) {
	return nil, s.host.RemoveSecret(ctx, in.Name)
}
