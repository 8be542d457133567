package conformance

import (
	"context"
	"fmt"

	"github.com/covehq/cove"
	"github.com/covehq/cove/guest/dial"
)

// expectEvent reads events until one is of a kind and a name.
func expectEvent(watch *dial.Watch, kind cove.FileEventType, name string) error {
	for seen := 0; ; seen++ {
		event, err := watch.Next()
		if err != nil {
			return fmt.Errorf("waiting for %s of %s, after %d other events: %w", kind, name, seen, err)
		}
		if event.Type == kind && event.Name == name {
			return nil
		}
	}
}

func filesWatch(ctx context.Context, b *bench) error {
	x, dir, err := b.scratch(ctx)
	if err != nil {
		return err
	}
	ctx, cancel := shortly(ctx)
	defer cancel()
	watch, err := x.guest.Watch(ctx, dir, false, "")
	if err != nil {
		return fmt.Errorf("watch: %w", err)
	}
	defer watch.Close()
	if _, err := x.print(ctx, "cd "+dir+" && echo content > file && mv file other && rm other"); err != nil {
		return err
	}
	for _, want := range []struct {
		kind cove.FileEventType
		name string
	}{{cove.FileCreate, "file"}, {cove.FileWrite, "file"}, {cove.FileRename, "file"}, {cove.FileRemove, "other"}} {
		if err := expectEvent(watch, want.kind, want.name); err != nil {
			return err
		}
	}
	return nil
}

func filesWatchRecursive(ctx context.Context, b *bench) error {
	x, dir, err := b.scratch(ctx)
	if err != nil {
		return err
	}
	ctx, cancel := shortly(ctx)
	defer cancel()
	watch, err := x.guest.Watch(ctx, dir, true, "")
	if err != nil {
		return fmt.Errorf("watch: %w", err)
	}
	defer watch.Close()
	if _, err := x.print(ctx, "mkdir "+dir+"/sub"); err != nil {
		return err
	}
	if err := expectEvent(watch, cove.FileCreate, "sub"); err != nil {
		return err
	}
	if _, err := x.print(ctx, "cd "+dir+"/sub && touch file && rm file"); err != nil {
		return err
	}
	return expectEvent(watch, cove.FileRemove, "sub/file")
}
