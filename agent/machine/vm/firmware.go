package vm

import (
	"fmt"
	"path/filepath"
)

// Files of OVMF, on a server whose platform has QEMU (OvmfPkg/README): the code that all
// machines share, and what a new machine's variables are.
const (
	OVMF     = "/usr/share/OVMF/OVMF_CODE_4M.fd"
	OVMFVars = "/usr/share/OVMF/OVMF_VARS_4M.fd"
)

// Volumes of a machine beside its disks.
const (
	VarsVolume = "vars" // what its UEFI remembers
	// VarsMiB is the size of that volume. Its first VarsBytes are in use: with OVMF's code
	// they are the 4 MiB of a flash chip.
	VarsMiB   = 1
	VarsBytes = 528 << 10

	TPMVolume = "tpm" // what its TPM remembers
	TPMMiB    = 1
)

// SWTPM is the program that is a machine's TPM (swtpm(8)).
const SWTPM = "/usr/bin/swtpm"

// TPMDir is where a machine's TPM has its socket, in the folder of its instance.
func TPMDir(dir string) string { return filepath.Join(dir, "tpm") }

// tpmSocket is that socket, by the folder of QEMU's own ones.
func tpmSocket(run string) string { return filepath.Join(TPMDir(filepath.Dir(run)), "tpm.sock") }

// TPMUser is the user of a machine's TPM; its group is QEMU's, who may talk with it.
func (s Start) TPMUser() uint32 { return s.UID + 1 }

// beside are the machine's volumes beside its disks.
func (m Machine) beside() (all []Disk) {
	for _, d := range []*Disk{m.Vars, m.TPM} {
		if d != nil {
			all = append(all, *d)
		}
	}
	return all
}

// flash is the machine's flash, of two chips.
func (m Machine) flash() string {
	if m.Firmware == "" {
		return ""
	}
	return ",pflash0=code,pflash1=vars"
}

// chips are what is in them. The guest writes to the second one only.
func (m Machine) chips() []string {
	driver := "file"
	if m.Vars.Block {
		driver = "host_device"
	}
	return []string{
		"-blockdev", "driver=raw,node-name=code,read-only=on,file.driver=file,file.read-only=on,file.filename=" + value(m.Firmware),
		"-blockdev", fmt.Sprintf("driver=raw,node-name=vars,size=%d,file.driver=%s,file.filename=%s,file.cache.direct=on,cache.direct=on", VarsBytes, driver, value(m.Vars.Path)),
	}
}
