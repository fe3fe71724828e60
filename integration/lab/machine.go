package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"
)

// Firmware is what a machine has in its flash.
type Firmware string

// BIOS is SeaBIOS with QEMU's iPXE option ROM. UEFI is OVMF with its own PXE
// stack and no ROM on the NIC.
const (
	BIOS Firmware = "bios"
	UEFI Firmware = "uefi"
)

// MachineSpec describes a machine.
type MachineSpec struct {
	Name     string   // also the name of its tap device; at most 12 characters
	Firmware Firmware // empty: BIOS
	MemoryMB int      // 0: 1536
	CPUs     int      // 0: 2
	Disks    []int64  // sizes in bytes of its blank disks vda, vdb ...
	DiskIOPS int      // operations a second that each disk does at most; 0: no limit
	MAC      string
	UUID     string   // SMBIOS UUID
	Extra    []string // further QEMU arguments
	NoNet    bool     // no network device at all
	DataMACs []string // MACs of further NICs, on the rack's data network
	Bridges  []string // where these are instead, in their order; missing or empty: data0
	Cables   []Cable  // NICs after these, each joined to one of another machine
	// CountedTime is for measurements: the machine's clock is the number of
	// instructions it ran, so that nothing else on the host tells in what it times. It
	// is emulated and has one processor.
	CountedTime bool
}

// Cable is one end of a cable without a switch: what a bridge keeps to itself, as
// LACP, gets through. LACP needs a speed and full duplex, and so the NIC has them. The
// other end has the ports the other way round.
type Cable struct {
	MAC         string
	Local, Peer int // UDP ports of the rack's loopback
}

// Machine is a QEMU machine. Its disks outlive power cycles, as real ones do.
type Machine struct {
	rack *Rack
	Spec MachineSpec

	mu     sync.Mutex
	proc   *process
	qmp    *qmp
	nursed chan struct{}   // closed when nobody looks after it any more
	off    <-chan struct{} // of a machine of another process's rack; nil: nobody waits for it
	On     time.Time       // when it was last powered on
	keyOf  string          // the nurse's: the boot whose key a reset may have lost
}

// AddMachine makes a machine's disks and its tap device; it stays off.
func (r *Rack) AddMachine(ctx context.Context, spec MachineSpec) (*Machine, error) {
	if r.parent != nil {
		return nil, fmt.Errorf("add machine %s: %w", spec.Name, errJoined)
	}
	if spec.Firmware == "" {
		spec.Firmware = BIOS
	}
	if spec.MemoryMB == 0 {
		spec.MemoryMB = 1536
	}
	if spec.CPUs == 0 {
		spec.CPUs = 2
	}
	m := &Machine{rack: r, Spec: spec}
	for i, size := range spec.Disks {
		if err := makeDisk(m.Disk(i), size); err != nil {
			return nil, fmt.Errorf("add machine %s: %w", spec.Name, err)
		}
	}
	if spec.Firmware == UEFI {
		if err := copyFile(m.path("vars.fd"), "/usr/share/OVMF/OVMF_VARS_4M.fd"); err != nil {
			return nil, fmt.Errorf("add machine %s: %w", spec.Name, err)
		}
	}
	if !spec.NoNet {
		if err := r.addTap(ctx, spec.Name, "admin0"); err != nil {
			return nil, fmt.Errorf("add machine %s: %w", spec.Name, err)
		}
	}
	for i := range spec.DataMACs {
		tap, bridge := dataTap(spec.Name, i), "data0"
		if i < len(spec.Bridges) && spec.Bridges[i] != "" {
			bridge = spec.Bridges[i]
		}
		if err := errors.Join(r.addTap(ctx, tap, bridge), r.ip(ctx, "link", "set", tap, "mtu", mtu(bridge))); err != nil {
			return nil, fmt.Errorf("add machine %s: %w", spec.Name, err)
		}
	}
	r.mu.Lock()
	r.machines = append(r.machines, m)
	r.mu.Unlock()
	return m, nil
}

// addTap makes a tap device on a bridge of the rack.
func (r *Rack) addTap(ctx context.Context, name, bridge string) error {
	for _, args := range [][]string{
		{"tuntap", "add", "dev", name, "mode", "tap"},
		{"link", "set", name, "master", bridge},
		{"link", "set", name, "up"},
	} {
		if err := r.ip(ctx, args...); err != nil {
			return err
		}
	}
	return nil
}

func dataTap(machine string, i int) string { return machine + "d" + strconv.Itoa(i) }

// makeDisk makes a sparse raw disk, unless it is there: data stays.
func makeDisk(path string, size int64) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return err
	}
	if st.Size() < size {
		return f.Truncate(size)
	}
	return nil
}

func copyFile(to, from string) error {
	if _, err := os.Stat(to); err == nil {
		return nil
	}
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	if _, err := io.Copy(out, in); err != nil {
		out.Close()
		return err
	}
	return out.Close()
}

func (m *Machine) path(name string) string {
	return filepath.Join(m.rack.opts.Dir, m.Spec.Name+"."+name)
}

// Disk is the file behind disk number i.
func (m *Machine) Disk(i int) string { return m.path("disk" + strconv.Itoa(i)) }

// Console is the file its serial console goes to, over all power cycles.
func (m *Machine) Console() string { return m.path("console") }

// Args are QEMU's arguments for the machine.
func (m *Machine) Args() []string {
	s := m.Spec
	args := m.rack.opts.Accel.args()
	if s.CountedTime {
		args, s.CPUs = countedArgs(), 1
	}
	args = append(args,
		"-machine", "q35", "-m", strconv.Itoa(s.MemoryMB), "-smp", strconv.Itoa(s.CPUs),
		"-nodefaults", "-display", "none", "-vga", "std",
		"-name", s.Name, "-uuid", s.UUID,
		"-device", "virtio-rng-pci",
		"-chardev", "file,id=con,path="+m.Console()+",append=on", "-serial", "chardev:con",
		"-qmp", "unix:"+m.path("qmp")+",server=on,wait=off")
	if s.Firmware == UEFI {
		args = append(args,
			"-drive", "if=pflash,format=raw,unit=0,readonly=on,file=/usr/share/OVMF/OVMF_CODE_4M.fd",
			"-drive", "if=pflash,format=raw,unit=1,file="+m.path("vars.fd"),
			// PXE over IPv6 first would waste 68 s (LAB.md).
			"-fw_cfg", "name=opt/org.tianocore/IPv6PXESupport,string=n")
	}
	if !s.NoNet {
		nic := "virtio-net-pci,netdev=net0,bootindex=1,mac=" + s.MAC
		if s.Firmware == UEFI {
			nic += ",romfile="
		}
		args = append(args, "-netdev", "tap,id=net0,ifname="+s.Name+",script=no,downscript=no", "-device", nic)
	}
	for i, mac := range s.DataMACs {
		args = append(args,
			"-netdev", fmt.Sprintf("tap,id=data%d,ifname=%s,script=no,downscript=no", i, dataTap(s.Name, i)),
			"-device", fmt.Sprintf("virtio-net-pci,netdev=data%d,romfile=,mac=%s", i, mac))
	}
	for i, c := range s.Cables {
		args = append(args,
			"-netdev", fmt.Sprintf("socket,id=cable%d,udp=127.0.0.1:%d,localaddr=127.0.0.1:%d", i, c.Peer, c.Local),
			"-device", fmt.Sprintf("virtio-net-pci,netdev=cable%d,romfile=,speed=10000,duplex=full,mac=%s", i, c.MAC))
	}
	for i := range s.Disks {
		args = append(args,
			"-drive", fmt.Sprintf("if=none,id=disk%d,format=raw,cache=writeback,discard=unmap,throttling.iops-total=%d,file=%s", i, s.DiskIOPS, m.Disk(i)),
			"-device", fmt.Sprintf("virtio-blk-pci,drive=disk%d,serial=%s-%d", i, s.Name, i))
	}
	args = append(args, m.shellArgs()...)
	return append(args, s.Extra...)
}

// PowerOn starts the machine; its firmware begins at once.
func (m *Machine) PowerOn(ctx context.Context) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.rack.parent != nil {
		m.off, m.On = nil, time.Now()
		_, err := m.rack.order(ctx, Order{Machine: m.Spec.Name, Do: "power on"})
		return err
	}
	return m.powerOn(ctx)
}

func (m *Machine) powerOn(ctx context.Context) error {
	if m.proc != nil {
		select {
		case <-m.proc.done:
		default:
			return fmt.Errorf("power on %s: it is on", m.Spec.Name)
		}
	}
	_ = os.Remove(m.path("qmp"))
	cmd := exec.Command("ip", append([]string{"netns", "exec", m.rack.Namespace, "qemu-system-x86_64"}, m.Args()...)...)
	log, err := os.OpenFile(m.path("qemu.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("power on %s: %w", m.Spec.Name, err)
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	m.On = time.Now()
	p, err := start(cmd)
	if err != nil {
		return fmt.Errorf("power on %s: %w", m.Spec.Name, err)
	}
	q, err := dialQMP(ctx, m.path("qmp"), p.done)
	if err != nil {
		_ = p.kill(syscall.SIGKILL)
		return fmt.Errorf("power on %s: %w; QEMU says: %s", m.Spec.Name, err, tail(m.path("qemu.log")))
	}
	m.proc, m.qmp, m.nursed = p, q, make(chan struct{})
	go func(nursed chan struct{}) {
		defer close(nursed)
		if !m.rack.opts.Accel.KVM {
			m.nurse(ctx, p)
		}
	}(m.nursed)
	return nil
}

// PowerOff cuts the power: the guest gets no chance to do anything.
func (m *Machine) PowerOff() {
	if m.rack.parent != nil {
		m.rack.tell(Order{Machine: m.Spec.Name, Do: "power off"})
		return
	}
	m.mu.Lock()
	if m.proc == nil {
		m.mu.Unlock()
		return
	}
	m.qmp.close()
	_ = m.proc.kill(syscall.SIGKILL)
	m.proc = nil
	nursed := m.nursed
	m.mu.Unlock()
	<-nursed // it may be about to press reset, for which it needs the lock
}

// Reset presses the reset button.
func (m *Machine) Reset(ctx context.Context) error { return m.command(ctx, "system_reset") }

// Pause stops the guest's processors; Resume lets them go on.
func (m *Machine) Pause(ctx context.Context) error  { return m.command(ctx, "stop") }
func (m *Machine) Resume(ctx context.Context) error { return m.command(ctx, "cont") }

// AdminLink takes the cable out of the NIC that the machine boots from, or puts it in.
func (m *Machine) AdminLink(ctx context.Context, up bool) error {
	return m.command(ctx, "set_link", "name", "net0", "up", up)
}

// CableLink takes a cable's end out of its NIC, or puts it in.
func (m *Machine) CableLink(ctx context.Context, cable int, up bool) error {
	return m.command(ctx, "set_link", "name", fmt.Sprintf("cable%d", cable), "up", up)
}

// DataLink is the same for a NIC on the data network, by its place in DataMACs.
func (m *Machine) DataLink(ctx context.Context, nic int, up bool) error {
	return m.command(ctx, "set_link", "name", fmt.Sprintf("data%d", nic), "up", up)
}

// command runs a command of QEMU's monitor; args are names and values in turn.
func (m *Machine) command(ctx context.Context, name string, args ...any) error {
	if m.rack.parent != nil {
		_, err := m.rack.order(ctx, Order{Machine: m.Spec.Name, Do: name, Args: args})
		return err
	}
	m.mu.Lock()
	q := m.qmp
	on := m.proc != nil
	m.mu.Unlock()
	if !on {
		return fmt.Errorf("%s %s: it is off", name, m.Spec.Name)
	}
	return q.execute(ctx, name, args...)
}

// Off is closed when QEMU ends, as it does on a shutdown.
func (m *Machine) Off() <-chan struct{} {
	if m.rack.parent != nil {
		return m.offOf()
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.proc == nil {
		c := make(chan struct{})
		close(c)
		return c
	}
	return m.proc.done
}
