package storage

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"nereid/api"
)

// A virtual machine's disks are volumes below its dataset, which is a file system that
// nobody mounts by accident: one snapshot of all below it is of one moment, and one quota
// bounds all.
//
//	zones/INSTANCE         nereid:instance=INSTANCE, with its quota
//	zones/INSTANCE/disk0   a clone of zones/IMAGE@final
//	zones/INSTANCE/disk1   one that began with nothing on it
//	zones/INSTANCE/vars    what its UEFI remembers
//
// volmode=dev, which they inherit, keeps the kernel from looking for partitions on them.

// Volumes of a virtual machine are its disks, and what its firmware and its TPM remember,
// which come and go with the whole of it.
var (
	diskRE   = regexp.MustCompile(`^disk[0-9]{1,4}$`)
	volumeRE = regexp.MustCompile(`^(disk[0-9]{1,4}|vars|tpm)$`)
)

// FoundDisk is a disk of a virtual machine in the pool.
type FoundDisk struct {
	Name    string
	SizeMiB int
}

// machineQuota is the quota of a virtual machine's dataset, in MiB, that its disks together
// may have: a disk that is written from end to end takes more than its size, for the blocks
// that say where its blocks are, and what its firmware remembers is beside them.
func machineQuota(mib int) int { return mib + mib/32 + 64 }

// CloneDisks makes a virtual machine's dataset, with room for disks of quotaMiB MiB together
// and their snapshots, and its disks. Each is sparse; one with an image is a clone of it. It
// may be called again, also while the machine runs: what is there stays, a disk that is
// smaller than it is to be grows, none shrinks, and none that is not named goes. Errors wrap
// fs.ErrNotExist when an image is not in the pool; what has a disk's name and is none, or is
// of another image, is ErrForeign.
func (r *Roots) CloneDisks(ctx context.Context, instance string, disks []api.VMDisk, quotaMiB int) error {
	err := r.named(ctx, instance, func(name string) error {
		if err := r.machine(ctx, instance, name, quotaMiB); err != nil {
			return err
		}
		return r.disks(ctx, name, disks)
	})
	if err != nil {
		return fmt.Errorf("make the disks of instance %s: %w", instance, err)
	}
	return nil
}

// machine makes a virtual machine's dataset. Power that goes between the transactions that
// make it and that set its properties leaves a file system that is bare: it is completed.
func (r *Roots) machine(ctx context.Context, instance, name string, quotaMiB int) error {
	quota, err := quotaOf(machineQuota(quotaMiB))
	if err != nil {
		return err
	}
	props := rootProps(map[string]string{"quota": quota, "volmode": "dev"})
	whole := maps.Clone(props)
	whole[propInstance] = instance
	err = r.zfs().Create(ctx, name, whole)
	if err == nil || !errors.Is(err, fs.ErrExist) {
		return err
	}
	all, err := r.zfs().List(ctx, name, "type", "used", "origin", propInstance, propImage)
	if err != nil {
		return err
	}
	p := all[name]
	switch {
	case p[propInstance] == instance && p["type"] == "filesystem" && p["origin"] == "":
		return nil
	case len(all) > 1 || p["type"] != "filesystem" || p["origin"] != "" || p[propInstance]+p[propImage] != "" || number(p["used"]) > 1<<20:
		return fmt.Errorf("%s: %w", name, ErrForeign)
	}
	if err := r.zfs().Set(ctx, name, props); err != nil {
		return err
	}
	return r.zfs().Set(ctx, name, map[string]string{propInstance: instance})
}

// disks makes and grows the volumes below a dataset.
func (r *Roots) disks(ctx context.Context, name string, disks []api.VMDisk) error {
	list := func() (map[string]map[string]string, error) {
		return r.zfs().List(ctx, name, "type", "volsize", "origin")
	}
	all, err := list()
	if err != nil {
		return err
	}
	made := false
	for _, d := range disks {
		if !volumeRE.MatchString(d.Name) || d.SizeMiB < 1 || d.SizeMiB > 1<<40 {
			return fmt.Errorf("disk %.64q of %d MiB: want disk and a number, vars or tpm, and 1 MiB or more", d.Name, d.SizeMiB)
		}
		volume := name + "/" + d.Name
		if _, ok := all[volume]; ok {
			continue
		}
		made = true
		if d.Image == "" {
			// go-zfs has no -s; a volume that reserves nothing is the same.
			err = r.zfs().CreateVolume(ctx, volume, uint64(d.SizeMiB)<<20, map[string]string{"refreservation": "none"})
		} else {
			var image string
			if image, err = r.dataset(ctx, d.Image); err == nil {
				err = r.zfs().Clone(ctx, image+"@"+finalSnapshot, volume, nil)
			}
		}
		if err != nil {
			return err
		}
	}
	if made {
		if all, err = list(); err != nil {
			return err
		}
	}
	for _, d := range disks {
		volume, origin := name+"/"+d.Name, ""
		if d.Image != "" {
			origin = path.Dir(name) + "/" + d.Image + "@" + finalSnapshot
		}
		p, want := all[volume], int64(d.SizeMiB)<<20
		if p["type"] != "volume" || p["origin"] != origin {
			return fmt.Errorf("%s, a %s of %q: %w", volume, p["type"], p["origin"], ErrForeign)
		}
		if number(p["volsize"]) >= want {
			continue
		}
		if err := r.zfs().Set(ctx, volume, map[string]string{"volsize": strconv.FormatInt(want, 10)}); err != nil {
			return err
		}
	}
	return nil
}

// DropDisk destroys a disk of a virtual machine, and its snapshots. One that is not there is
// no error; one that is open is a *BusyError, and nothing of it is destroyed then.
func (r *Roots) DropDisk(ctx context.Context, instance, disk string) error {
	if !diskRE.MatchString(disk) {
		return fmt.Errorf("destroy disk %.64q of instance %s: it is no disk's name", disk, instance)
	}
	image := ""
	err := r.own(ctx, instance, []string{"origin"}, func(name string, all map[string]map[string]string) error {
		volume, mine := name+"/"+disk, map[string]map[string]string{}
		for n, p := range all {
			if n == volume || strings.HasPrefix(n, volume+"@") {
				mine[n] = p
			}
		}
		if len(mine) == 0 {
			return nil
		}
		if t := mine[volume]["type"]; t != "volume" {
			return fmt.Errorf("%s, a %s: %w", volume, t, ErrForeign)
		}
		image = clonedFrom(mine)
		return r.destroyUnused(ctx, volume, mine)
	})
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("destroy disk %s of instance %s: %w", disk, instance, err)
	}
	if image != "" {
		r.idle(ctx, image)
	}
	return nil
}

// Disk is the device of a disk of a virtual machine: a link that is there some time after
// the disk is (udev(7)). It is empty until the pool was asked for once, as by Look or
// CloneDisks.
func (r *Roots) Disk(instance, disk string) string {
	pool := r.pool.Load()
	if pool == nil || !uuidRE.MatchString(instance) || !diskRE.MatchString(disk) {
		return ""
	}
	return filepath.Join(r.volumes(), *pool, instance, disk)
}

// volumes is where the devices of volumes are, by the names of these.
func (r *Roots) volumes() string {
	if r.Dev == "" {
		return volumeDir
	}
	return filepath.Join(r.Dev, "zvol")
}

const volumeDir = "/dev/zvol"

// clonedFrom is the dataset of the image that one of these is a clone of; empty: none is.
func clonedFrom(all map[string]map[string]string) string {
	for _, p := range all {
		if image, ok := strings.CutSuffix(p["origin"], "@"+finalSnapshot); ok {
			return image
		}
	}
	return ""
}

// diskOf is the disk that a dataset is, where it is one.
func diskOf(name string, p map[string]string) (FoundDisk, bool) {
	if p["type"] != "volume" || !diskRE.MatchString(path.Base(name)) {
		return FoundDisk{}, false
	}
	return FoundDisk{Name: path.Base(name), SizeMiB: int(number(p["volsize"]) >> 20)}, true
}

// byNumber orders disks: disk2 is before disk10.
func byNumber(a, b FoundDisk) int {
	if len(a.Name) != len(b.Name) {
		return len(a.Name) - len(b.Name)
	}
	return strings.Compare(a.Name, b.Name)
}
