package dial

import (
	"context"
	"io"
	"path"

	"connectrpc.com/connect"

	"github.com/covehq/cove"
	"github.com/covehq/cove/guest/wire/gen/filesystem"
)

// Stat describes a file; a symlink is not followed.
func (c *Client) Stat(ctx context.Context, path, user string) (cove.FileInfo, error) {
	if err := checkText("stat", path, path); err != nil {
		return cove.FileInfo{}, err
	}
	call, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	reply, err := c.files.Stat(call, requestAs(&filesystem.StatRequest{Path: path}, user))
	if err != nil {
		return cove.FileInfo{}, fail(call, "stat", path, err)
	}
	return infoOf(reply.Msg.GetEntry()), nil
}

// ListDir returns what is below a directory, depth levels deep, in one flat list. A depth
// of 0 means 1.
func (c *Client) ListDir(ctx context.Context, path string, depth int, user string) ([]cove.FileInfo, error) {
	if err := checkText("list", path, path); err != nil {
		return nil, err
	}
	call, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	reply, err := c.files.ListDir(call, requestAs(&filesystem.ListDirRequest{Path: path, Depth: uint32(max(depth, 0))}, user))
	if err != nil {
		return nil, fail(call, "list", path, err)
	}
	list := make([]cove.FileInfo, 0, len(reply.Msg.Entries))
	for _, entry := range reply.Msg.Entries {
		list = append(list, infoOf(entry))
	}
	return list, nil
}

// MakeDir makes a directory and its parents. One that exists is cove.Conflict.
func (c *Client) MakeDir(ctx context.Context, path, user string) (cove.FileInfo, error) {
	if err := checkText("make directory", path, path); err != nil {
		return cove.FileInfo{}, err
	}
	call, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	reply, err := c.files.MakeDir(call, requestAs(&filesystem.MakeDirRequest{Path: path}, user))
	if err != nil {
		return cove.FileInfo{}, fail(call, "make directory", path, err)
	}
	return infoOf(reply.Msg.GetEntry()), nil
}

// Move renames a file or directory and makes the parents of its new place.
func (c *Client) Move(ctx context.Context, from, to, user string) (cove.FileInfo, error) {
	if err := checkText("move", from, from, to); err != nil {
		return cove.FileInfo{}, err
	}
	call, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	reply, err := c.files.Move(call, requestAs(&filesystem.MoveRequest{Source: from, Destination: to}, user))
	if err != nil {
		return cove.FileInfo{}, fail(call, "move", from, err)
	}
	return infoOf(reply.Msg.GetEntry()), nil
}

// Remove removes a file, or a directory with everything in it. One that does not exist is
// no error.
func (c *Client) Remove(ctx context.Context, path, user string) error {
	if err := checkText("remove", path, path); err != nil {
		return err
	}
	call, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	_, err := c.files.Remove(call, requestAs(&filesystem.RemoveRequest{Path: path}, user))
	return fail(call, "remove", path, err)
}

// Watch reports what happens in a directory, and with recursive in everything below it,
// from before it returns. ctx governs the whole watch.
func (c *Client) Watch(ctx context.Context, path string, recursive bool, user string) (*Watch, error) {
	if err := checkText("watch", path, path); err != nil {
		return nil, err
	}
	w := &Watch{life: newLifetime(ctx), path: path}
	request := requestAs(&filesystem.WatchDirRequest{Path: path, Recursive: recursive, IncludeEntry: true}, user)
	request.Header().Set("Keepalive-Ping-Interval", "20")
	w.life.await()
	wire, err := c.files.WatchDir(w.life, request)
	w.life.arrived()
	if err != nil {
		defer w.life.close()
		return nil, w.life.fail("watch", path, err)
	}
	w.wire = wire
	first, err := w.receive()
	if err == nil && first.GetStart() == nil {
		err = errNoStart
	}
	if err != nil {
		_ = w.Close()
		return nil, w.life.fail("watch", path, err)
	}
	return w, nil
}

// Watch is a stream of file events. It is used by one goroutine, but Close may be called
// by any.
type Watch struct {
	life *lifetime
	path string
	wire *connect.ServerStreamForClient[filesystem.WatchDirResponse]
}

func (w *Watch) receive() (*filesystem.WatchDirResponse, error) {
	w.life.await()
	more := w.wire.Receive()
	w.life.arrived()
	if more {
		return w.wire.Msg(), nil
	}
	err := w.wire.Err()
	if err == nil {
		err = io.ErrUnexpectedEOF
	}
	return nil, w.life.fail("watch", w.path, err)
}

// Next returns the next event. An error that is cove.Exhausted means that events came
// faster than they were read and some are lost.
func (w *Watch) Next() (cove.FileEvent, error) {
	for {
		message, err := w.receive()
		if err != nil {
			return cove.FileEvent{}, err
		}
		happened := message.GetFilesystem()
		if happened == nil {
			continue
		}
		event := cove.FileEvent{Type: eventTypes[happened.Type], Name: happened.Name}
		if event.Type == "" {
			continue // a kind that a newer agent knows
		}
		if happened.Entry != nil {
			info := infoOf(happened.Entry)
			event.Info = &info
		}
		return event, nil
	}
}

// Close ends the watch. It never waits for the guest.
func (w *Watch) Close() error {
	w.life.close()
	_ = w.wire.Close() // its error is the context's end
	return nil
}

var eventTypes = map[filesystem.EventType]cove.FileEventType{
	filesystem.EventType_EVENT_TYPE_CREATE: cove.FileCreate,
	filesystem.EventType_EVENT_TYPE_WRITE:  cove.FileWrite,
	filesystem.EventType_EVENT_TYPE_REMOVE: cove.FileRemove,
	filesystem.EventType_EVENT_TYPE_RENAME: cove.FileRename,
	filesystem.EventType_EVENT_TYPE_CHMOD:  cove.FileChmod,
}

// infoOf converts what the guest says of a file. The name is taken from the path's end, so
// that a hostile guest can't make them differ.
func infoOf(entry *filesystem.EntryInfo) cove.FileInfo {
	info := cove.FileInfo{
		Name:       entry.GetName(),
		Path:       entry.GetPath(),
		Type:       cove.TypeOther,
		Size:       entry.GetSize(),
		Mode:       entry.GetMode() & 0o7777,
		Owner:      entry.GetOwner(),
		Group:      entry.GetGroup(),
		ModifiedAt: entry.GetModifiedTime().AsTime(),
		Metadata:   entry.GetMetadata(),
	}
	if info.Path != "" {
		info.Name = path.Base(info.Path)
	}
	switch entry.GetType() {
	case filesystem.FileType_FILE_TYPE_FILE:
		info.Type = cove.TypeFile
	case filesystem.FileType_FILE_TYPE_DIRECTORY:
		info.Type = cove.TypeDirectory
	case filesystem.FileType_FILE_TYPE_SYMLINK:
		info.Type = cove.TypeSymlink
	}
	if entry != nil && entry.SymlinkTarget != nil {
		info.Type, info.Target = cove.TypeSymlink, *entry.SymlinkTarget
	}
	return info
}
