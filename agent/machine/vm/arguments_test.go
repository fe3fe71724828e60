package vm

import (
	"strings"
	"testing"
)

// small is a machine with a disk and a NIC.
func small(dir string) Machine {
	return Machine{
		UUID: "6a1c1a2e-1d2b-4c3d-8e4f-5a6b7c8d9e0f", Dir: dir, Type: "pc-q35-7.2", CPU: "qemu64", VCPUs: 1, MaxVCPUs: 2, MemoryMiB: 64, MaxMiB: 128,
		Disks: []Disk{{Name: "disk0", Path: dir + "/disk,0"}},
		NICs:  []NIC{{MAC: "90:b8:d0:00:00:01", Tap: "np90b8d0000001", MTU: 1400, Slot: 15}},
	}
}

// TestArguments: what is in a machine is in its command line, and nothing that is in a
// value ends it.
func TestArguments(t *testing.T) {
	featured := small("/run/x")
	featured.CPU = "qemu64,svm=off,aes=on,lahf-lm=on,sse4.1=on"
	if err := featured.check(); err != nil {
		t.Errorf("a processor with features: %v", err)
	}
	m := small("/run/a,b")
	m.Disks = append(m.Disks, Disk{Name: "seed", Path: "/dev/zvol/seed", Slot: 3, ReadOnly: true, Block: true})
	m.Firmware, m.Vars = "/usr/share/OVMF/OVMF_CODE_4M.fd", &Disk{Name: VarsVolume, Path: "/dev/zvol/vars", Block: true}
	a, err := m.Arguments()
	if err != nil {
		t.Fatal(err)
	}
	line := strings.Join(a, " ")
	for _, want := range []string{
		"-machine pc-q35-7.2,usb=off", "-accel tcg,tb-size=64 ",
		"-smp cpus=1,maxcpus=2,sockets=1,cores=2,threads=1",
		"-m size=64M,slots=8,maxmem=128M",
		"-chardev socket,id=mon0,path=/run/a,,b/qmp.sock,server=on,wait=off -mon chardev=mon0,mode=control",
		"logfile=/run/a,,b/console.log,logappend=on",
		",memory-backend=ram0,pflash0=code,pflash1=vars ",
		"node-name=code,read-only=on,file.driver=file,file.read-only=on,file.filename=/usr/share/OVMF/OVMF_CODE_4M.fd",
		"node-name=vars,size=540672,file.driver=host_device,file.filename=/dev/zvol/vars,",
		`-blockdev {"cache":{"direct":true},"discard":"unmap","driver":"raw","file":{"cache":{"direct":true},"discard":"unmap","driver":"file","filename":"/run/a,b/disk,0"},"node-name":"disk0"}`,
		`-device {"bootindex":1,"bus":"slot0","discard":true,"drive":"disk0","driver":"virtio-blk-pci","id":"dev-disk0","iothread":"io0","physical_block_size":4096,"rerror":"report","serial":"disk0","werror":"stop","write-zeroes":true}`,
		`-blockdev {"driver":"raw","file":{"driver":"host_device","filename":"/dev/zvol/seed","read-only":true},"node-name":"seed","read-only":true}`,
		`-device {"bootindex":2,"bus":"slot3","drive":"seed","driver":"virtio-blk-pci","id":"dev-seed","iothread":"io0","serial":"seed"}`,
		`-netdev {"downscript":"no","id":"nic90b8d0000001","ifname":"np90b8d0000001","script":"no","type":"tap","vhost":false}`,
		`-device {"bus":"slot15","driver":"virtio-net-pci","host_mtu":1400,"id":"dev-nic90b8d0000001","mac":"90:b8:d0:00:00:01","netdev":"nic90b8d0000001","romfile":""}`,
		"manufacturer=Nereid,product=Virtual Machine",
	} {
		if !strings.Contains(line, want) {
			t.Errorf("%s\nis not in\n%s", want, line)
		}
	}
	m.KVM, m.SmartOS, m.NICs[0].Vhost = true, true, true
	m.LogFD, m.NICs[0].FD, m.NICs[0].VhostFD, m.Disks[1].Slot = 7, 8, 9, NoSlot
	a, err = m.Arguments()
	line = strings.Join(a, " ")
	for _, want := range []string{
		"-accel kvm ", "product=SmartDC HVM", "-add-fd fd=7,set=1,opaque=log", "logfile=/dev/fdset/1,logappend=on",
		`{"fd":"8","id":"nic90b8d0000001","type":"tap","vhost":true,"vhostfd":"9"}`, `{"addr":"0x8","bootindex":2,"bus":"pcie.0","drive":"seed"`,
	} {
		if err != nil || !strings.Contains(line, want) {
			t.Errorf("%s is not in\n%s (%v)", want, line, err)
		}
	}
}

// TestRefused: what QEMU would take for something else is refused, all of it at once.
func TestRefused(t *testing.T) {
	m := Machine{
		UUID: "x", Dir: "run", Type: "q35,accel=kvm", CPU: "host,-vmx", VCPUs: 3, MaxVCPUs: 2, MemoryMiB: 0, MaxMiB: maxMiB + 1, Firmware: "code.fd",
		Disks: []Disk{{Name: "0", Path: "disk", Slot: Slots}, {Name: "a,b", Path: "/d"}, {Name: "c", Path: "/d"}},
		NICs:  []NIC{{MAC: "90:B8:d0:00:00:01", Tap: "t0,script=/bin/sh", MTU: 1, Slot: -1}},
	}
	_, err := m.Arguments()
	if err == nil {
		t.Fatal("no error")
	}
	for _, want := range []string{
		`UUID "x"`, `folder "run"`, "machine type", "CPU model", "up to 2 vcpus: want 3 to 512", "0 MiB of memory", "up to 16777217 MiB", `firmware "code.fd"`, "want both or neither",
		`name "0"`, `path "disk"`, "slot 16 of disk 0", `name "a,b"`, "slot 0 is that of disk a,b and of disk c", "MAC", "tap", "MTU 1", "slot -1",
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%s is not in: %v", want, err)
		}
	}
}
