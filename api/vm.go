package api

// Firmwares of a virtual machine, and where its guest looks for its metadata.
const (
	FirmwareBIOS = "bios"
	FirmwareUEFI = "uefi"

	SourceNoCloud = "nocloud" // a small disk with cloud-init's NoCloud seed
	SourceSmartOS = "smartos" // the second serial port, by cloud-init's SmartOS source
)

// VM is what a virtual machine has that a zone has not. What its guest sees of it stays
// as it was at its create.
type VM struct {
	Machine  string   `json:"machine" doc:"QEMU's machine type with its version, as pc-q35-10.0"`
	CPU      string   `json:"cpu" doc:"model of QEMU's, which all servers it may be on have"`
	Firmware string   `json:"firmware" enum:"bios,uefi"`
	TPM      bool     `json:"tpm,omitempty" doc:"TPM 2.0"`
	Source   string   `json:"metadata_source" enum:"nocloud,smartos"`
	Emulated bool     `json:"emulated,omitempty" doc:"its processor is emulated where its server has no KVM: some twenty times slower"`
	Disks    []VMDisk `json:"disks" doc:"the machine boots from the first one"`
	Dropped  []string `json:"dropped_disks,omitempty" doc:"names of those that it had: what is left of them goes, and no other gets their names"`
}

// VMDisk is a disk of a virtual machine: a volume below its dataset.
type VMDisk struct {
	Name    string `json:"name" doc:"disk0, disk1 ...: what the guest sees as its serial number"`
	SizeMiB int    `json:"size_mib"`
	Image   string `json:"image_uuid,omitempty" doc:"that it is a clone of; empty: it begins with nothing on it"`
}

// VMCreate is what may be asked for of a new virtual machine.
type VMCreate struct {
	Firmware string   `json:"firmware,omitempty" enum:",bios,uefi" doc:"empty: bios"`
	TPM      bool     `json:"tpm,omitempty" doc:"TPM 2.0"`
	Source   string   `json:"metadata_source,omitempty" enum:",nocloud,smartos" doc:"empty: nocloud"`
	Emulated bool     `json:"emulated,omitempty" doc:"a server without KVM will do"`
	DiskMiB  int      `json:"disk_mib,omitempty" doc:"of the first disk; 0: the image's size"`
	Disks    []string `json:"disks,omitempty" doc:"further ones: MiB of each, or remaining, which is what the package's quota leaves"`
}

// VMDiskAdd asks for a disk of a virtual machine.
type VMDiskAdd struct {
	Size string `json:"size" doc:"MiB, or remaining, which is what its quota leaves"`
}

// VMDiskGrow asks for a larger disk.
type VMDiskGrow struct {
	SizeMiB int `json:"size_mib" doc:"at least what it has"`
}

// Hypervisor is what a server has to run virtual machines with.
type Hypervisor struct {
	QEMU  string `json:"qemu,omitempty" doc:"version; empty: its platform has none"`
	KVM   bool   `json:"kvm,omitempty" doc:"the kernel runs guests on the server's processors"`
	NoKVM string `json:"no_kvm,omitempty" doc:"why it does not, in one sentence; one whose firmware has it switched off is told from one whose processor cannot"`
}
