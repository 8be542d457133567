package conformance

import (
	"context"
	"fmt"

	"github.com/covehq/cove/guest/dial"
)

func isolationNeighbourFiles(ctx context.Context, b *bench) error {
	x, err := b.shared(ctx)
	if err != nil {
		return err
	}
	neighbour, err := b.create(ctx)
	if err != nil {
		return err
	}
	name := newID()
	if _, err := x.print(ctx, fmt.Sprintf("for d in /tmp /var/tmp /dev/shm /workspace $HOME; do echo > $d/%s; done", name)); err != nil {
		return err
	}
	return neighbour.prints(ctx, "files of another sandbox", fmt.Sprintf("ls /tmp/%[1]s /var/tmp/%[1]s /dev/shm/%[1]s /workspace/%[1]s $HOME/%[1]s 2>/dev/null; true", name), "")
}

func isolationNeighbourProcesses(ctx context.Context, b *bench) error {
	x, err := b.shared(ctx)
	if err != nil {
		return err
	}
	neighbour, err := b.create(ctx)
	if err != nil {
		return err
	}
	t, err := x.grow(ctx, shapes[0], dial.Start{KillOnDisconnect: true})
	if err != nil {
		return err
	}
	defer t.fell(ctx)
	if err := t.grown(ctx); err != nil {
		return err
	}
	return neighbour.unseen(ctx, t.mark)
}
