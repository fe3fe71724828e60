package api

import "time"

// ServerState is what a server is doing, as far as the head node can tell. It is
// computed when read and never stored.
type ServerState string

// The states of a server, in the order in which a new server passes them.
const (
	StateNew       ServerState = "new"        // asked for an address and has not enrolled; StateReason says how far it came
	StateBooting   ServerState = "booting"    // a boot is in progress and has not reached its first sync
	StatePending   ServerState = "pending"    // enrolled, waits for an operator's approval
	StateRejected  ServerState = "rejected"   // an operator refused it
	StateApproved  ServerState = "approved"   // syncs, has no pool yet
	StateSettingUp ServerState = "setting up" // setup was asked for and is not complete
	StateRunning   ServerState = "running"    // set up and syncing
	StateUnknown   ServerState = "unknown"    // no sync for SilentAfter, and no boot in progress
	StateHeld      ServerState = "held"       // needs a decision of the operator; StateReason says which
	StateBootLoop  ServerState = "boot loop"  // boots again and again without a first sync; held back
	StateOff       ServerState = "off"        // shut down on request
)

// SilentAfter is how long a server may be silent before it is "unknown".
const SilentAfter = 45 * time.Second

// SyncHold is how long the head node holds a sync that has nothing to say.
const SyncHold = 20 * time.Second

// Server is a physical machine as the head node knows it.
type Server struct {
	UUID        string      `json:"uuid" doc:"SMBIOS UUID, lower case; made from its first boot MAC where that is not usable or another server's; empty while the state is new, when the machine is known by its MAC only"`
	Hostname    string      `json:"hostname" doc:"name, unique in the datacenter; before approval the boot MAC with dashes"`
	State       ServerState `json:"state"`
	StateReason string      `json:"state_reason,omitempty" doc:"why, in one sentence, where the state needs explaining"`
	MACs        []string    `json:"macs" doc:"MAC addresses that identify this server: those it booted from, and those of its NICs that no other machine has"`
	Claims      string      `json:"claims,omitempty" doc:"UUID of the known server that this machine says it is; it is held until an operator decides"`
	Address     string      `json:"address,omitempty" doc:"admin network address"`
	Approved    bool        `json:"approved"`
	SetUp       bool        `json:"set_up" doc:"true once the agent reported a complete setup"`
	Created     time.Time   `json:"created"`
	LastSeen    *time.Time  `json:"last_seen,omitempty" doc:"last sync; absent when none since the head node started"`
	Booted      *time.Time  `json:"booted,omitempty" doc:"start of the boot that syncs now"`
	BootID      string      `json:"boot_id,omitempty" doc:"boot that syncs now"`

	Platform PlatformChoice `json:"platform"`
	Sysinfo  *Sysinfo       `json:"sysinfo,omitempty"`
	Report   *Report        `json:"report,omitempty"`
	Usage    *Usage         `json:"usage,omitempty"`
	Setup    *SetupSpec     `json:"setup,omitempty" doc:"setup asked for"`
	Alerts   []string       `json:"alerts,omitempty" doc:"what an operator should look at, one sentence each"`
	Revision string         `json:"revision" doc:"ETag of this record's desired state"`

	Rack     string            `json:"rack,omitempty" doc:"where it is, for placement"`
	Traits   map[string]string `json:"traits,omitempty" doc:"what packages may ask of it"`
	Reserved bool              `json:"reserved,omitempty" doc:"new instances stay away unless they name it"`
	Use      *ServerUse        `json:"instance_use,omitempty" doc:"sums of the limits of its instances; absent: it has none"`

	NetworkApplied bool `json:"network_applied" doc:"the agent has said that the server's network is as it is wanted now"`
}

// PlatformChoice says which platform a server runs, should run, and why they differ.
type PlatformChoice struct {
	Assigned string `json:"assigned,omitempty" doc:"stamp assigned to this server; empty: the default"`
	Next     string `json:"next,omitempty" doc:"stamp the next boot gets"`
	Running  string `json:"running,omitempty" doc:"stamp the server runs now"`
	Previous string `json:"previous,omitempty" doc:"last stamp that reached a first sync"`
	Trial    bool   `json:"trial,omitempty" doc:"true while Next has not reached a first sync on this server"`
	Attempts int    `json:"attempts,omitempty" doc:"boots of the trial platform so far"`
	Failed   string `json:"failed,omitempty" doc:"stamp that failed its trial, if one did"`
	Reason   string `json:"reason,omitempty" doc:"which rule chose Next, in one sentence"`
}

// Sysinfo is the hardware of a server, as read from SMBIOS, /sys and /proc.
type Sysinfo struct {
	UUID         string `json:"uuid" doc:"as SMBIOS gives it, usable or not; empty when there is none"`
	Manufacturer string `json:"manufacturer,omitempty"`
	Product      string `json:"product,omitempty"`
	Serial       string `json:"serial,omitempty"`
	Firmware     string `json:"firmware,omitempty" enum:"bios,uefi" doc:"how the server booted"`
	BIOSVersion  string `json:"bios_version,omitempty"`
	MemoryBytes  int64  `json:"memory_bytes"`
	Kernel       string `json:"kernel,omitempty"`
	CPU          CPU    `json:"cpu"`
	NICs         []NIC  `json:"nics"`
	Disks        []Disk `json:"disks"`

	Hypervisor Hypervisor `json:"hypervisor,omitzero"`
}

// CPU describes a server's processors.
type CPU struct {
	Model          string `json:"model,omitempty"`
	Sockets        int    `json:"sockets"`
	Cores          int    `json:"cores" doc:"physical cores, all sockets"`
	Threads        int    `json:"threads" doc:"logical processors"`
	Virtualization string `json:"virtualization,omitempty" enum:"vmx,svm,none"`
}

// BusUSB is the bus of a NIC that may be another machine's tomorrow, or have the
// same MAC in every machine of a maker.
const BusUSB = "usb"

// NIC is a physical network interface.
type NIC struct {
	Name       string `json:"name"`
	MAC        string `json:"mac"`
	Driver     string `json:"driver,omitempty"`
	PCIAddress string `json:"pci_address,omitempty" doc:"as 0000:00:03.0"`
	Bus        string `json:"bus,omitempty" doc:"what it is plugged into: pci, usb, virtio ..."`
	LinkUp     bool   `json:"link_up"`
	SpeedMbps  int    `json:"speed_mbps,omitempty"`
	MTU        int    `json:"mtu,omitempty"`
}

// Disk is a block device that could carry a pool. The same shape is what
// "nereid-agent disklayout --disks" reads.
type Disk struct {
	Name       string `json:"name" doc:"kernel name, as sda or nvme0n1"`
	ID         string `json:"id,omitempty" doc:"stable path below /dev/disk/by-id, where udev made one"`
	Model      string `json:"model,omitempty"`
	Serial     string `json:"serial,omitempty"`
	WWN        string `json:"wwn,omitempty" doc:"world wide name, which is the same by every path to the disk"`
	Transport  string `json:"transport,omitempty" doc:"virtio, sata, sas, nvme, usb ..."`
	SizeBytes  int64  `json:"size_bytes"`
	BlockBytes int    `json:"block_bytes,omitempty" doc:"physical block size"`
	SolidState bool   `json:"solid_state"`
	Removable  bool   `json:"removable,omitempty"`
	ReadOnly   bool   `json:"read_only,omitempty"`
	InUseBy    string `json:"in_use_by,omitempty" doc:"what uses it now: pool NAME, mount PATH, md, dm ..."`
	Content    string `json:"content,omitempty" doc:"foreign data found on it: a file system, partition table or RAID signature; empty when blank"`
}
