package machine

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"nereid/agent/machine/mdata"
	"nereid/agent/machine/vm"
	"nereid/agent/machine/zone"
	"nereid/api"
)

// Disks has the volumes of virtual machines. Its methods may be called again after a
// failure, and for different instances side by side.
type Disks interface {
	// CloneDisks makes an instance's dataset with its quota, and its volumes below it:
	// clones of their images, and empty ones. What is there is left, its quota too, but
	// that a volume which is smaller than it is to be grows.
	CloneDisks(ctx context.Context, instance string, disks []api.VMDisk, quotaMiB int) error
	// DropDisk destroys a volume of an instance that does not run; one that is not there is
	// no error.
	DropDisk(ctx context.Context, instance, disk string) error
}

// Hypervisor is what virtual machines are run with on a server.
type Hypervisor struct {
	QEMU  bool   // it is installed
	UEFI  bool   // and OVMF
	TPM   bool   // and swtpm
	KVM   bool   // the kernel runs guests on the processors
	NoKVM string // why it does not, a sentence
	Vhost bool   // the kernel carries packets (vhost-net)
}

// machines are virtual machines.
func machines() *brand {
	return &brand{
		name: api.BrandKVM, prefix: "nereid-vm-",
		refuse: refuseMachine,
		// A machine whose spec is not kept may have been cut while its volumes were made.
		made:       func(spec *api.InstanceSpec, s seen) bool { return s.dataset && (s.kept != nil || spec.Made) },
		make:       func(spec *api.InstanceSpec) step { return stepDisks{spec.QuotaMiB, volumesOf(spec)} },
		grow:       growMachine,
		files:      machineFiles,
		limits:     machineLimits,
		properties: machineProperties,
		beside:     machineTPM,
		ready:      vm.Wait,
		bounds:     machineBounds,
		signals:    "it is a virtual machine, whose processes only its guest knows; stop, reboot and SIGKILL are what there is",
	}
}

// disksOf are a machine's disks.
func disksOf(spec *api.InstanceSpec) []api.VMDisk {
	if spec.VM == nil {
		return nil
	}
	return spec.VM.Disks
}

// volumesOf are a machine's disks, and what its firmware and its TPM remember.
func volumesOf(spec *api.InstanceSpec) []api.VMDisk {
	all := slices.Clone(disksOf(spec))
	if spec.VM != nil && spec.VM.Firmware == api.FirmwareUEFI {
		all = append(all, api.VMDisk{Name: vm.VarsVolume, SizeMiB: vm.VarsMiB})
	}
	if spec.VM != nil && spec.VM.TPM {
		all = append(all, api.VMDisk{Name: vm.TPMVolume, SizeMiB: vm.TPMMiB})
	}
	return all
}

func growMachine(kept, spec *api.InstanceSpec) (steps []step) {
	if kept == nil {
		return nil
	}
	if kept.QuotaMiB != spec.QuotaMiB {
		steps = append(steps, stepQuota{spec.QuotaMiB})
	}
	if !reflect.DeepEqual(disksOf(kept), disksOf(spec)) {
		steps = append(steps, stepDisks{spec.QuotaMiB, volumesOf(spec)})
	}
	return steps
}

// refuseMachine names all that is wrong.
func refuseMachine(spec *api.InstanceSpec, s seen) error {
	if s.unit != unitNone && s.unit != unitFailed || spec.Wanted != api.InstanceRunning {
		return nil // what runs, runs
	}
	m := spec.VM
	if m == nil {
		return errors.New("nothing says what machine it is; delete it and create it anew")
	}
	var all []error
	bad := func(is bool, format string, args ...any) {
		if is {
			all = append(all, fmt.Errorf(format, args...))
		}
	}
	bad(!s.hypervisor.QEMU, "this server's platform has no QEMU; assign one that has")
	if s.hypervisor.QEMU && !s.hypervisor.KVM && !m.Emulated {
		bad(true, "this server does not run guests on its processors, and the instance was not created to be emulated: %s", cmp.Or(s.hypervisor.NoKVM, "it has no /dev/kvm"))
	}
	bad(m.Firmware == api.FirmwareUEFI && s.hypervisor.QEMU && !s.hypervisor.UEFI, "its firmware is to be UEFI, and this server's platform has no OVMF; assign one that has, or create it with firmware bios")
	bad(m.TPM && s.hypervisor.QEMU && !s.hypervisor.TPM, "it is to have a TPM, and this server's platform has no swtpm; assign one that has, or create it without")
	bad(len(m.Disks) == 0, "it has no disk to boot from")
	bad(len(m.Disks)+len(spec.NICs) > vm.Slots, "it has %s and %s; together there is room for %d", api.Plural(len(m.Disks), "disk"), api.Plural(len(spec.NICs), "NIC"), vm.Slots)
	slots := map[string]bool{}
	for _, d := range m.Disks {
		n, ok := numbered(d.Name, "disk")
		bad(!ok || slots[d.Name], "disk %q: want disk0 to disk%d, each once", d.Name, vm.Slots-1)
		slots[d.Name] = true
		_ = n
	}
	for _, n := range spec.NICs {
		_, ok := numbered(n.Interface, "net")
		bad(!ok, "NIC %s: its name %q: want net0 to net%d", n.MAC, n.Interface, vm.Slots-1)
	}
	return errors.Join(all...)
}

// numbered is N of a name such as diskN, which is that of a slot.
func numbered(name, kind string) (int, bool) {
	digits, ok := strings.CutPrefix(name, kind)
	n, err := strconv.Atoi(digits)
	return n, ok && err == nil && n >= 0 && n < vm.Slots && digits == strconv.Itoa(n)
}

// machineFiles are those that a machine is started with. Disks have the first slots, NICs
// the last, so that what comes and goes moves nothing else.
func machineFiles(spec *api.InstanceSpec, s seen) files {
	f := files{
		host:  zone.Host{UUID: spec.UUID, Brand: spec.Brand, Base: s.base(), Hostname: spec.Hostname},
		guest: mdata.Guest{InstanceSpec: lasting(*spec), Server: s.server},
	}
	m := spec.VM
	if m == nil {
		return f
	}
	start := vm.Start{UID: s.base(), Log: s.log, Machine: vm.Machine{
		UUID: spec.UUID, Dir: vm.RunDir(s.dir), Type: m.Machine, CPU: m.CPU, KVM: s.hypervisor.KVM,
		VCPUs: max(1, spec.VCPUs), MemoryMiB: spec.MemoryMiB, SmartOS: m.Source == api.SourceSmartOS,
	}}
	if start.CPU == "" {
		start.CPU = "max"
	}
	volume := func(name string) string { return filepath.Join("/dev/zvol", s.pool, spec.UUID, name) }
	if m.Firmware == api.FirmwareUEFI {
		start.Firmware, start.Vars = vm.OVMF, &vm.Disk{Name: vm.VarsVolume, Path: volume(vm.VarsVolume), Slot: vm.NoSlot}
	}
	if m.TPM {
		start.TPM = &vm.Disk{Name: vm.TPMVolume, Path: volume(vm.TPMVolume), Slot: vm.NoSlot}
	}
	for _, d := range m.Disks {
		n, _ := numbered(d.Name, "disk")
		start.Disks = append(start.Disks, vm.Disk{Name: d.Name, Path: volume(d.Name), Slot: n})
	}
	if !start.SmartOS {
		f.seed = seedOf(spec)
		start.Disks = append(start.Disks, vm.Disk{Name: "seed", Path: vm.Seed(s.dir), Slot: vm.NoSlot, ReadOnly: true})
	}
	for _, nic := range spec.NICs {
		n, _ := numbered(nic.Interface, "net")
		start.NICs = append(start.NICs, vm.NIC{MAC: strings.ToLower(nic.MAC), Tap: zone.Port(nic.MAC), MTU: nic.MTU, Slot: vm.Slots - 1 - n, Vhost: s.hypervisor.Vhost})
	}
	f.start = &start
	return f
}

// seedOf are the files of a machine's seed.
func seedOf(spec *api.InstanceSpec) map[string]string {
	_, in, _ := filesOf(spec, 0, "")
	script, _ := spec.Metadata["user-script"].(string)
	return in.Seed(script)
}

// machineLimits leaves a running machine the memory and processors that it was started
// with: its guest has no others before its next start.
func machineLimits(running, wanted api.Limits) api.Limits {
	wanted.MemoryMiB, wanted.VCPUs = running.MemoryMiB, running.VCPUs
	return wanted
}

// files are what an instance is started with.
type files struct {
	host   zone.Host
	guest  mdata.Guest
	inside *zone.Inside      // a zone's
	start  *vm.Start         // a virtual machine's
	seed   map[string]string // of it, by name; nil: it has none
}

// same reports whether what the agent left is what it would leave.
func (f files) same(s seen) bool {
	if s.left == nil || s.guest == nil {
		return false
	}
	f.host.Dataset = s.left.Dataset
	return reflect.DeepEqual(*s.left, f.host) && reflect.DeepEqual(*s.guest, f.guest) &&
		reflect.DeepEqual(s.inside, f.inside) && reflect.DeepEqual(s.start, f.start) && maps.Equal(s.seed, f.seed)
}

// waiting says what of a running machine is not what is wanted, and when it will be;
// empty: nothing.
func (s seen) waiting(spec *api.InstanceSpec) string {
	if s.unit != unitRuns || spec == nil || spec.Brand != api.BrandKVM {
		return ""
	}
	var all []string
	if s.limits == nil {
		return s.guestKeeps()
	}
	if s.limits.MemoryMiB != spec.MemoryMiB {
		all = append(all, fmt.Sprintf("%d MiB of memory", spec.MemoryMiB))
	}
	if s.limits.VCPUs != spec.VCPUs {
		all = append(all, api.Plural(spec.VCPUs, "vcpu"))
	}
	text := s.guestKeeps()
	if len(all) > 0 {
		text = strings.TrimSpace("It gets " + strings.Join(all, " and ") + " at its next start; reboot it for that. " + text)
	}
	return text
}

// zvols are the devices of a machine's unit.
func zvols(s vm.Start) (all []string) {
	for _, d := range s.Disks {
		if !d.ReadOnly {
			all = append(all, d.Path)
		}
	}
	if s.Vars != nil {
		all = append(all, s.Vars.Path)
	}
	slices.Sort(all)
	return all
}
