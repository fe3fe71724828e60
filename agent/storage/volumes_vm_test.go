//go:build vm

package storage

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"

	"nereid/api"
)

// poolDisks: the bytes of a disk become an image, and that a machine's disk, which grows
// and is dropped; a disk that is open stays.
func poolDisks(t *testing.T, r *Roots) {
	t.Helper()
	ctx := t.Context()
	pool, _ := r.Pool(ctx)
	image, name := pool+"/"+poolDisk, pool+"/"+poolMachine
	disk := testDisk()
	spec := diskSpec(disk)
	spec.UUID = poolDisk
	poolStep(t, "import of a disk", func() error { return r.ImportImage(ctx, spec, bytes.NewReader(disk), nil) })
	if got := zfsGet(t, image, "volsize", "volmode", "readonly", "refreservation", propImage); got != "3162112 none on none "+poolDisk && got != "3162112 none on 0 "+poolDisk {
		t.Errorf("properties %s", got)
	}
	changed := bytes.Clone(disk)
	changed[0] ^= 1
	bad := spec
	bad.UUID = poolBad
	if err := r.ImportImage(ctx, bad, bytes.NewReader(changed), nil); err == nil || !strings.Contains(err.Error(), "changed on the way") {
		t.Errorf("a changed disk: %v", err)
	}
	gone(t, r, poolBad)
	var stream bytes.Buffer
	poolStep(t, "send the volume", func() error { return ZFS{}.Send(ctx, image+"@final", "", &stream) })
	zvol := poolSpec(poolBad, api.FormatZFS, "none", stream.Bytes())
	if err := r.ImportImage(ctx, zvol, bytes.NewReader(stream.Bytes()), nil); err == nil || !strings.Contains(err.Error(), "of a volume") {
		t.Errorf("a volume as a zone's image: %v", err)
	}
	zvol.Type, zvol.SizeMiB = api.ImageZvol, spec.SizeMiB
	poolStep(t, "import of the volume's stream", func() error { return r.ImportImage(ctx, zvol, bytes.NewReader(stream.Bytes()), nil) })
	if got := zfsGet(t, pool+"/"+poolBad, "volsize", "volmode", "readonly", "type"); got != "3162112 none on volume" {
		t.Errorf("properties of what was received: %s", got)
	}
	poolStep(t, "drop image", func() error { return r.DropImage(ctx, poolBad) })
	file := qcow2Of(disk)
	packed := poolSpec(poolBad, api.FormatQCOW2, "none", file)
	packed.Type, packed.SizeMiB = api.ImageZvol, spec.SizeMiB
	poolStep(t, "import of a qcow2 file", func() error { return r.ImportImage(ctx, packed, bytes.NewReader(file), nil) })
	if got := zfsGet(t, pool+"/"+poolBad, "volsize", "volmode", "readonly", "type", propImage); got != "3162112 none on volume "+poolBad {
		t.Errorf("properties of the qcow2 file's: %s", got)
	}
	again := []api.VMDisk{{Name: "disk0", SizeMiB: 4, Image: poolBad}}
	poolStep(t, "a disk of it", func() error { return r.CloneDisks(ctx, poolMachine, again, 100) })
	sameDisk(t, name+"/disk0", disk, 4<<20)
	poolStep(t, "drop both", func() error { return errors.Join(r.DropInstance(ctx, poolMachine), r.DropImage(ctx, poolBad)) })
	gone(t, r, poolBad)

	// Power went before the dataset had its properties.
	if out, err := exec.CommandContext(ctx, "zfs", "create", name).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	disks := []api.VMDisk{{Name: "disk0", SizeMiB: 8, Image: poolDisk}, {Name: "disk1", SizeMiB: 64}}
	for range 2 {
		poolStep(t, "disks", func() error { return r.CloneDisks(ctx, poolMachine, disks, 100) })
	}
	if got := zfsGet(t, name, "quota", "mountpoint", "canmount", "mounted", propInstance); got != "175112192 legacy noauto no "+poolMachine {
		t.Errorf("properties %s", got)
	}
	if got := zfsGet(t, name+"/disk0", "volsize", "volmode", "origin"); got != "8388608 dev "+image+"@final" {
		t.Errorf("properties of disk0 %s", got)
	}
	if got := zfsGet(t, name+"/disk1", "volsize", "volmode", "refreservation"); got != "67108864 dev none" && got != "67108864 dev 0" {
		t.Errorf("properties of disk1 %s", got)
	}
	sameDisk(t, name+"/disk0", disk, 8<<20)
	f, err := ZFS{}.OpenVolume(ctx, name+"/disk0")
	if err != nil {
		t.Fatal(err)
	}
	if link, err := os.Readlink(r.Disk(poolMachine, "disk0")); err != nil || !strings.Contains(link, "zd") {
		t.Errorf("disk0 is at %s, which leads to %q, %v", r.Disk(poolMachine, "disk0"), link, err)
	}
	if _, err := (ZFS{}).OpenVolume(ctx, name+"/disk0"); !errors.Is(err, syscall.EBUSY) {
		t.Errorf("opened twice: %v", err)
	}
	disks[0].SizeMiB = 16
	poolStep(t, "grow what is open", func() error { return r.CloneDisks(ctx, poolMachine, disks, 100) })
	if n, err := f.Seek(0, 2); err != nil || n != 16<<20 {
		t.Errorf("its device has %d bytes, %v", n, err)
	}
	if err := (ZFS{}).Snapshot(ctx, name, "mine", true); err != nil {
		t.Fatal(err)
	}
	var busy *BusyError
	if err := r.DropInstance(ctx, poolMachine); !errors.As(err, &busy) || busy.Holders[0].PID != os.Getpid() || busy.Holders[0].Dataset != name+"/disk0" {
		t.Errorf("a drop of what is open: %v", err)
	}
	if got := zfsGet(t, name+"/disk1@mine", "type"); got != "snapshot" {
		t.Errorf("its snapshot: %s", got)
	}
	found, err := r.Look(ctx)
	i := slices.IndexFunc(found.Instances, func(i FoundInstance) bool { return i.UUID == poolMachine })
	if err != nil || i < 0 || found.Instances[i].Image != poolDisk || !slices.Equal(found.Instances[i].Disks, []FoundDisk{{"disk0", 16}, {"disk1", 64}}) {
		t.Errorf("found %+v, %v", found.Instances, err)
	}
	if err := f.Close(); err != nil {
		t.Error(err)
	}
	machineSnapshots(t, r, name, disks)
	poolStep(t, "drop a disk", func() error { return r.DropDisk(ctx, poolMachine, "disk1") })
	for range 2 {
		poolStep(t, "drop the machine", func() error { return r.DropInstance(ctx, poolMachine) })
	}
	poolStep(t, "drop its image", func() error { return r.DropImage(ctx, poolDisk) })
}

// sameDisk fails the test when a volume of size bytes is not disk, and zeros behind it.
func sameDisk(t *testing.T, name string, disk []byte, size int) {
	t.Helper()
	f, err := ZFS{}.OpenVolume(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	got := make([]byte, size)
	if _, err := f.ReadAt(got, 0); err != nil || !bytes.HasPrefix(got, disk) || !zeros(got[len(disk):]) {
		t.Errorf("%s is not what it was made of, and zeros behind it: %v", name, err)
	}
	if n, err := f.Seek(0, io.SeekEnd); err != nil || n != int64(size) {
		t.Errorf("%s has %d bytes, want %d, %v", name, n, size, err)
	}
}

// qcow2Of is a qcow2 file of version 2 with all clusters of a disk.
func qcow2Of(disk []byte) []byte {
	const bits, cluster = 16, 1 << 16
	clusters := (len(disk) + cluster - 1) / cluster
	b := make([]byte, (3+clusters)*cluster)
	be := binary.BigEndian
	copy(b, "QFI\xfb")
	be.PutUint32(b[4:], 2)
	be.PutUint32(b[20:], bits)
	be.PutUint64(b[24:], uint64(len(disk)))
	be.PutUint32(b[36:], 1)
	be.PutUint64(b[40:], cluster)
	be.PutUint64(b[cluster:], 2*cluster)
	for n := range clusters {
		be.PutUint64(b[2*cluster+8*n:], uint64(3+n)*cluster)
	}
	copy(b[3*cluster:], disk)
	return b
}
