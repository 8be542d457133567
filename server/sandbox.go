package server

import (
	"context"
	"errors"
	"net/http"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"github.com/covehq/cove"
	"github.com/covehq/cove/internal/httpapi"
	"github.com/covehq/cove/sandbox"
)

// Target is the sandbox that an operation is about.
type Target struct {
	ID string `path:"id" doc:"id or name of the sandbox" example:"web"`
}

// view is a reply that shows a sandbox.
type view struct {
	Status   int
	Location string `header:"Location"`
	Body     cove.Sandbox
}

func (s *Server) registerSandboxes() {
	create := operation("create-sandbox", http.MethodPost, "/v1/sandboxes", tagSandboxes, "Create a sandbox",
		"Returns when it can be used. Everything may be left out: an empty body makes a sandbox of the defaults. "+
			"Every problem with a spec is reported at once.")
	create.DefaultStatus = http.StatusCreated
	create.Responses["200"] = &huma.Response{
		Description: "The sandbox that has the name already, with if_exists=return.", Content: content(httpapi.TypeJSON, schemaOf[cove.Sandbox](s)),
	}
	register(s, create, s.createSandbox)
	register(s, operation("list-sandboxes", http.MethodGet, "/v1/sandboxes", tagSandboxes, "List sandboxes",
		"Those that match, oldest first."), s.listSandboxes)
	register(s, operation("get-sandbox", http.MethodGet, "/v1/sandboxes/{id}", tagSandboxes, "Get a sandbox", ""), s.getSandbox)
	register(s, operation("update-sandbox", http.MethodPatch, "/v1/sandboxes/{id}", tagSandboxes, "Change lifetimes and labels",
		"What is absent stays as it is."), s.updateSandbox)
	register(s, noContent(operation("remove-sandbox", http.MethodDelete, "/v1/sandboxes/{id}", tagSandboxes, "Destroy a sandbox",
		"Returns when nothing of it is left. Succeeds for one that is gone.")), s.removeSandbox)
}

type createInput struct {
	IfExists       string `query:"if_exists" enum:"error,return" doc:"when a living sandbox has the name: return gives that one, with status 200, if it was created with the same spec; default error"`
	IdempotencyKey string `header:"Idempotency-Key" doc:"repeating a request with the same key gives the same sandbox" maxLength:"255" pattern:"^[!-~]*$" patternDescription:"printable ASCII without spaces"`
	Body           *cove.Spec
}

func (s *Server) createSandbox(ctx context.Context, in *createInput) (*view, error) {
	var spec cove.Spec
	if in.Body != nil {
		spec = *in.Body
	}
	var (
		options = sandbox.CreateOptions{IdempotencyKey: in.IdempotencyKey}
		made    *sandbox.Sandbox
		reused  bool
		err     error
	)
	if in.IfExists == "return" {
		made, reused, err = s.host.Reuse(ctx, spec, options)
	} else {
		made, err = s.host.Create(ctx, spec, options)
	}
	if err != nil {
		return nil, err
	}
	status := http.StatusCreated
	if reused {
		status = http.StatusOK
	}
	return &view{Status: status, Location: "/v1/sandboxes/" + made.ID(), Body: made.View()}, nil
}

type listInput struct {
	Label []string   `query:"label,explode" doc:"key=value that it must have; may be repeated" example:"team=web"`
	State cove.State `query:"state" enum:"creating,running,paused,stopped,failed" doc:"state that it must be in"`
}

func (s *Server) listSandboxes(ctx context.Context, in *listInput) (*struct{ Body httpapi.Sandboxes }, error) {
	filter := sandbox.Filter{State: in.State}
	var problems cove.Problems
	for _, label := range in.Label {
		key, value, ok := strings.Cut(label, "=")
		if !ok || key == "" {
			problems.Add("label \"" + label + "\" is not key=value")
			continue
		}
		if filter.Labels == nil {
			filter.Labels = map[string]string{}
		}
		filter.Labels[key] = value
	}
	if err := problems.Err(cove.Invalid, "list sandboxes", "write labels as ?label=key=value"); err != nil {
		return nil, err
	}
	list, err := s.host.List(ctx, filter)
	if err != nil {
		return nil, err
	}
	if list == nil {
		list = []cove.Sandbox{}
	}
	return &struct{ Body httpapi.Sandboxes }{httpapi.Sandboxes{Sandboxes: list}}, nil
}

func (s *Server) getSandbox(ctx context.Context, in *Target) (*struct{ Body cove.Sandbox }, error) {
	found, err := s.host.Sandbox(ctx, in.ID)
	if err != nil {
		return nil, err
	}
	return &struct{ Body cove.Sandbox }{found.View()}, nil
}

type updateInput struct {
	Target
	Body cove.SandboxUpdate
}

func (s *Server) updateSandbox(ctx context.Context, in *updateInput) (*struct{ Body cove.Sandbox }, error) {
	found, err := s.host.Sandbox(ctx, in.ID)
	if err != nil {
		return nil, err
	}
	updated, err := found.Update(ctx, in.Body)
	if err != nil {
		return nil, err
	}
	return &struct{ Body cove.Sandbox }{updated}, nil
}

func (s *Server) removeSandbox(ctx context.Context, in *Target) (*struct{}, error) {
	found, err := s.host.Sandbox(ctx, in.ID)
	if err == nil {
		err = found.Destroy(ctx)
	}
	if err != nil && !errors.Is(err, cove.Gone) {
		return nil, err
	}
	return nil, nil
}
