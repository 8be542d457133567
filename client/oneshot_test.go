package client

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/covehq/cove"
)

// packed is a gzipped tar of headers, each file with the content "new".
func packed(t *testing.T, headers ...tar.Header) []byte {
	t.Helper()
	var b bytes.Buffer
	zip := gzip.NewWriter(&b)
	w := tar.NewWriter(zip)
	for _, h := range headers {
		if h.Typeflag == tar.TypeReg {
			h.Size, h.Mode = 3, 0o644
		}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if h.Typeflag == tar.TypeReg {
			if _, err := io.WriteString(w, "new"); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := zip.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestT57WhatARunChangedTouchesNothingOutside(t *testing.T) {
	for name, result := range map[string]cove.RunResult{
		"a deletion that leads up":            {Changes: []cove.Change{{Kind: cove.ChangeDeleted, Path: "../outside"}}},
		"an absolute deletion":                {Changes: []cove.Change{{Kind: cove.ChangeDeleted, Path: "/OUTSIDE"}}},
		"a deletion through a symlink":        {Changes: []cove.Change{{Kind: cove.ChangeDeleted, Path: "up/outside"}}},
		"a renaming of what is outside":       {Changes: []cove.Change{{Kind: cove.ChangeRenamed, From: "../outside", Path: "in"}}},
		"a file that leads up":                {Archive: packed(t, tar.Header{Name: "../outside", Typeflag: tar.TypeReg})},
		"a file through a symlink":            {Archive: packed(t, tar.Header{Name: "up/outside", Typeflag: tar.TypeReg})},
		"a file through a symlink that comes": {Archive: packed(t, tar.Header{Name: "l", Linkname: "..", Typeflag: tar.TypeSymlink}, tar.Header{Name: "l/outside", Typeflag: tar.TypeReg})},
		"a hard link to what is outside":      {Archive: packed(t, tar.Header{Name: "h", Linkname: "../outside", Typeflag: tar.TypeLink}, tar.Header{Name: "h", Typeflag: tar.TypeReg})},
	} {
		t.Run(name, func(t *testing.T) {
			base := t.TempDir()
			dir, outside := filepath.Join(base, "dir"), filepath.Join(base, "outside")
			if err := os.Mkdir(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(outside, []byte("kept"), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := os.Symlink("..", filepath.Join(dir, "up")); err != nil {
				t.Fatal(err)
			}
			for i, change := range result.Changes {
				if change.Path == "/OUTSIDE" {
					result.Changes[i].Path = outside
				}
			}
			err := Apply(result, dir)
			if got, readErr := os.ReadFile(outside); string(got) != "kept" {
				t.Errorf("what is outside is %q, %v", got, readErr)
			}
			if err == nil {
				t.Error("nothing was said about it")
			}
		})
	}
}

func TestApplyingTwiceChangesNothingMore(t *testing.T) {
	dir := t.TempDir()
	for name, content := range map[string]string{"gone": "x", "full/mine": "x", "full/gone": "x"} {
		at := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(at, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	result := cove.RunResult{
		Changes: []cove.Change{
			{Kind: cove.ChangeAdded, Path: "d", Type: cove.TypeDirectory}, {Kind: cove.ChangeAdded, Path: "d/new", Type: cove.TypeFile},
			{Kind: cove.ChangeDeleted, Path: "full", Type: cove.TypeDirectory}, {Kind: cove.ChangeDeleted, Path: "full/gone", Type: cove.TypeFile},
			{Kind: cove.ChangeDeleted, Path: "gone", Type: cove.TypeFile},
		},
		Archive: packed(t, tar.Header{Name: "d/", Typeflag: tar.TypeDir, Mode: 0o755}, tar.Header{Name: "d/new", Typeflag: tar.TypeReg}),
	}
	for range 2 {
		if err := Apply(result, dir); err != nil {
			t.Fatal(err)
		}
		for name, there := range map[string]bool{"d/new": true, "gone": false, "full/gone": false, "full/mine": true} {
			if _, err := os.Lstat(filepath.Join(dir, name)); (err == nil) != there {
				t.Errorf("%s: %v, want it there: %v", name, err, there)
			}
		}
	}
}

func TestADirectoryIsRemovedAfterWhatWasMovedOutOfIt(t *testing.T) {
	for _, to := range []string{"0", "z"} { // which sort before and after it
		dir := t.TempDir()
		if err := os.Mkdir(filepath.Join(dir, "moved"), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "moved", "x"), []byte("new"), 0o600); err != nil {
			t.Fatal(err)
		}
		result := cove.RunResult{
			Changes: []cove.Change{
				{Kind: cove.ChangeRenamed, From: "moved/x", Path: to, Type: cove.TypeFile},
				{Kind: cove.ChangeDeleted, Path: "moved", Type: cove.TypeDirectory},
			},
			Archive: packed(t, tar.Header{Name: to, Typeflag: tar.TypeReg}),
		}
		if err := Apply(result, dir); err != nil {
			t.Fatal(err)
		}
		entries, err := os.ReadDir(dir)
		if err != nil || len(entries) != 1 || entries[0].Name() != to {
			t.Errorf("moved to %s: there are %v, %v", to, entries, err)
		}
	}
}
