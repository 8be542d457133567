package server

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/covehq/cove"
)

// withHeader sends every request with a header more.
type withHeader struct {
	name, value string
}

// RoundTrip implements http.RoundTripper.
func (h withHeader) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set(h.name, h.value)
	return http.DefaultTransport.RoundTrip(r)
}

func TestAModelSeesTheSandboxesOfItsKeysOwnerT82(t *testing.T) {
	h := newHouse(t, DoorOptions{})
	secret := h.key(cove.KeyInput{Name: "bob"})
	his, hers := h.sandboxOf(h.caller(secret)), h.sandboxOf(h.holder("alice", cove.ScopeRun))
	c := newTalk(t, h.world, func(*talk) sdk.Transport {
		return &sdk.StreamableClientTransport{
			Endpoint: "http://" + h.at + "/mcp?all=true", HTTPClient: &http.Client{Transport: withHeader{"Authorization", "Bearer " + secret}},
		}
	})
	if listed := fmt.Sprint(c.call("list_sandboxes", nil)); !strings.Contains(listed, his.ID) || strings.Contains(listed, hers.ID) {
		t.Errorf("his key lists %s", listed)
	}
	for _, tool := range []string{"shell", "kill_sandbox"} {
		result := c.try(tool, map[string]any{"sandbox": hers.ID, "command": "true"})
		if !result.IsError {
			t.Errorf("%s in a sandbox of hers gave %s", tool, textOf(result))
		}
	}
	if _, err := h.client.Get(t.Context(), hers.ID); err != nil {
		t.Errorf("hers is gone: %v", err)
	}
}
