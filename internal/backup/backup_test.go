package backup

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"silica.dev/silica/internal/blob"
	"silica.dev/silica/internal/store"
	"silica.dev/silica/sandbox"
)

// folder makes a data folder with one template, whose image is sparse, and a
// blob that no row names.
func folder(t *testing.T) (data string, image sandbox.Ref, content []byte) {
	t.Helper()
	data = t.TempDir()
	if err := os.WriteFile(filepath.Join(data, "admin.key"), []byte("msk_a_x\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	blobs, err := blob.NewLocal(filepath.Join(data, "blobs"))
	if err != nil {
		t.Fatal(err)
	}
	defer blobs.Close()
	content = append(make([]byte, 1<<20), "tail"...)
	put := func(content []byte) sandbox.Ref {
		dir, err := blobs.TempDir(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"root.erofs", "other"} {
			if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		ref, err := blobs.Put(t.Context(), dir)
		if err != nil {
			t.Fatal(err)
		}
		return ref
	}
	image = put(content)
	put([]byte("nobody names me"))
	rows, err := store.Open(t.Context(), store.Config{Path: filepath.Join(data, "silica.db"), Node: "node_x"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = rows.Close() }) // a server goes on while we copy
	if err := rows.SaveTemplate(t.Context(), sandbox.Template{Slug: "s", Revision: "r", Image: image}); err != nil {
		t.Fatal(err)
	}
	return data, image, content
}

func TestBackupComesBack(t *testing.T) {
	data, image, content := folder(t)
	file := filepath.Join(t.TempDir(), "b.tar.zst")
	rep, err := Write(t.Context(), Source{Data: data, Version: "v"}, file)
	if err != nil || rep.Artifacts != 1 {
		t.Fatalf("%+v %v", rep, err)
	}
	to := filepath.Join(t.TempDir(), "new", "data")
	rep, err = Restore(t.Context(), file, to)
	if err != nil || rep.Artifacts != 1 || rep.Version != "v" {
		t.Fatalf("%+v %v", rep, err)
	}
	if key, _ := os.ReadFile(filepath.Join(to, "admin.key")); string(key) != "msk_a_x\n" {
		t.Errorf("admin.key: %q", key)
	}
	rows, err := store.Open(t.Context(), store.Config{Path: filepath.Join(to, "silica.db"), Node: "node_x"})
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	if got, err := rows.Template(t.Context(), "s"); err != nil || got.Image != image {
		t.Errorf("template: %+v %v", got, err)
	}
	blobs, err := blob.NewLocal(filepath.Join(to, "blobs"))
	if err != nil {
		t.Fatal(err)
	}
	defer blobs.Close()
	dir, release, err := blobs.Open(t.Context(), image)
	if err != nil {
		t.Fatal(err)
	}
	defer release()
	if got, _ := os.ReadFile(filepath.Join(dir, "root.erofs")); !bytes.Equal(got, content) {
		t.Errorf("the image has another content: %d bytes", len(got))
	}
	if entries, _ := filepath.Glob(filepath.Join(data, ".backup-*")); len(entries) > 0 {
		t.Errorf("left behind: %v", entries)
	}
}

func TestRestoreRefuses(t *testing.T) {
	data, _, _ := folder(t)
	file := filepath.Join(t.TempDir(), "b.tar.zst")
	if _, err := Write(t.Context(), Source{Data: data}, file); err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Restore(t.Context(), file, data); !errors.Is(err, ErrNotEmpty) {
		t.Errorf("over a data folder: %v", err)
	}
	flipped := bytes.Clone(raw)
	flipped[len(flipped)/2] ^= 0xff
	for name, bad := range map[string][]byte{"empty": nil, "half": raw[:len(raw)/2], "flipped": flipped, "other": []byte("not a backup"), "last byte": raw[:len(raw)-1]} {
		parent := t.TempDir()
		file := filepath.Join(parent, "bad")
		if err := os.WriteFile(file, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Restore(t.Context(), file, filepath.Join(parent, "to")); err == nil {
			t.Errorf("%s: restored", name)
		}
		if entries, _ := os.ReadDir(parent); len(entries) != 1 {
			t.Errorf("%s: left %v", name, entries)
		}
	}
}

// A backup that breaks off leaves nothing under its name.
func TestBackupIsWholeOrAbsent(t *testing.T) {
	data, image, _ := folder(t)
	damaged := filepath.Join(data, "blobs", folderOf(image), "root.erofs")
	if err := os.Chmod(damaged, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(damaged, append(make([]byte, 1<<20), "tial"...), 0o600); err != nil {
		t.Fatal(err)
	}
	to := t.TempDir()
	if _, err := Write(t.Context(), Source{Data: data}, filepath.Join(to, "b")); !errors.Is(err, blob.ErrDamaged) {
		t.Errorf("a damaged artifact: %v", err)
	}
	if entries, _ := os.ReadDir(to); len(entries) > 0 {
		t.Errorf("left %v", entries)
	}
}
