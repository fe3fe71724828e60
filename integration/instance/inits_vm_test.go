//go:build vm

package instance

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"nereid/api"
	"nereid/integration/lab/labtest"
)

// TestVMInits: a zone of Debian with systemd, and one of an OCI image whose entrypoint
// has a user, an environment, a directory and a stop signal, begin with their names and
// addresses, reboot from inside and stop as they want to be stopped, before they are
// killed. BusyBox's init is TestVMZones' subject.
func TestVMInits(t *testing.T) {
	o := operator{labtest.Standard(t)}
	m := o.Machines()[0]
	o.nereid("package", "create", "roomy", "--memory-mib", "256", "--vcpus", "2", "--quota-mib", "1024")
	o.Undo("package", "disable", "roomy")
	o.network()
	start := func(name string, imported ...string) zone {
		t.Helper()
		var img api.Image
		o.read(&img, append([]string{"image", "import"}, imported...)...)
		o.Undo("image", "delete", img.UUID, "--yes")
		o.nereid("instance", "create", name, "--owner", alice, "--image", img.UUID, "--package", "roomy", "--network", "web", "--on", m.Spec.Name, "--wait")
		o.Undo("instance", "delete", name, "--yes", "--wait")
		return zone{o.instance(name), m}
	}
	// stop stops a zone, which was not killed for it.
	stop := func(t *testing.T, z zone) {
		t.Helper()
		o.nereid("instance", "stop", z.Name, "--wait")
		if got := o.instance(z.Name); got.State != api.InstanceStopped {
			t.Errorf("%s is %s, %s", z.Name, got.State, got.Reason)
		}
		if out := o.Shell(m, "journalctl -q --no-pager -u nereid-zone-"+z.UUID+" | grep -E 'timed out|SIGKILL' || true"); out != "" {
			t.Errorf("it was killed: %s", out)
		}
	}

	t.Run("systemd", func(t *testing.T) {
		z := start("deb", filepath.Join(labtest.Images(o.T), "debian"))
		up := func() {
			t.Helper()
			if out := o.inside(z, "until [ -S /run/systemd/private ]; do sleep 0.2; done; systemctl is-system-running --wait; systemctl --failed --plain --no-legend; true"); strings.TrimSpace(out) != "running" {
				t.Errorf("systemd is %s", out)
			}
			if out := o.inside(z, "hostname; cat /proc/1/comm; ip -4 -o addr show net0"); !strings.HasPrefix(out, "deb\nsystemd\n") || !strings.Contains(out, ip(z)) {
				t.Errorf("inside are %s", out)
			}
		}
		up()
		before := leader(o, z)
		o.undo("instance", "exec", z.Name, "--", "systemctl", "reboot", "--no-block")
		o.until(m, fmt.Sprintf(`l=$(machinectl show --value -p Leader %s) && [ "$l" != %s ]`, z.UUID, before))
		up()
		stop(t, z)
	})
	t.Run("an OCI image", func(t *testing.T) {
		z := start("app", "oci-layout:"+ociLayout(t), "--name", "app")
		out := o.inside(z, "until [ -e /srv/up ]; do sleep 0.1; done; cat /srv/up")
		if want := "uid=1000(app) gid=1000(app) groups=1000(app),1001(more)\n/srv\nbonjour\napp\n"; out != want {
			t.Errorf("its program says\n%s\nwant\n%s", out, want)
		}
		if out := o.inside(z, "ip -4 -o addr show net0"); !strings.Contains(out, ip(z)) {
			t.Errorf("it has the addresses %s", out)
		}
		stop(t, z)
		o.nereid("instance", "start", z.Name, "--wait")
		if out := o.inside(z, "cat /srv/down"); out != "by SIGUSR1\n" {
			t.Errorf("its program was stopped %q", out)
		}
	})
}

// ociLayout is an OCI image layout of the tiny image and a program of its own.
func ociLayout(t *testing.T) string {
	t.Helper()
	tiny, err := exec.CommandContext(t.Context(), "zstd", "-dcq", filepath.Join(labtest.Images(t), "tiny", "image.tar.zst")).Output()
	if err != nil {
		t.Fatal(err)
	}
	var own bytes.Buffer
	w := tar.NewWriter(&own)
	put := func(name, text string, mode, uid int) {
		h := &tar.Header{Name: name, Mode: int64(mode), Uid: uid, Gid: uid, Size: int64(len(text)), Typeflag: tar.TypeReg}
		if strings.HasSuffix(name, "/") {
			h.Typeflag = tar.TypeDir
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	put("srv/", "", 0o755, 1000)
	put("etc/passwd", "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1000::/srv:/bin/sh\n", 0o644, 0)
	put("etc/group", "root:x:0:\napp:x:1000:\nmore:x:1001:app\n", 0o644, 0)
	put("srv/program", `#!/bin/sh
trap 'echo by SIGUSR1 > /srv/down; exit 0' USR1
{ id; pwd; echo $GREETING; hostname; } > up.next; mv up.next up
while :; do sleep 86400 & wait; done
`, 0o755, 1000)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	img := empty.Image
	for _, b := range [][]byte{tiny, own.Bytes()} {
		layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b)), nil })
		if err == nil {
			img, err = mutate.AppendLayers(img, layer)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	file, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	file = file.DeepCopy()
	file.OS, file.Architecture = "linux", "amd64"
	file.Config = v1.Config{Entrypoint: []string{"./program"}, User: "app", WorkingDir: "/srv", Env: []string{"GREETING=bonjour"}, StopSignal: "SIGUSR1"}
	if img, err = mutate.ConfigFile(img, file); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "oci")
	p, err := layout.Write(dir, empty.Index)
	if err == nil {
		err = p.AppendImage(img)
	}
	if err != nil {
		t.Fatal(err)
	}
	return dir
}
