package seed

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/diskfs/go-diskfs/backend/file"
	"github.com/diskfs/go-diskfs/filesystem/fat12"
)

// TestImage: the disk has the files as they are, and util-linux finds the label that
// cloud-init looks for; what does not fit is refused.
func TestImage(t *testing.T) {
	files := map[string]string{
		"meta-data": "{}\n", "user-data": strings.Repeat("#cloud-config 0123456789\n", 5000), "network-config": "{\"version\": 1}\n", "vendor-data": "",
	}
	image, err := Image(files)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "seed.img")
	if err := os.WriteFile(path, image, 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("/sbin/blkid", "-p", path).CombinedOutput()
	if err != nil || !bytes.Contains(out, []byte(`LABEL="CIDATA"`)) || !bytes.Contains(out, []byte(`TYPE="vfat"`)) {
		t.Errorf("blkid says %s, %v", out, err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	disk, err := fat12.Read(file.New(f, true), Size, 0, 512)
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range files {
		if got, err := disk.ReadFile("/" + name); err != nil || string(got) != want {
			t.Errorf("%s has %d bytes (%v), want %d", name, len(got), err, len(want))
		}
	}
	if _, err := Image(map[string]string{"user-data": strings.Repeat("x", Size)}); err == nil {
		t.Error("what does not fit is no error")
	}
}
