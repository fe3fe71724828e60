//go:build vm

package storage

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"nereid/api"
)

// These tests run as root in a server with ZFS, beside what else is in its pool,
// which NEREID_TEST_POOL names. What they make has UUIDs of its own, and goes.

const (
	poolTar      = "7e57da7a-0000-4000-8000-000000000001"
	poolZFS      = "7e57da7a-0000-4000-8000-000000000002"
	poolBad      = "7e57da7a-0000-4000-8000-000000000003"
	poolInstance = "7e57da7a-0000-4000-8000-000000000004"
	poolDisk     = "7e57da7a-0000-4000-8000-000000000005"
	poolMachine  = "7e57da7a-0000-4000-8000-000000000006"
)

func testPool(t *testing.T) *Roots {
	t.Helper()
	pool := os.Getenv("NEREID_TEST_POOL")
	if pool == "" {
		t.Fatal("NEREID_TEST_POOL is not set: integration/images runs this in a server")
	}
	r := &Roots{Pool: func(context.Context) (string, error) { return pool, nil }}
	return r
}

// poolACL is the ACL of the image's ping.
const poolACL = "user::rwx,user:1000:r-x,group::r-x,mask::r-x,other::r-x"

// poolStep logs how long a step took, and fails the test when it did.
func poolStep(t *testing.T, what string, fn func() error) {
	t.Helper()
	begun := time.Now()
	err := fn()
	t.Logf("%-40s %6.2f s", what, time.Since(begun).Seconds())
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}

// poolImage is a tar of about 8 MiB that does not shrink, with 300 small files, and a
// program with a capability and an ACL.
func poolImage(t *testing.T) []byte {
	t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	w := tar.NewWriter(z)
	seed := rand.NewChaCha8([32]byte{1})
	put := func(h tar.Header, n int) {
		data := make([]byte, n)
		seed.Read(data)
		h.Size = int64(n)
		h.ModTime = time.Unix(1e9, 0)
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(data); err != nil {
			t.Fatal(err)
		}
	}
	capability := string([]byte{1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0})
	put(tar.Header{Name: "usr/bin/", Mode: 0o755, Typeflag: tar.TypeDir}, 0)
	put(tar.Header{Name: "bin", Linkname: "usr/bin", Typeflag: tar.TypeSymlink}, 0)
	put(tar.Header{Name: "bin/ping", Mode: 0o755, Uid: 65535, PAXRecords: map[string]string{"SCHILY.xattr.security.capability": capability, "SCHILY.acl.access": poolACL}}, 100)
	put(tar.Header{Name: "bin/su", Mode: 0o4755}, 100)
	put(tar.Header{Name: "dev/sda", Typeflag: tar.TypeBlock, Devmajor: 8}, 0)
	put(tar.Header{Name: "etc/link", Linkname: "/etc", Typeflag: tar.TypeSymlink}, 0)
	for i := range 300 {
		put(tar.Header{Name: fmt.Sprintf("usr/share/%d/file", i), Mode: 0o644}, 1000)
	}
	for i := range 6 {
		put(tar.Header{Name: fmt.Sprintf("big%d", i), Mode: 0o644}, 1<<20+4096*i)
	}
	if err := errors.Join(w.Close(), z.Close()); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func poolSpec(uuid, format, compression string, b []byte) api.ImageSpec {
	sum := sha256.Sum256(b)
	return api.ImageSpec{UUID: uuid, Name: "pool test", File: api.ImageFile{
		Format: format, Compression: compression, Size: int64(len(b)), Digest: "sha256:" + hex.EncodeToString(sum[:]),
	}}
}

func zfsGet(t *testing.T, name string, props ...string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "zfs", "get", "-Hp", "-o", "value", strings.Join(props, ","), name).CombinedOutput()
	if err != nil {
		t.Fatalf("zfs get %s: %v %s", name, err, out)
	}
	return strings.Join(strings.Fields(string(out)), " ")
}

// gone fails the test when a dataset of these tests is there.
func gone(t *testing.T, r *Roots, uuids ...string) {
	t.Helper()
	f, err := r.Look(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range f.Images {
		if slices.Contains(uuids, i.UUID) {
			t.Errorf("image %s is there", i.UUID)
		}
	}
	for _, u := range append(f.Partials, f.Foreign...) {
		for _, uuid := range uuids {
			if strings.Contains(u, uuid) {
				t.Errorf("%s is left", u)
			}
		}
	}
}

func TestVMPoolRoots(t *testing.T) {
	r := testPool(t)
	ctx := t.Context()
	pool, _ := r.Pool(ctx)
	t.Cleanup(func() {
		ctx := context.WithoutCancel(ctx)
		f, err := r.Look(ctx)
		err = errors.Join(err, r.DropInstance(ctx, poolInstance), r.DropInstance(ctx, poolMachine), r.Tidy(ctx, f))
		for _, u := range []string{poolTar, poolZFS, poolBad, poolDisk} {
			err = errors.Join(err, r.DropImage(ctx, u))
		}
		if err != nil {
			t.Errorf("clean up: %v", err)
		}
	})
	image := poolImage(t)
	spec := poolSpec(poolTar, api.FormatTar, "gzip", image)
	mounts := func() string {
		b, err := os.ReadFile("/proc/self/mountinfo")
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	before, during := mounts(), ""
	poolStep(t, "import of a tar", func() error {
		return r.ImportImage(ctx, spec, bytes.NewReader(image), func(n int64) {
			if n > int64(len(image)/2) && during == "" {
				during = mounts()
			}
		})
	})
	if during != before {
		t.Error("the import has a mount that others see")
	}
	name := pool + "/" + poolTar
	if got := zfsGet(t, name, "readonly", "mountpoint", "canmount", "xattr", "acltype", "dnodesize", "mounted", propImage); got != "on legacy noauto sa posix auto no "+poolTar && got != "on legacy noauto on posix auto no "+poolTar {
		t.Errorf("properties %s", got)
	}
	poolStep(t, "import again", func() error { return r.ImportImage(ctx, spec, strings.NewReader(""), nil) })

	var stream bytes.Buffer
	poolStep(t, "send", func() error { return ZFS{}.Send(ctx, name+"@final", "", &stream) })
	zfs := poolSpec(poolZFS, api.FormatZFS, "none", stream.Bytes())
	zfs.File.DatasetGUID = zfsGet(t, name+"@final", "guid")
	poolStep(t, "import of a ZFS stream", func() error { return r.ImportImage(ctx, zfs, bytes.NewReader(stream.Bytes()), nil) })
	if got := zfsGet(t, pool+"/"+poolZFS, "readonly", "canmount", "mounted", propImage); got != "on noauto no "+poolZFS {
		t.Errorf("properties %s", got)
	}
	if got := zfsGet(t, pool+"/"+poolZFS+"@final", "guid"); got != zfs.File.DatasetGUID {
		t.Errorf("GUID %s, want %s", got, zfs.File.DatasetGUID)
	}

	poolBadStreams(t, r, name, stream.Bytes())
	poolKilled(t, r, image, stream.Bytes())
	poolInstances(t, r)
	poolSnapshots(t, r)
	poolDisks(t, r)

	for _, u := range []string{poolTar, poolZFS} {
		poolStep(t, "drop image", func() error { return r.DropImage(ctx, u) })
	}
	gone(t, r, poolTar, poolZFS, poolBad)
	if mounts() != before {
		t.Error("a mount is left")
	}
}

// poolBadStreams: real streams that are cut, changed, or of another kind.
func poolBadStreams(t *testing.T, r *Roots, source string, good []byte) {
	t.Helper()
	send := func(args ...string) []byte {
		out, err := exec.CommandContext(t.Context(), "zfs", append([]string{"send"}, args...)...).Output()
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	tree := send("-R", source+"@final")
	changed := bytes.Clone(good)
	changed[len(changed)/2] ^= 1
	wrong := poolSpec(poolBad, api.FormatZFS, "none", good)
	wrong.File.DatasetGUID = "12345"
	for what, c := range map[string]struct {
		spec  api.ImageSpec
		bytes []byte
		want  string
	}{
		"recursive":                  {poolSpec(poolBad, api.FormatZFS, "none", tree), tree, "several datasets"},
		"cut one byte before":        {poolSpec(poolBad, api.FormatZFS, "none", good), good[:len(good)-1], "cut"},
		"cut, and said to be so":     {poolSpec(poolBad, api.FormatZFS, "none", good[:len(good)/2]), good[:len(good)/2], "zfs receive"},
		"changed":                    {poolSpec(poolBad, api.FormatZFS, "none", good), changed, "changed on the way"},
		"changed, and said to be so": {poolSpec(poolBad, api.FormatZFS, "none", changed), changed, "zfs receive"},
		"another GUID":               {wrong, good, "not 12345"},
		"two in one file":            {poolSpec(poolBad, api.FormatZFS, "none", append(bytes.Clone(good), good...)), append(bytes.Clone(good), good...), "behind the end"},
	} {
		err := r.ImportImage(t.Context(), c.spec, bytes.NewReader(c.bytes), nil)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", what, err, c.want)
		}
		gone(t, r, poolBad)
	}
}

// TestVMPoolRootsChild is the agent that TestVMPoolRoots kills: it imports what comes on standard
// input.
func TestVMPoolRootsChild(t *testing.T) {
	r := testPool(t)
	var spec api.ImageSpec
	if _, err := fmt.Sscan(os.Getenv("NEREID_TEST_CHILD"), &spec.UUID, &spec.File.Format, &spec.File.Compression, &spec.File.Size, &spec.File.Digest); err != nil {
		t.Fatal("TestVMPoolRoots starts this one:", err)
	}
	err := r.ImportImage(t.Context(), spec, os.Stdin, func(n int64) {
		if n >= spec.File.Size/2 {
			fmt.Fprintln(os.Stderr, "half")
		}
	})
	t.Error("not killed:", err)
}

// poolKilled: the agent is killed half way through a tar and through a stream.
func poolKilled(t *testing.T, r *Roots, image, stream []byte) {
	t.Helper()
	ctx := t.Context()
	for _, c := range []struct {
		spec  api.ImageSpec
		bytes []byte
	}{{poolSpec(poolBad, api.FormatTar, "gzip", image), image}, {poolSpec(poolBad, api.FormatZFS, "none", stream), stream}} {
		half, dead := io.Pipe()
		cmd := exec.CommandContext(ctx, os.Args[0], "-test.run", "^TestVMPoolRootsChild$")
		f := c.spec.File
		cmd.Env = append(os.Environ(), fmt.Sprintf("NEREID_TEST_CHILD=%s %s %s %d %s", poolBad, f.Format, f.Compression, f.Size, f.Digest))
		in, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		cmd.Stderr = dead
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if _, err := in.Write(c.bytes[:len(c.bytes)/2+1]); err != nil {
			t.Fatal(err)
		}
		if line, err := bufio.NewReader(half).ReadString('\n'); err != nil || line != "half\n" {
			t.Fatalf("the import that is to be killed says %q %v", line, err)
		}
		go io.Copy(io.Discard, half)
		found, err := r.Look(ctx)
		if err != nil || !slices.Contains(found.Partials, poolBad) {
			t.Errorf("half way there is no partial of %s: %+v %v", f.Format, found.Partials, err)
		}
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait()
		dead.Close()
		// What begins next finds the rest, which is busy until the kernel noticed.
		for begun := time.Now(); ; {
			if found, err = r.Look(ctx); err == nil {
				err = r.Tidy(ctx, found)
			}
			if err == nil || time.Since(begun) > time.Minute {
				break
			}
		}
		if err != nil {
			t.Errorf("tidy: %v", err)
		}
		gone(t, r, poolBad)
		poolStep(t, "import of "+f.Format+" after the kill", func() error { return r.ImportImage(ctx, c.spec, bytes.NewReader(c.bytes), nil) })
		poolStep(t, "drop image", func() error { return r.DropImage(ctx, poolBad) })
	}
}

// poolInstances: clone, files, quota, spec, a drop that is refused, and one that is not.
func poolInstances(t *testing.T, r *Roots) {
	t.Helper()
	ctx := t.Context()
	pool, _ := r.Pool(ctx)
	name := pool + "/" + poolInstance
	// Power went before the clone had its properties.
	if out, err := exec.CommandContext(ctx, "zfs", "clone", pool+"/"+poolTar+"@final", name).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for range 2 {
		poolStep(t, "clone", func() error { return r.CloneImage(ctx, poolTar, poolInstance, 16) })
	}
	if err := r.CloneImage(ctx, poolZFS, poolInstance, 16); !errors.Is(err, ErrForeign) {
		t.Errorf("a clone of another image: %v", err)
	}
	if got := zfsGet(t, name, "quota", "origin", "readonly", "mounted", propInstance); got != "16777216 "+pool+"/"+poolTar+"@final off no "+poolInstance {
		t.Errorf("properties %s", got)
	}
	var to *Tree
	poolStep(t, "open its root", func() (err error) { to, err = r.Files(ctx, poolInstance); return err })
	ping, err := to.Stat("bin/ping")
	if err != nil || ping.Sys().(*syscall.Stat_t).Uid != 65535 {
		t.Errorf("ping: %+v %v", ping, err)
	}
	if su, err := to.Stat("/bin/su"); err != nil || su.Mode()&os.ModeSetuid == 0 {
		t.Errorf("su: %+v %v", su, err)
	}
	if got := fmt.Sprintf("%x", xattrOf(t, to, "usr/bin/ping", "security.capability")); got != "0100000200200000000000000000000000000000" {
		t.Errorf("ping has the capabilities %s", got)
	}
	if got := xattrOf(t, to, "usr/bin/ping", "system.posix_acl_access"); len(got) != 44 {
		t.Errorf("ping has the ACL %x", got)
	}
	if _, err := to.Stat("dev/sda"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the device node: %v", err)
	}
	full := make([]byte, 24<<20)
	rand.NewChaCha8([32]byte{2}).Read(full)
	for what, err := range map[string]error{
		"hostname": to.WriteFile("/etc/link/hostname", []byte("zone\n"), Owner{Mode: 0o644}),
		"remove":   to.Remove("big0"),
	} {
		if err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	if err := to.WriteFile("/full", full, Owner{Mode: 0o644}); !errors.Is(err, syscall.EDQUOT) {
		t.Errorf("24 MiB of a quota of 16: %v", err)
	}
	if err := to.Close(); err != nil {
		t.Error(err)
	}
	spec := []byte(strings.Repeat(`{"name":"größe"}`, 4000))
	for _, keep := range [][]byte{full[:40<<10], spec} {
		poolStep(t, "keep spec", func() error { return r.KeepSpec(ctx, poolInstance, keep) })
		var f Found
		poolStep(t, "look", func() (err error) { f, err = r.Look(ctx); return err })
		i := slices.IndexFunc(f.Instances, func(i FoundInstance) bool { return i.UUID == poolInstance })
		if i < 0 || !bytes.Equal(f.Instances[i].Spec, keep) || f.Instances[i].Image != poolTar || f.Instances[i].QuotaMiB != 16 || f.Instances[i].Problem != "" {
			t.Fatalf("found %+v", f.Instances)
		}
	}
	if err := r.KeepSpec(ctx, poolBad, spec); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a spec of nothing: %v", err)
	}
	poolStep(t, "quota", func() error { return r.SetQuota(ctx, poolInstance, 200) })
	poolStep(t, "fill", func() (err error) {
		to, err := r.Files(ctx, poolInstance)
		if err == nil {
			err = errors.Join(to.WriteFile("/full", full, Owner{Mode: 0o644}), to.Close())
		}
		return err
	})
	poolStep(t, "snapshot", func() error { return ZFS{}.Snapshot(ctx, name, "mine", false) })
	var used *UsedError
	if err := r.SetQuota(ctx, poolInstance, 20); !errors.As(err, &used) || used.UsedMiB < 24 {
		t.Errorf("a quota below use: %v", err)
	}

	hold := exec.CommandContext(ctx, "unshare", "-m", "--propagation", "private", "sh", "-c", "mount -t zfs "+name+" /mnt && echo held && exec cat")
	out, err := hold.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	in, err := hold.StdinPipe()
	if err == nil {
		err = hold.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		t.Fatalf("hold: %q %v", line, err)
	}
	var busy *BusyError
	if err := r.DropInstance(ctx, poolInstance); !errors.As(err, &busy) || busy.Holders[0].PID != hold.Process.Pid || busy.Holders[0].Command != "cat" {
		t.Errorf("a drop of what is mounted: %v", err)
	}
	if got := zfsGet(t, name+"@mine", "type"); got != "snapshot" {
		t.Errorf("its snapshot: %s", got)
	}
	in.Close()
	if err := hold.Wait(); err != nil {
		t.Error(err)
	}
	if err := r.DropImage(ctx, poolTar); !errors.Is(err, syscall.EBUSY) {
		t.Errorf("a drop of an image with a clone: %v", err)
	}
	for range 2 {
		poolStep(t, "drop instance", func() error { return r.DropInstance(ctx, poolInstance) })
	}
	f, err := r.Look(ctx)
	if err != nil || slices.ContainsFunc(f.Instances, func(i FoundInstance) bool { return i.UUID == poolInstance }) {
		t.Errorf("found %+v %v", f, err)
	}
	if i := slices.IndexFunc(f.Images, func(i FoundImage) bool { return i.UUID == poolTar }); i < 0 || f.Images[i].Idle.Before(f.Images[i].Created) || len(f.Images[i].Clones) > 0 {
		t.Errorf("images %+v", f.Images)
	}
}
