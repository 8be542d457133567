package guest_test

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"connectrpc.com/connect"

	"github.com/covehq/cove"
	"github.com/covehq/cove/guest/dial"
	"github.com/covehq/cove/guest/wire/gen/filesystem"
	"github.com/covehq/cove/guest/wire/gen/filesystem/filesystemconnect"
)

// events collects a watch's events as "type name", until one of them is last.
func events(t *testing.T, w *dial.Watch, last string) []string {
	t.Helper()
	var seen []string
	for {
		event, err := w.Next()
		if err != nil {
			t.Fatalf("%v; seen %q", err, seen)
		}
		seen = append(seen, fmt.Sprintf("%s %s", event.Type, event.Name))
		if seen[len(seen)-1] == last {
			return seen
		}
	}
}

func TestWatch(t *testing.T) {
	c, _, _ := newFiles(t)
	for _, test := range []struct {
		name      string
		recursive bool
		before    func(dir string) error // what is there before
		do        func(dir string) error
		want      string // the events, until the one that removes "end"
	}{
		{
			name: "a file's life", do: func(dir string) error {
				return errors.Join(os.WriteFile(dir+"/f", []byte("x"), 0o644), os.Chmod(dir+"/f", 0o600), os.Rename(dir+"/f", dir+"/g"), os.Remove(dir+"/g"))
			},
			want: "create f, write f, chmod f, rename f, create g, remove g",
		},
		{
			name: "a directory below is not watched unless asked for", do: func(dir string) error {
				return errors.Join(os.Mkdir(dir+"/d", 0o755), os.WriteFile(dir+"/d/f", nil, 0o644))
			},
			want: "create d",
		},
		{
			name: "what is in a tree", recursive: true, before: func(dir string) error { return os.MkdirAll(dir+"/a/b", 0o755) },
			do: func(dir string) error {
				return errors.Join(os.WriteFile(dir+"/a/b/f", nil, 0o644), os.Remove(dir+"/a/b/f"), os.Remove(dir+"/a/b"))
			},
			want: "create a/b/f, remove a/b/f, remove a/b",
		},
		{
			name: "directories that are made later", recursive: true, do: func(dir string) error { return os.MkdirAll(dir+"/a/b/c", 0o755) },
			want: "create a, create a/b, create a/b/c",
		},
		{
			name: "a directory that leaves is not watched any more", recursive: true, before: func(dir string) error { return os.MkdirAll(dir+"/a/b", 0o755) },
			do: func(dir string) error {
				elsewhere := dir + "-elsewhere"
				return errors.Join(os.Rename(dir+"/a", elsewhere), os.WriteFile(elsewhere+"/b/f", nil, 0o644), os.WriteFile(elsewhere+"/f", nil, 0o644))
			},
			want: "rename a",
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := t.TempDir()
			if test.before != nil {
				if err := test.before(dir); err != nil {
					t.Fatal(err)
				}
			}
			mustWrite(t, dir+"/end", "")
			w, err := c.Watch(t.Context(), dir, test.recursive, "")
			if err != nil {
				t.Fatal(err)
			}
			defer w.Close()
			if err := test.do(dir); err != nil {
				t.Fatal(err)
			}
			if err := os.Remove(dir + "/end"); err != nil {
				t.Fatal(err)
			}
			got := strings.Join(events(t, w, "remove end"), ", ")
			if got != test.want+", remove end" {
				t.Errorf("got %s\nwant %s", got, test.want)
			}
		})
	}
}

func TestWatchTellsOfUploadsAsWrites(t *testing.T) {
	c, _, dir := newFiles(t)
	w, err := c.Watch(t.Context(), dir, false, "")
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	for _, text := range []string{"first", "second"} {
		if _, err := c.WriteFile(t.Context(), dir+"/file", "", strings.NewReader(text), nil); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Remove(dir + "/file"); err != nil {
		t.Fatal(err)
	}
	// Two writes are one if they come before the first is fetched.
	got := strings.Join(slices.Compact(events(t, w, "remove file")), ", ")
	if want := "create file, write file, remove file"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestWatchHasEntries(t *testing.T) {
	c, _, dir := newFiles(t)
	w, err := c.Watch(t.Context(), dir, false, "")
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	mustWrite(t, dir+"/file", "12345")
	for {
		event, err := w.Next()
		if err != nil {
			t.Fatal(err)
		}
		if event.Info == nil || event.Info.Path != dir+"/file" {
			t.Fatalf("got %+v, want the file", event)
		}
		if event.Type == cove.FileWrite && event.Info.Size == 5 {
			return
		}
	}
}

func TestWatchEndsWithTheDirectory(t *testing.T) {
	c, _, dir := newFiles(t)
	if err := os.Mkdir(dir+"/d", 0o755); err != nil {
		t.Fatal(err)
	}
	w, err := c.Watch(t.Context(), dir+"/d", true, "")
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if err := os.Remove(dir + "/d"); err != nil {
		t.Fatal(err)
	}
	if event, err := w.Next(); !errors.Is(err, cove.NotFound) {
		t.Errorf("got %+v, %v; want not found", event, err)
	}
}

// TestWatchLosesNothingInATreeThatGrows has directories and files made while watches are
// being added. Each must be told of, once.
func TestWatchLosesNothingInATreeThatGrows(t *testing.T) {
	c, _, dir := newFiles(t)
	w, err := c.Watch(t.Context(), dir, true, "")
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	const makers, each = 4, 50
	var making sync.WaitGroup
	for maker := range makers {
		making.Go(func() {
			path := fmt.Sprintf("%s/m%d", dir, maker)
			for i := range each {
				path = fmt.Sprintf("%s/%d", path, i%10)
				if err := errors.Join(os.MkdirAll(path, 0o755), os.WriteFile(path+"/f", nil, 0o644)); err != nil {
					t.Error(err)
					return
				}
				if i%10 == 9 {
					path = fmt.Sprintf("%s/m%d/r%d", dir, maker, i)
				}
			}
		})
	}
	making.Wait()
	mustWrite(t, dir+"/end", "")
	created := map[string]int{}
	files := 0
	for files < makers*each {
		event, err := w.Next()
		if err != nil {
			t.Fatalf("%v after %d files", err, files)
		}
		if event.Type != cove.FileCreate {
			continue
		}
		created[event.Name]++
		if created[event.Name] > 1 {
			t.Errorf("told twice of %s", event.Name)
		}
		if strings.HasSuffix(event.Name, "/f") {
			files++
		}
	}
}

func TestPolledWatchers(t *testing.T) {
	_, d, dir := newFiles(t)
	c := filesystemconnect.NewFilesystemClient(httpClient(d, false), "http://guest", connect.WithProtoJSON())
	ctx := t.Context()
	created, err := c.CreateWatcher(ctx, connect.NewRequest(&filesystem.CreateWatcherRequest{Path: dir}))
	if err != nil {
		t.Fatal(err)
	}
	id := created.Msg.WatcherId
	fetch := func() []*filesystem.FilesystemEvent {
		reply, err := c.GetWatcherEvents(ctx, connect.NewRequest(&filesystem.GetWatcherEventsRequest{WatcherId: id}))
		if err != nil {
			t.Fatal(err)
		}
		return reply.Msg.Events
	}
	if got := fetch(); len(got) != 0 {
		t.Errorf("got %v before anything happened", got)
	}
	mustWrite(t, dir+"/file", "")
	eventually(t, "the event is there", func() bool {
		got := fetch()
		return len(got) > 0 && got[0].Name == "file" && got[0].Type == filesystem.EventType_EVENT_TYPE_CREATE && got[0].Entry == nil
	})
	for range 2 {
		for i := range 9000 { // more than are kept
			path := fmt.Sprintf("%s/%d", dir, i)
			if err := errors.Join(os.WriteFile(path, nil, 0o644), os.Remove(path)); err != nil {
				t.Fatal(err)
			}
		}
		eventually(t, "the loss is told", func() bool {
			_, err := c.GetWatcherEvents(ctx, connect.NewRequest(&filesystem.GetWatcherEventsRequest{WatcherId: id}))
			return connect.CodeOf(err) == connect.CodeResourceExhausted
		})
	}
	if _, err := c.RemoveWatcher(ctx, connect.NewRequest(&filesystem.RemoveWatcherRequest{WatcherId: id})); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if _, err := c.RemoveWatcher(ctx, connect.NewRequest(&filesystem.RemoveWatcherRequest{WatcherId: id})); connect.CodeOf(err) != connect.CodeNotFound {
			t.Errorf("removing again: got %v, want not found", err)
		}
		if _, err := c.GetWatcherEvents(ctx, connect.NewRequest(&filesystem.GetWatcherEventsRequest{WatcherId: id})); connect.CodeOf(err) != connect.CodeNotFound {
			t.Errorf("fetching after the end: got %v, want not found", err)
		}
	}
}

func TestWatchersAreBounded(t *testing.T) {
	_, d, dir := newFiles(t)
	c := filesystemconnect.NewFilesystemClient(httpClient(d, false), "http://guest")
	for range 100 {
		_, err := c.CreateWatcher(t.Context(), connect.NewRequest(&filesystem.CreateWatcherRequest{Path: dir}))
		if connect.CodeOf(err) == connect.CodeResourceExhausted {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	t.Error("got 100 watchers, want an end to it")
}
