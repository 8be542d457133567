package conformance

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"io"
	"time"
)

func filesArchive(ctx context.Context, b *bench) error {
	x, dir, err := b.scratch(ctx)
	if err != nil {
		return err
	}
	if err := x.write(ctx, dir+"/from/sub/data", noise(200000)); err != nil {
		return err
	}
	if _, err := x.print(ctx, "cd "+dir+"/from && ln -s sub/data link && printf x > script && chmod 751 script && mkdir empty ../to"); err != nil {
		return err
	}
	archive, err := x.guest.Archive(ctx, dir+"/from", "")
	if err != nil {
		return fmt.Errorf("archive: %w", err)
	}
	defer archive.Close()
	packed, err := io.ReadAll(io.LimitReader(archive, outputCap))
	if err != nil {
		return fmt.Errorf("archive: %w", err)
	}
	if err := x.guest.Extract(ctx, dir+"/to", "", bytes.NewReader(packed)); err != nil {
		return fmt.Errorf("extract: %w", err)
	}
	const fingerprint = "for f in * */*; do stat -c '%n %a %F' $f; done; readlink link; sha256sum sub/data"
	want, err := x.print(ctx, "cd "+dir+"/from && "+fingerprint)
	if err != nil {
		return err
	}
	return x.prints(ctx, "what came back", "cd "+dir+"/to && "+fingerprint, want)
}

// filesHostileArchive unpacks entries that try to leave: a name with dots, an absolute
// name, and a file behind a symlink. Each is either refused or kept inside.
func filesHostileArchive(ctx context.Context, b *bench) error {
	x, dir, err := b.scratch(ctx)
	if err != nil {
		return err
	}
	if _, err := x.print(ctx, "mkdir "+dir+"/into "+dir+"/outside"); err != nil {
		return err
	}
	for _, entries := range [][]tar.Header{
		{{Name: "../outside/dots", Typeflag: tar.TypeReg}},
		{{Name: dir + "/outside/absolute", Typeflag: tar.TypeReg}},
		{{Name: "link", Typeflag: tar.TypeSymlink, Linkname: "../outside"}, {Name: "link/behind", Typeflag: tar.TypeReg}},
		{{Name: "hard", Typeflag: tar.TypeLink, Linkname: "../../../etc/passwd"}},
	} {
		var packed bytes.Buffer
		writer := tar.NewWriter(&packed)
		for _, header := range entries {
			header.Mode, header.ModTime = 0o644, time.Unix(0, 0)
			if err := writer.WriteHeader(&header); err != nil {
				return err
			}
		}
		if err := writer.Close(); err != nil {
			return err
		}
		_ = x.guest.Extract(ctx, dir+"/into", "", &packed) // refusing is as good as mending
		if err := x.prints(ctx, "outside, after "+entries[len(entries)-1].Name, "ls "+dir+"/outside", ""); err != nil {
			return err
		}
	}
	return nil
}
