package vm

import (
	"fmt"
	"path/filepath"
	"strings"
)

// Names of the sockets and files in a machine's folder.
const (
	Monitor     = "qmp.sock"     // the agent's
	SideMonitor = "qmp2.sock"    // for programs that look beside it: a monitor serves one client at a time
	Console     = "console.sock" // the first serial port
	ConsoleLog  = "console.log"  // all that it printed; QEMU appends
	Metadata    = "mdata.sock"   // the second serial port
	GuestAgent  = "qga.sock"
	Screen      = "vnc.sock"

	GuestChannel = "qga0" // what QEMU calls the channel of GuestAgent
)

// Slots is how many disks and NICs a machine may have together: a PCI Express root port
// each, which is there from the start, so that one can be added while it runs.
const Slots = 16

// EmulatorMiB is how much memory the code of an emulated processor may take.
const EmulatorMiB = 64

// NoSlot is the slot of a disk that stays for as long as the machine runs, and has none.
const NoSlot = -1

// Machine is all that a QEMU is started with.
type Machine struct {
	UUID      string
	Dir       string // folder of its sockets and files
	Type      string // with its version, such as pc-q35-10.0: what a guest sees has to stay
	KVM       bool   // else it is emulated (TCG), some twenty times slower
	CPU       string // a model of QEMU's
	VCPUs     int
	MaxVCPUs  int // up to which they can be added while it runs; 0: VCPUs
	MemoryMiB int
	MaxMiB    int    // up to which memory can be added; 0: MemoryMiB
	Firmware  string // file of OVMF's code; empty: SeaBIOS
	TPM       *Disk  // what its TPM remembers; nil: it has none
	Vars      *Disk  // what OVMF remembers of the machine; nil with SeaBIOS
	Disks     []Disk // the machine boots from the first one
	NICs      []NIC
	LogFD     int  `json:"-"` // open file that ConsoleLog is; 0: it is in Dir
	SmartOS   bool // the SMBIOS product is Joyent's, by which cloud-init looks for metadata on the second serial port
}

// Disk is a block device or file, of raw bytes.
type Disk struct {
	Name     string // up to 20 letters, digits and hyphens, a letter first: what the guest sees as its serial number
	Path     string
	Slot     int // 0 to Slots-1, or NoSlot
	ReadOnly bool
	Block    bool // Path is a device
}

// NIC is one that has a tap.
type NIC struct {
	MAC   string
	Tap   string
	MTU   int // which the guest is told; 0: nothing is told
	Slot  int
	Vhost bool // the kernel carries its packets (vhost-net)

	FD, VhostFD int `json:"-"` // the tap, and vhost-net, already open; 0: QEMU opens them
}

// Arguments are those of qemu-system-x86_64. An error names every fault of m.
func (m Machine) Arguments() ([]string, error) {
	if err := m.check(); err != nil {
		return nil, err
	}
	accel := fmt.Sprintf("tcg,tb-size=%d", EmulatorMiB)
	if m.KVM {
		accel = "kvm"
	}
	cpus, memory := max(m.MaxVCPUs, m.VCPUs), fmt.Sprintf("size=%dM", m.MemoryMiB)
	if m.MaxMiB > m.MemoryMiB {
		memory += fmt.Sprintf(",slots=8,maxmem=%dM", m.MaxMiB)
	}
	var a arguments
	a.add("-name", "guest="+m.UUID+",debug-threads=on", "-uuid", m.UUID)
	a.add("-nodefaults", "-no-user-config", "-display", "none")
	// Without SMM QEMU 10 has memory where a guest looks for the screen of its VGA.
	a.add("-machine", m.Type+",usb=off,vmport=off,hpet=off,smm=auto,memory-backend=ram0"+m.flash(), "-accel", accel)
	a.add("-cpu", m.CPU, "-smp", fmt.Sprintf("cpus=%d,maxcpus=%d,sockets=1,cores=%d,threads=1", m.VCPUs, cpus, cpus))
	// Pages are not shared between machines: one could tell what another has in memory.
	a.add("-object", fmt.Sprintf("memory-backend-memfd,id=ram0,size=%dM,share=on,merge=off,dump=off", m.MemoryMiB), "-m", memory)
	a.add("-global", "ICH9-LPC.disable_s3=1", "-global", "ICH9-LPC.disable_s4=1") // no sleep: nothing would wake it
	a.add("-rtc", "base=utc,driftfix=slew", "-boot", "menu=off,strict=on", "-msg", "timestamp=on")
	a.add("-action", "panic=pause,reboot=reset,shutdown=poweroff,watchdog=reset")
	a.add("-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny")
	a.add("-smbios", m.smbios())
	if m.Firmware != "" {
		a.add(m.chips()...)
	}
	if m.TPM != nil {
		a.add("-chardev", "socket,id=tpm0,path="+value(tpmSocket(m.Dir)), "-tpmdev", "emulator,id=tpm0,chardev=tpm0", "-device", "tpm-crb,tpmdev=tpm0")
	}
	for i, socket := range []string{Monitor, SideMonitor} {
		a.add("-chardev", m.socket(fmt.Sprint("mon", i), socket), "-mon", fmt.Sprintf("chardev=mon%d,mode=control", i))
	}
	log := m.file(ConsoleLog)
	if m.LogFD != 0 {
		a.add("-add-fd", fmt.Sprintf("fd=%d,set=1,opaque=log", m.LogFD))
		log = "/dev/fdset/1"
	}
	a.add("-chardev", m.socket("con0", Console)+",logfile="+log+",logappend=on", "-device", "isa-serial,chardev=con0,index=0")
	a.add("-chardev", m.socket("mdata0", Metadata), "-device", "isa-serial,chardev=mdata0,index=1")
	a.add("-device", "VGA,vgamem_mb=16", "-vnc", "unix:"+m.file(Screen)+",share=force-shared")
	a.add("-object", "rng-random,id=rng0,filename=/dev/urandom", "-device", "virtio-rng-pci,rng=rng0,max-bytes=1024,period=1000")
	a.add("-device", "virtio-balloon-pci,id=balloon0,free-page-reporting=on,deflate-on-oom=on")
	a.add("-device", "virtio-serial-pci,id=serial0", "-chardev", m.socket(GuestChannel, GuestAgent), "-device", "virtserialport,chardev="+GuestChannel+",name=org.qemu.guest_agent.0")
	a.add("-object", "iothread,id=io0")
	for n := range Slots {
		a.add("-device", fmt.Sprintf("pcie-root-port,id=slot%d,chassis=%d,slot=%d,bus=pcie.0,multifunction=on,addr=0x%x.0x%x", n, n+1, n+1, 0x10+n/8, n%8))
	}
	for i, d := range m.Disks {
		device := d.device()
		device["bootindex"] = i + 1
		a.add("-blockdev", d.blockdev().String(), "-device", device.String())
	}
	for _, n := range m.NICs {
		a.add("-netdev", n.netdev().String(), "-device", n.device().String())
	}
	return a, nil
}

type arguments []string

func (a *arguments) add(more ...string) { *a = append(*a, more...) }

// value is a text as the value of one of QEMU's keys: a comma ends one, two are one.
func value(s string) string { return strings.ReplaceAll(s, ",", ",,") }

func (m Machine) file(name string) string { return value(filepath.Join(m.Dir, name)) }

// socket is one that QEMU listens at. While nobody is connected what a guest sends there
// is dropped, and a guest is never held up.
func (m Machine) socket(id, name string) string {
	return "socket,id=" + id + ",path=" + m.file(name) + ",server=on,wait=off"
}

func (m Machine) smbios() string {
	if m.SmartOS { // cloud-init, DataSourceSmartOS: "SmartDC" begins the product's name
		return "type=1,manufacturer=Joyent,product=SmartDC HVM,version=nereid,uuid=" + m.UUID
	}
	return "type=1,manufacturer=Nereid,product=Virtual Machine,version=1,uuid=" + m.UUID
}
