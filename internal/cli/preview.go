package cli

import (
	"context"
	"fmt"

	"github.com/covehq/cove"
	"github.com/covehq/cove/client"
)

// previews prints an address of each port for a browser, or revokes those there are.
func (p *program) previews(ctx context.Context, s *client.Sandbox, openings []opening, o portFlags) error {
	if o.revoke {
		for _, opening := range openings {
			if err := s.RevokePreviews(ctx, opening.port); err != nil {
				return err
			}
		}
		return nil
	}
	if err := waitAll(ctx, s, openings, o.wait); err != nil {
		return err
	}
	made := []cove.Preview{}
	for _, opening := range openings {
		preview, err := s.Preview(ctx, opening.port, o.ttl)
		if err != nil {
			return err
		}
		made = append(made, preview)
	}
	if p.json {
		return p.writeJSON(map[string][]cove.Preview{"previews": made})
	}
	for _, preview := range made {
		if _, err := fmt.Fprintln(p.Stdout, preview.URL); err != nil {
			return err
		}
	}
	return nil
}
