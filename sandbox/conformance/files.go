package conformance

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path"
	"slices"
	"strings"

	"github.com/covehq/cove"
)

func filesChecks() []check {
	return []check{
		{"round-trip", "A file that is written is read as it was, and a command sees it too.", Needs{}, filesRoundTrip},
		{"empty", "An empty file is a file.", Needs{}, filesEmpty},
		{"replace", "Writing a file replaces it whole.", Needs{}, filesReplace},
		{"owner", "A written file, and the directories made for it, belong to the user.", Needs{Control: cove.ControlUser}, filesOwner},
		{"mode", "A file has the mode that it was written with.", Needs{}, filesMode},
		{"range", "A part of a file is read by its range.", Needs{}, filesRange},
		{"names", "A name is any bytes but NUL and the slash.", Needs{}, filesNames},
		{"list", "A directory is listed as deep as asked.", Needs{}, filesList},
		{"stat", "What a path leads to is described: type, size, mode, link.", Needs{}, filesStat},
		{"make-directory", "A directory is made with its parents; one that exists is a conflict.", Needs{}, filesMakeDir},
		{"move", "A file moves.", Needs{}, filesMove},
		{"remove", "A tree is removed.", Needs{}, filesRemove},
		{"missing", "What does not exist is cove.NotFound.", Needs{}, filesMissing},
		{"permission", "What the user may not do is cove.Forbidden.", Needs{Control: cove.ControlUser}, filesPermission},
		{"special", "Reading what has no end, or never begins, is an error and no wait.", Needs{}, filesSpecial},
		{"watch", "A watched directory tells what happens in it.", Needs{}, filesWatch},
		{"watch-recursive", "A recursive watch tells what happens below, also in directories made later.", Needs{}, filesWatchRecursive},
		{"archive", "A directory leaves as a tar and comes back the same.", Needs{}, filesArchive},
		{"hostile-archive", "An archive can't write outside of where it is unpacked.", Needs{}, filesHostileArchive},
	}
}

// scratch makes a directory for one check in the shared sandbox.
func (b *bench) scratch(ctx context.Context) (*box, string, error) {
	x, err := b.shared(ctx)
	if err != nil {
		return nil, "", err
	}
	dir := "/tmp/" + newID()
	_, err = x.print(ctx, "mkdir "+dir)
	return x, dir, err
}

func (x *box) write(ctx context.Context, path string, data []byte) error {
	if _, err := x.guest.WriteFile(ctx, path, "", bytes.NewReader(data), nil); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}

func (x *box) read(ctx context.Context, path string, header http.Header) ([]byte, int, error) {
	return x.readAs(ctx, path, "", header)
}

func (x *box) readAs(ctx context.Context, path, user string, header http.Header) ([]byte, int, error) {
	response, err := x.guest.ReadFile(ctx, path, user, header)
	if err != nil {
		return nil, 0, fmt.Errorf("read %s: %w", path, err)
	}
	defer response.Body.Close()
	data, err := io.ReadAll(io.LimitReader(response.Body, outputCap))
	return data, response.StatusCode, err
}

func filesRoundTrip(ctx context.Context, b *bench) error {
	x, dir, err := b.scratch(ctx)
	if err != nil {
		return err
	}
	data, name := noise(3<<20), dir+"/data"
	if err := x.write(ctx, name, data); err != nil {
		return err
	}
	got, _, err := x.read(ctx, name, nil)
	if err != nil {
		return err
	}
	hash, err := x.print(ctx, "sha256sum < "+name)
	if err != nil {
		return err
	}
	return errors.Join(
		equal("hash of what was read", sum(got), sum(data)),
		equal("hash by a command", strings.Fields(hash)[0], sum(data)),
	)
}

func filesEmpty(ctx context.Context, b *bench) error {
	x, dir, err := b.scratch(ctx)
	if err != nil {
		return err
	}
	if err := x.write(ctx, dir+"/empty", nil); err != nil {
		return err
	}
	got, status, err := x.read(ctx, dir+"/empty", nil)
	if err != nil {
		return err
	}
	info, err := x.guest.Stat(ctx, dir+"/empty", "")
	if err != nil {
		return err
	}
	return errors.Join(equal("bytes", len(got), 0), equal("status", status, http.StatusOK), equal("size", info.Size, 0))
}

func filesReplace(ctx context.Context, b *bench) error {
	x, dir, err := b.scratch(ctx)
	if err != nil {
		return err
	}
	if err := errors.Join(x.write(ctx, dir+"/file", []byte("a long first content")), x.write(ctx, dir+"/file", []byte("short"))); err != nil {
		return err
	}
	return x.prints(ctx, "content", "cat "+dir+"/file; ls "+dir, "shortfile")
}

func filesOwner(ctx context.Context, b *bench) error {
	x, dir, err := b.scratch(ctx)
	if err != nil {
		return err
	}
	if err := x.write(ctx, dir+"/new/file", nil); err != nil {
		return err
	}
	return x.prints(ctx, "owners of a directory and a file", fmt.Sprintf("stat -c %%U:%%G %s/new %s/new/file | sort -u", dir, dir), "user:user")
}

func filesMode(ctx context.Context, b *bench) error {
	x, dir, err := b.scratch(ctx)
	if err != nil {
		return err
	}
	mode := uint32(0o750)
	info, err := x.guest.WriteFile(ctx, dir+"/script", "", strings.NewReader("#!/bin/sh\necho it runs\n"), &mode)
	if err != nil {
		return err
	}
	if err := x.prints(ctx, "mode", "stat -c %a "+dir+"/script", "750"); err != nil {
		return err
	}
	return errors.Join(equal("path in the reply", info.Path, dir+"/script"), x.prints(ctx, "the script", dir+"/script", "it runs"))
}

func filesRange(ctx context.Context, b *bench) error {
	x, dir, err := b.scratch(ctx)
	if err != nil {
		return err
	}
	data := noise(10000)
	if err := x.write(ctx, dir+"/data", data); err != nil {
		return err
	}
	got, status, err := x.read(ctx, dir+"/data", http.Header{"Range": {"bytes=1000-1999"}})
	if err != nil {
		return err
	}
	return errors.Join(equal("status", status, http.StatusPartialContent), equal("hash of the part", sum(got), sum(data[1000:2000])))
}

func filesNames(ctx context.Context, b *bench) error {
	x, dir, err := b.scratch(ctx)
	if err != nil {
		return err
	}
	for _, name := range []string{"two words", "-n", "new\nline", "ünïcödé", "100%25", "a;b&c", "..hidden", strings.Repeat("x", 255)} {
		if err := x.write(ctx, dir+"/"+name, []byte(name)); err != nil {
			return err
		}
		got, _, err := x.read(ctx, dir+"/"+name, nil)
		if err != nil {
			return err
		}
		if err := equal("content", string(got), name); err != nil {
			return err
		}
	}
	return isCode("write to a name with NUL", x.write(ctx, dir+"/a\x00b", nil), cove.Invalid)
}

func filesList(ctx context.Context, b *bench) error {
	x, dir, err := b.scratch(ctx)
	if err != nil {
		return err
	}
	if _, err := x.print(ctx, fmt.Sprintf("cd %s && mkdir -p a/b && touch top a/middle a/b/bottom", dir)); err != nil {
		return err
	}
	for _, deep := range []struct {
		depth int
		want  string
	}{
		{1, "a top"},
		{2, "a a/b a/middle top"},
		{3, "a a/b a/b/bottom a/middle top"},
	} {
		entries, err := x.guest.ListDir(ctx, dir, deep.depth, "")
		if err != nil {
			return fmt.Errorf("list: %w", err)
		}
		var names []string
		for _, entry := range entries {
			names = append(names, strings.TrimPrefix(entry.Path, dir+"/"))
		}
		slices.Sort(names)
		if err := equal(fmt.Sprintf("names %d deep", deep.depth), strings.Join(names, " "), deep.want); err != nil {
			return err
		}
	}
	return nil
}

func filesStat(ctx context.Context, b *bench) error {
	x, dir, err := b.scratch(ctx)
	if err != nil {
		return err
	}
	if _, err := x.print(ctx, fmt.Sprintf("cd %s && printf 12345 > file && chmod 640 file && ln -s file link && mkdir sub && mkfifo pipe", dir)); err != nil {
		return err
	}
	for _, want := range []struct {
		name string
		kind cove.FileType
	}{
		{"file", cove.TypeFile}, {"link", cove.TypeSymlink}, {"sub", cove.TypeDirectory}, {"pipe", cove.TypeOther},
	} {
		info, err := x.guest.Stat(ctx, path.Join(dir, want.name), "")
		if err != nil {
			return fmt.Errorf("stat %s: %w", want.name, err)
		}
		if err := errors.Join(equal("type of "+want.name, info.Type, want.kind), equal("name", info.Name, want.name)); err != nil {
			return err
		}
		if want.name == "file" {
			err = errors.Join(equal("size", info.Size, 5), equal("mode", info.Mode&0o777, 0o640), equal("owner", info.Owner, "user"))
		}
		if want.name == "link" && !strings.HasSuffix(info.Target, "file") {
			err = fmt.Errorf("target of the link: got %q, want file", info.Target)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func filesMakeDir(ctx context.Context, b *bench) error {
	x, dir, err := b.scratch(ctx)
	if err != nil {
		return err
	}
	info, err := x.guest.MakeDir(ctx, dir+"/a/b/c", "")
	if err != nil {
		return fmt.Errorf("make a directory: %w", err)
	}
	if err := equal("type", info.Type, cove.TypeDirectory); err != nil {
		return err
	}
	_, err = x.guest.MakeDir(ctx, dir+"/a/b/c", "")
	return errors.Join(isCode("make it again", err, cove.Conflict), x.prints(ctx, "the directory", "cd "+dir+"/a/b/c && pwd", dir+"/a/b/c"))
}

func filesMove(ctx context.Context, b *bench) error {
	x, dir, err := b.scratch(ctx)
	if err != nil {
		return err
	}
	if err := x.write(ctx, dir+"/from", []byte("content")); err != nil {
		return err
	}
	if _, err := x.guest.Move(ctx, dir+"/from", dir+"/to", ""); err != nil {
		return fmt.Errorf("move: %w", err)
	}
	return x.prints(ctx, "after the move", fmt.Sprintf("cd %s && ls && cat to", dir), "to\ncontent")
}

func filesRemove(ctx context.Context, b *bench) error {
	x, dir, err := b.scratch(ctx)
	if err != nil {
		return err
	}
	if err := x.write(ctx, dir+"/tree/deep/file", nil); err != nil {
		return err
	}
	if err := x.guest.Remove(ctx, dir+"/tree", ""); err != nil {
		return fmt.Errorf("remove: %w", err)
	}
	return x.prints(ctx, "what is left", "ls "+dir, "")
}

func filesMissing(ctx context.Context, b *bench) error {
	x, dir, err := b.scratch(ctx)
	if err != nil {
		return err
	}
	missing := dir + "/missing"
	_, _, readErr := x.read(ctx, missing, nil)
	_, statErr := x.guest.Stat(ctx, missing, "")
	_, listErr := x.guest.ListDir(ctx, missing, 1, "")
	_, moveErr := x.guest.Move(ctx, missing, dir+"/other", "")
	return errors.Join(
		isCode("read", readErr, cove.NotFound), isCode("stat", statErr, cove.NotFound),
		isCode("list", listErr, cove.NotFound), isCode("move", moveErr, cove.NotFound),
	)
}

func filesPermission(ctx context.Context, b *bench) error {
	x, dir, err := b.scratch(ctx)
	if err != nil {
		return err
	}
	if _, err := x.shAs(ctx, "nobody", fmt.Sprintf("umask 077; echo secret > /tmp/secret-%s; mkdir /tmp/closed-%s", path.Base(dir), path.Base(dir))); err != nil {
		return err
	}
	_, _, readErr := x.read(ctx, "/tmp/secret-"+path.Base(dir), nil)
	_, listErr := x.guest.ListDir(ctx, "/tmp/closed-"+path.Base(dir), 1, "")
	return errors.Join(
		isCode("read another's file", readErr, cove.Forbidden),
		isCode("list another's directory", listErr, cove.Forbidden),
		isCode("write to /etc", x.write(ctx, "/etc/cove-canary", nil), cove.Forbidden),
		isCode("remove /etc/hosts", x.guest.Remove(ctx, "/etc/hosts", ""), cove.Forbidden),
	)
}

func filesSpecial(ctx context.Context, b *bench) error {
	x, dir, err := b.scratch(ctx)
	if err != nil {
		return err
	}
	if _, err := x.print(ctx, "mkfifo "+dir+"/pipe"); err != nil {
		return err
	}
	ctx, cancel := shortly(ctx)
	defer cancel()
	for _, special := range []string{dir + "/pipe", "/dev/zero", "/dev/tty", dir} {
		data, _, err := x.read(ctx, special, nil)
		if ctx.Err() != nil {
			return fmt.Errorf("read %s: got no end of it, want an error", special)
		}
		if err == nil {
			return fmt.Errorf("read %s: got %d bytes, want an error", special, len(data))
		}
	}
	return nil
}
