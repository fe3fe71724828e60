package storage

import (
	"archive/tar"
	"bytes"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"nereid/api"
)

// TestRootModes: an image whose archive names neither its root nor the folder of its only
// file, as the layers of OCI do not, has both for everybody, whatever the umask is: a
// program of another user than root could not even be found there.
func TestRootModes(t *testing.T) {
	_, r := rootsLab(t)
	before := unix.Umask(0o077) // of nereid-agent.service
	defer unix.Umask(before)
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	if err := w.WriteHeader(&tar.Header{Name: "opt/program", Mode: 0o755, Uid: os.Getuid(), Gid: os.Getgid()}); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := r.ImportImage(t.Context(), specOf(b.Bytes(), api.FormatTar), &b, nil); err != nil {
		t.Fatal(err)
	}
	if err := r.CloneImage(t.Context(), testImage, testInstance, 100); err != nil {
		t.Fatal(err)
	}
	to, err := r.Files(t.Context(), testInstance)
	if err != nil {
		t.Fatal(err)
	}
	defer to.Close()
	for _, name := range []string{".", "opt", "opt/program"} {
		if st, err := to.Stat(name); err != nil || st.Mode().Perm() != 0o755 {
			t.Errorf("%s has %v, %v: want mode 0755", name, st, err)
		}
	}
}
