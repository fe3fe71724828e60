package vm

import (
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"regexp"
)

// Bounds of a machine.
const (
	maxVCPUs = 512
	maxMiB   = 16 << 20
)

var (
	uuidRE = regexp.MustCompile(`^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$`)
	nameRE = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9-]{0,19}$`)       // a serial number of virtio has 20 bytes (Virtio 1.2, 5.2.6)
	wordRE = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._+-]{0,63}$`) // machine types, models
	// A model of a processor, and what it has more or less.
	cpuRE = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._+-]{0,63}(,[a-z0-9][a-z0-9._-]{0,31}=(on|off)){0,32}$`)
	tapRE = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,14}$`) // IFNAMSIZ
)

// check says what of m QEMU would not take, or would take for something else.
func (m Machine) check() error {
	var all []error
	bad := func(ok bool, format string, args ...any) {
		if !ok {
			all = append(all, fmt.Errorf(format, args...))
		}
	}
	bad(uuidRE.MatchString(m.UUID), "UUID %q: want one in lower case", m.UUID)
	bad(filepath.IsAbs(m.Dir), "folder %q: want an absolute path", m.Dir)
	bad(wordRE.MatchString(m.Type), "machine type %q: want one of QEMU's", m.Type)
	bad(cpuRE.MatchString(m.CPU), "CPU model %q: want one of QEMU's, and features as aes=on", m.CPU)
	bad(m.VCPUs >= 1 && m.VCPUs <= maxVCPUs, "%d vcpus: want 1 to %d", m.VCPUs, maxVCPUs)
	bad(m.MaxVCPUs == 0 || m.MaxVCPUs >= m.VCPUs && m.MaxVCPUs <= maxVCPUs, "up to %d vcpus: want %d to %d", m.MaxVCPUs, m.VCPUs, maxVCPUs)
	bad(m.MemoryMiB >= 1 && m.MemoryMiB <= maxMiB, "%d MiB of memory: want 1 to %d", m.MemoryMiB, maxMiB)
	bad(m.MaxMiB == 0 || m.MaxMiB >= m.MemoryMiB && m.MaxMiB <= maxMiB, "up to %d MiB of memory: want %d to %d", m.MaxMiB, m.MemoryMiB, maxMiB)
	bad(m.Firmware == "" || filepath.IsAbs(m.Firmware), "firmware %q: want an absolute path", m.Firmware)
	bad((m.Firmware == "") == (m.Vars == nil), "firmware %q, and variables of it: want both or neither", m.Firmware)
	if m.Vars != nil {
		bad(filepath.IsAbs(m.Vars.Path), "path %q of the firmware's variables: want an absolute one", m.Vars.Path)
	}
	if m.TPM != nil {
		bad(filepath.IsAbs(m.TPM.Path), "path %q of the TPM's volume: want an absolute one", m.TPM.Path)
	}
	slots, names := map[int]string{}, map[string]bool{}
	take := func(slot int, what string) {
		bad(slot >= 0 && slot < Slots, "slot %d of %s: want 0 to %d", slot, what, Slots-1)
		bad(slots[slot] == "", "slot %d is that of %s and of %s", slot, slots[slot], what)
		slots[slot] = what
	}
	for _, d := range m.Disks {
		bad(nameRE.MatchString(d.Name), "name %q of a disk: want up to 20 letters, digits and hyphens, a letter first", d.Name)
		bad(!names[d.Name], "two disks are named %q", d.Name)
		names[d.Name] = true
		bad(filepath.IsAbs(d.Path), "path %q of disk %s: want an absolute one", d.Path, d.Name)
		if d.Slot != NoSlot {
			take(d.Slot, "disk "+d.Name)
		}
	}
	for _, n := range m.NICs {
		mac, err := net.ParseMAC(n.MAC)
		bad(err == nil && len(mac) == 6 && mac.String() == n.MAC, "MAC %q: want six bytes in lower case, with colons", n.MAC)
		bad(!names[n.MAC], "two NICs have the MAC %s", n.MAC)
		names[n.MAC] = true
		bad(tapRE.MatchString(n.Tap), "tap %q of NIC %s: want the name of an interface", n.Tap, n.MAC)
		bad(n.MTU == 0 || n.MTU >= 68 && n.MTU <= 65535, "MTU %d of NIC %s: want 68 to 65535", n.MTU, n.MAC)
		take(n.Slot, "NIC "+n.MAC)
	}
	if err := errors.Join(all...); err != nil {
		return fmt.Errorf("start machine %s: %w", m.UUID, err)
	}
	return nil
}
