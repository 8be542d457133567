package sandbox

import (
	"context"
	"maps"
	"strconv"

	"github.com/covehq/cove"
)

// PreviewEpoch returns how often the previews of a port were revoked. What was given out
// in an earlier epoch is worth nothing.
func (s *Sandbox) PreviewEpoch(port int) (uint64, error) {
	r := s.snapshot()
	if err := alive(r, "preview"); err != nil {
		return 0, err
	}
	return r.Previews[port], nil
}

// RevokePreviews begins the next epoch of a port's previews, for good: also for the next
// daemon.
func (s *Sandbox) RevokePreviews(ctx context.Context, port int) error {
	const op = "revoke previews"
	if port < 1 || port > 65535 {
		return cove.Errorf(cove.Invalid, op, strconv.Itoa(port), "there is no such port", "choose one from 1 to 65535")
	}
	s.saving.Lock()
	defer s.saving.Unlock()
	changed := s.snapshot()
	if err := alive(changed, op); err != nil {
		return err
	}
	previews := maps.Clone(changed.Previews)
	if previews == nil {
		previews = make(map[int]uint64)
	}
	previews[port]++
	changed.Previews = previews
	if err := s.host.store.Put(ctx, changed); err != nil {
		return s.host.wrap(err, op, s.id)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.record.Previews = previews
	return nil
}
