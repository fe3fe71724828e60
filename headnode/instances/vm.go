package instances

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"nereid/api"
	"nereid/headnode/store"
)

// What the guest of a new virtual machine finds. It is kept with the machine: a guest is
// not to find another machine after an upgrade.
const (
	vmMachine = "pc-q35-10.0"
	// vmCPU is the level x86-64-v2 (x86-64 psABI, section 3.1.1) with AES, which every server
	// processor since 2011 has, so that a machine may be on any server; QEMU has no model of
	// that name. Where a server has no KVM, QEMU emulates the same.
	vmCPU = "qemu64,svm=off,aes=on,cx16=on,lahf-lm=on,pni=on,popcnt=on,sse4.1=on,sse4.2=on,ssse3=on"
)

// MaxDevices is how many disks and NICs a virtual machine has together: each is in a port
// of its own, so that it can come and go while the machine runs.
const MaxDevices = 16

// diskRemaining asks for a disk of all that the package's quota leaves.
const diskRemaining = "remaining"

// NewVM is the virtual machine that is asked for, whose first disk is a clone of an image,
// and whose disks have quota MiB together. nics are how many NICs it has. All that is wrong
// is one error.
func NewVM(in *api.VMCreate, image api.ImageSpec, quota, nics int) (*api.VM, error) {
	if in == nil {
		in = &api.VMCreate{}
	}
	var faults []error
	bad := func(next, format string, args ...any) { faults = append(faults, invalid(next, format, args...)) }
	vm := &api.VM{Machine: vmMachine, CPU: vmCPU, Firmware: api.FirmwareBIOS, TPM: in.TPM, Source: api.SourceNoCloud, Emulated: in.Emulated}
	switch in.Firmware {
	case "", api.FirmwareBIOS:
	case api.FirmwareUEFI:
		vm.Firmware = api.FirmwareUEFI
	default:
		bad("take one of bios, uefi", "firmware of the instance is %.32q", in.Firmware)
	}
	switch in.Source {
	case "", api.SourceNoCloud:
	case api.SourceSmartOS:
		vm.Source = api.SourceSmartOS
	default:
		bad("take one of nocloud, smartos", "metadata_source of the instance is %.32q", in.Source)
	}
	first := in.DiskMiB
	if first == 0 {
		first = image.SizeMiB
	}
	if first < image.SizeMiB {
		bad("leave it out, or make it larger", "the first disk is to have %d MiB; image %s has %d MiB", in.DiskMiB, image.Name, image.SizeMiB)
	}
	vm.Disks = []api.VMDisk{{Name: diskName(0), SizeMiB: first, Image: image.UUID}}
	if n := 1 + len(in.Disks) + nics; n > MaxDevices {
		bad("ask for fewer", "the instance asks for %s and %s; at most %d are allowed together", api.Plural(1+len(in.Disks), "disk"), api.Plural(nics, "NIC"), MaxDevices)
	}
	more, err := sizes(vm.Disks, in.Disks, quota)
	faults = append(faults, err)
	for i, size := range more {
		vm.Disks = append(vm.Disks, api.VMDisk{Name: diskName(i + 1), SizeMiB: size})
	}
	return vm, api.Faults(faults...)
}

func diskName(n int) string { return "disk" + strconv.Itoa(n) }

// sizes reads the sizes of further disks, each in MiB, of a machine that has some; one may
// be what remains of the quota.
func sizes(have []api.VMDisk, asked []string, quota int) (out []int, err error) {
	var faults []error
	sum, rest := total(have), -1
	for i, text := range asked {
		n, err := strconv.Atoi(text)
		switch {
		case text == diskRemaining && rest < 0:
			rest = i
		case text == diskRemaining:
			faults = append(faults, invalid("give one of them a size", "two disks are to have what remains"))
		case err != nil || n < 1 || n > maxDisk:
			faults = append(faults, invalid("write it as 20480, or remaining", "a disk is to have %.32q: want 1 to %d MiB, or remaining", text, maxDisk))
			n = 0
		}
		out, sum = append(out, n), sum+n
	}
	if rest >= 0 && quota > sum {
		out[rest] = quota - sum
		sum = quota
	} else if rest >= 0 {
		faults = append(faults, invalid("take a larger package, or smaller disks", "nothing remains for a disk: the others have %d MiB, and the package %d MiB", sum, quota))
	}
	if sum > quota {
		faults = append(faults, invalid("take a larger package, or smaller disks", "the disks have %d MiB together; the package has %d MiB", sum, quota))
	}
	return out, api.Faults(faults...)
}

// maxDisk is the size of a disk at the most, in MiB.
const maxDisk = 64 << 20

func total(disks []api.VMDisk) (mib int) {
	for _, d := range disks {
		mib += d.SizeMiB
	}
	return mib
}

// NoVM refuses what only a virtual machine can have, or do, of what is none.
func NoVM(r Record, what string) error {
	return conflict("make a virtual machine: nereid instance create --brand kvm", "instance %s (%s) is of brand %s, and %s", r.Name, r.UUID, r.Brand, what)
}

// AddDisk gives a virtual machine a disk: size is MiB, or what remains of its quota. Its
// name is one that no disk of it had before.
func AddDisk(tx store.Tx, a Asked, r Record, size string) (_ Record, err error) {
	defer named(&err, "give instance %s a disk", r.UUID)
	return r, editVM(tx, a, &r, "add_disk", func(vm *api.VM) error {
		if err := OneMore(r); err != nil {
			return err
		}
		mib, err := sizes(vm.Disks, []string{size}, r.QuotaMiB)
		if err != nil {
			return err
		}
		vm.Disks = append(vm.Disks, api.VMDisk{Name: diskName(next(vm)), SizeMiB: mib[0]})
		return nil
	})
}

// next is a number that no disk of a machine had.
func next(vm *api.VM) int {
	n := 0
	for _, name := range append(names(vm.Disks), vm.Dropped...) {
		if i, err := strconv.Atoi(strings.TrimPrefix(name, "disk")); err == nil {
			n = max(n, i+1)
		}
	}
	return n
}

func names(disks []api.VMDisk) (out []string) {
	for _, d := range disks {
		out = append(out, d.Name)
	}
	return out
}

// GrowDisk makes a disk larger, to a size in MiB. None shrinks: its end would be lost.
func GrowDisk(tx store.Tx, a Asked, r Record, disk string, mib int) (_ Record, err error) {
	defer named(&err, "grow disk %.32s of instance %s", disk, r.UUID)
	return r, editVM(tx, a, &r, "grow_disk", func(vm *api.VM) error {
		i, err := findDisk(r, vm, disk)
		if err != nil {
			return err
		}
		had := vm.Disks[i].SizeMiB
		sum := total(vm.Disks) - had + mib
		switch {
		case mib < had:
			return invalid("give it a larger size", "disk %s has %d MiB; it cannot shrink to %d, for its end would be lost", disk, had, mib)
		case mib > maxDisk || sum > r.QuotaMiB:
			return invalid("give it a smaller size", "the disks would have %d MiB together; the instance's quota is %d MiB", sum, r.QuotaMiB)
		}
		vm.Disks[i].SizeMiB = mib
		return nil
	})
}

// RemoveDisk takes a disk from a virtual machine, and what is on it with it. The machine
// boots from the first one, which stays.
func RemoveDisk(tx store.Tx, a Asked, r Record, disk string) (_ Record, err error) {
	defer named(&err, "take disk %.32s from instance %s", disk, r.UUID)
	return r, editVM(tx, a, &r, "remove_disk", func(vm *api.VM) error {
		i, err := findDisk(r, vm, disk)
		if err != nil {
			return err
		}
		if i == 0 {
			return conflict("delete the instance, if that is meant", "instance %s boots from disk %s", r.Name, disk)
		}
		vm.Disks = slices.Delete(slices.Clone(vm.Disks), i, i+1)
		vm.Dropped = append(slices.Clone(vm.Dropped), disk)
		return nil
	})
}

// OneMore says that a virtual machine takes neither a disk nor a NIC any more. A disk's
// number is that of its port, and no disk gets that of one before it: a server that was away
// would take the new one for it.
func OneMore(r Record) error {
	if r.VM == nil || next(r.VM)+len(r.NICs) < MaxDevices {
		return nil
	}
	text := fmt.Sprintf("instance %s has had %s and has %s, and no more are allowed together", r.Name, api.Plural(next(r.VM), "disk"), api.Plural(len(r.NICs), "NIC"))
	return conflict("make another instance", "%s", text)
}

// findDisk is the place of a disk among those of a machine.
func findDisk(r Record, vm *api.VM, disk string) (int, error) {
	i := slices.IndexFunc(vm.Disks, func(d api.VMDisk) bool { return d.Name == disk })
	if i < 0 {
		return i, refuse(404, api.CodeNotFound, "name one of its own", "instance %s has no disk %.32q; it has %s", r.Name, disk, strings.Join(names(vm.Disks), ", "))
	}
	return i, nil
}

// editVM changes the machine of an instance, in its record and in what is wanted of it.
func editVM(tx store.Tx, a Asked, r *Record, action string, fn func(*api.VM) error) error {
	if r.VM == nil {
		return NoVM(*r, "has no disks")
	}
	return edit(tx, r, func(r *Record, spec *api.InstanceSpec) error {
		vm := *r.VM
		vm.Disks = slices.Clone(vm.Disks)
		if err := fn(&vm); err != nil {
			return err
		}
		r.VM, spec.VM = &vm, &vm
		return did(tx, a.Now, *r, a.By, action)
	})
}

// Enterable refuses a session of a kind that an instance cannot have.
func Enterable(i api.Instance, kind string) error {
	switch kind {
	case api.SessionScreen, api.SessionScreenshot, api.SessionNMI:
		if i.Brand != api.BrandKVM {
			return conflict("use its console, or a shell in it: nereid instance shell "+i.UUID, "instance %s is a zone, which has no screen and no processor to interrupt: %s is for virtual machines", i.Name, kind)
		}
	}
	return nil
}
