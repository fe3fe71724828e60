//go:build netns

package machine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"image/png"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"nereid/agent/agenttest"
	"nereid/agent/machine/ga"
	"nereid/agent/machine/qmp"
	"nereid/agent/machine/vm"
	"nereid/agent/machine/zone"
	"nereid/api"
	"nereid/fixtures/rfb"
)

// TestMain is nereid-zone machine, when it is called as that.
func TestMain(m *testing.M) {
	if os.Getenv("NEREID_TEST_MACHINE")+os.Getenv("NEREID_TEST_TPM") != "" {
		syscall.Umask(0o077) // as units have it
	}
	if dir := os.Getenv("NEREID_TEST_MACHINE"); dir != "" {
		fmt.Fprintln(os.Stderr, vm.Run(context.Background(), dir, vm.Program, func(vm.Start) error { return nil }))
		os.Exit(1)
	}
	if dir := os.Getenv("NEREID_TEST_TPM"); dir != "" {
		fmt.Fprintln(os.Stderr, vm.RunTPM(context.Background(), dir, vm.SWTPM))
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// processes are units that are processes of the test, each in a network namespace with
// the taps of its machine.
type processes struct {
	t     *testing.T
	heard func(name, state string, since time.Time)
	mu    sync.Mutex
	all   map[string]*exec.Cmd
	work  sync.WaitGroup
}

func (p *processes) Start(ctx context.Context, name, dir string, _ api.Limits) error {
	s, err := vm.Read(dir)
	if err != nil {
		return err
	}
	line := "exec \"$0\""
	for _, n := range s.NICs {
		line = "ip tuntap add " + n.Tap + " mode tap vnet_hdr && " + line
	}
	cmd := exec.Command("unshare", "-n", "sh", "-c", line, os.Args[0])
	cmd.Env = append(os.Environ(), "NEREID_TEST_MACHINE="+dir)
	cmd.Stderr = p.t.Output()
	if err := cmd.Start(); err != nil {
		return err
	}
	p.mu.Lock()
	p.all[name] = cmd
	p.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	ended := make(chan struct{})
	p.work.Go(func() {
		defer cancel()
		err := cmd.Wait()
		close(ended)
		p.mu.Lock()
		delete(p.all, name)
		p.mu.Unlock()
		state := unitInactive
		if err != nil {
			state = unitFailed
		}
		p.heard(name, state, time.Time{})
	})
	if err := vm.Answers(ctx, dir); err != nil {
		return err
	}
	p.heard(name, unitRuns, time.Now())
	return zone.RanMachine(dir)
}

func (p *processes) pid(name string) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	if c := p.all[name]; c != nil {
		return c.Process.Pid
	}
	return 0
}

// Stop presses the power button, as the unit's ExecStop does.
func (p *processes) Stop(_ context.Context, name string) error {
	_, uuid, _ := unitOf(name)
	p.heard(name, unitStops, time.Time{})
	p.work.Go(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(p.t.Context()), time.Minute)
		defer cancel()
		if err := vm.Button(ctx, filepath.Join(machineDir, uuid)); err != nil {
			p.t.Log(err)
			_ = syscall.Kill(p.pid(name), syscall.SIGTERM)
		}
	})
	return nil
}

func (p *processes) Signal(_ context.Context, name, signal string) error {
	if signal != "SIGKILL" {
		return errors.New("no such signal")
	}
	return syscall.Kill(p.pid(name), syscall.SIGKILL)
}

func (p *processes) Limit(context.Context, string, api.Limits) error { return nil }

func (p *processes) Reset(_ context.Context, name string) (string, error) {
	p.heard(name, unitInactive, time.Time{})
	return "result signal", nil
}

var machineDir string

// TestNetNSMachine: a real QEMU, which Machines starts as they start one on a server: it
// is nobody's and can do nothing, its guest speaks, is seen, is interrupted, stops at the power button, reboots
// from inside and by request; killed or hung it is told of and started again; another
// agent finds it running.
func TestNetNSMachine(t *testing.T) {
	machineDir = t.TempDir()
	for dir := machineDir; dir != "/"; dir = filepath.Dir(dir) { // QEMU goes through it as another user
		if err := os.Chmod(dir, 0o1777); err != nil {
			t.Fatal(err)
		}
		if dir == os.TempDir() {
			break
		}
	}
	const uuid = "6a1c1a2e-1d2b-4c3d-8e4f-5a6b7c8d9e0f"
	guest, err := os.ReadFile("../../fixtures/guest/boot.bin")
	if err != nil {
		t.Fatal(err)
	}
	volumes := filepath.Join(machineDir, "zvol", uuid)
	if err := os.MkdirAll(volumes, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"disk0", "disk1", "disk2"} {
		path := filepath.Join(volumes, name)
		if err := errors.Join(os.WriteFile(path, guest, 0o600), os.Truncate(path, 1<<20), os.Chmod(path, 0o666)); err != nil {
			t.Fatal(err)
		}
	}
	units := &processes{t: t, all: map[string]*exec.Cmd{}}
	store := agenttest.NewZones()
	changed := make(chan string, 100)
	begin := func() (*Machines, func()) {
		m := &Machines{Store: store, Disks: store, Units: units, Dir: machineDir, Pool: "../.." + filepath.Join(machineDir, "zvol"),
			Log: slog.New(slog.NewTextHandler(t.Output(), nil)), Hypervisor: func() Hypervisor { return Hypervisor{QEMU: true} },
			Changed: func(uuid string) {
				select {
				case changed <- uuid:
				default:
				}
			}}
		units.heard = m.Saw
		m.ImageThere("i1", true)
		ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
		done := make(chan error)
		go func() { done <- m.Attend(ctx) }()
		return m, func() { cancel(); <-done }
	}
	m, stop := begin()
	t.Cleanup(func() {
		units.mu.Lock()
		for _, c := range units.all {
			_ = c.Process.Kill()
		}
		units.mu.Unlock()
		units.work.Wait()
	})
	until := func(w Wanted, what string, is func(api.InstanceStatus) bool) api.InstanceStatus {
		t.Helper()
		deadline := time.After(2 * time.Minute)
		for {
			st, _, err := m.Set(t.Context(), uuid, w)
			if is(st) {
				return st
			}
			wait := time.Hour
			if err != nil {
				wait = time.Second // the worker tries again
			}
			select {
			case <-changed:
			case <-time.After(wait):
			case <-deadline:
				t.Fatalf("%s: %+v, %v", what, st, err)
			}
		}
	}
	spec := machineOf(uuid)
	spec.VM.Machine, spec.VM.Emulated, spec.MemoryMiB, spec.VCPUs = "pc-q35-7.2", true, 64, 1
	w := Wanted{Spec: spec}
	running := func(st api.InstanceStatus) bool { return st.State == api.InstanceRunning && st.Reason == "" }
	until(w, "running", running)
	unit := machines().unit(uuid)

	// What it may.
	pid := units.pid(unit)
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"Name:\tqemu-system", "Uid:\t524288\t524288\t524288\t524288", "Gid:\t524288\t524288\t524288\t524288", "Groups:\t524288 \n", "NoNewPrivs:\t1", "Seccomp:\t2",
		"CapInh:\t0000000000000000", "CapPrm:\t0000000000000000", "CapEff:\t0000000000000000", "CapBnd:\t0000000000000000", "CapAmb:\t0000000000000000",
	} {
		if !strings.Contains(string(status), want) {
			t.Errorf("%q is not in its status:\n%s", want, status)
		}
	}

	// Its guest speaks and hears.
	console := filepath.Join(vm.RunDir(filepath.Join(machineDir, uuid)), vm.Console)
	log := filepath.Join(vm.RunDir(filepath.Join(machineDir, uuid)), vm.ConsoleLog)
	printed := func(text string, times int) {
		t.Helper()
		for deadline := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
			b, _ := os.ReadFile(log) // it is not there at first
			if strings.Count(string(b), text) >= times {
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("its log has no %q: %q", text, b)
			}
		}
	}
	printed("guest: up", 1)
	c, err := net.Dial("unix", console)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Write([]byte("hello\n")); err != nil {
		t.Fatal(err)
	}
	printed("hello\n", 1)
	c.Close()

	// Its screen is seen, by a viewer and as a picture, and an NMI is heard.
	shot, err := m.Screenshot(t.Context(), uuid)
	if err != nil {
		t.Fatal(err)
	}
	img, err := png.Decode(bytes.NewReader(shot))
	if err == nil {
		err = rfb.Red(img)
	}
	if err != nil {
		t.Error(err)
	}
	if c, err = net.Dial("unix", filepath.Join(filepath.Dir(console), vm.Screen)); err != nil {
		t.Fatal(err)
	}
	seen, err := rfb.See(c)
	if err == nil {
		err = rfb.Red(seen)
	}
	if err != nil {
		t.Error(err)
	}
	c.Close()
	if _, err := m.Guest(t.Context(), uuid); !errors.Is(err, ga.ErrSilent) {
		t.Errorf("a guest without an agent: %v", err)
	}
	if err := m.NMI(t.Context(), uuid); err != nil {
		t.Error(err)
	}
	printed("guest: nmi", 1)

	// Another agent adopts it.
	stop()
	m, stop = begin()
	defer func() { stop() }()
	m.Known(map[string]*api.InstanceSpec{uuid: spec}, []string{"i1"})
	m.SawAll(map[string]State{unit: {Active: unitRuns, Since: time.Now()}})
	until(w, "adopted", running)
	if now := units.pid(unit); now != pid {
		t.Errorf("adopted is process %d, it was %d", now, pid)
	}

	// A disk comes and grows while it runs, and goes when the guest boots again, for this one
	// lets go of nothing; the same at the next start.
	c2, err := qmp.Dial(t.Context(), filepath.Join(vm.RunDir(filepath.Join(machineDir, uuid)), vm.SideMonitor))
	if err != nil {
		t.Fatal(err)
	}
	defer c2.Close()
	disk := func(name string) vm.HasDisk {
		t.Helper()
		has, err := vm.QEMU{Monitor: c2}.Look(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return has.Disks[name]
	}
	more, less := *spec.VM, *spec.VM
	more.Disks = append(slices.Clone(more.Disks), api.VMDisk{Name: "disk2", SizeMiB: 1})
	now := func(v *api.VM) Wanted { s := *spec; s.VM = v; return Wanted{Spec: &s} }
	w = now(&more)
	until(w, "a disk more", func(st api.InstanceStatus) bool { return running(st) && disk("disk2").MiB == 1 })
	grown := more
	grown.Disks = append(slices.Clone(more.Disks[:2]), api.VMDisk{Name: "disk2", SizeMiB: 3})
	w = now(&grown)
	until(w, "a larger disk", func(st api.InstanceStatus) bool { return running(st) && disk("disk2").MiB == 3 })
	less.Dropped = []string{"disk2"}
	w = now(&less)
	until(w, "the guest keeps it", func(st api.InstanceStatus) bool { return strings.Contains(st.Reason, "Disk2 waits for the guest") })
	if !disk("disk2").Device || !strings.Contains(store.String(), "disk2 3") {
		t.Errorf("it is gone: %s", store)
	}
	if err := c2.Call(t.Context(), "system_reset", nil, nil); err != nil {
		t.Fatal(err)
	}
	until(w, "gone when it boots again", func(st api.InstanceStatus) bool {
		return running(st) && disk("disk2") == (vm.HasDisk{}) && !strings.Contains(store.String(), "disk2")
	})
	printed("guest: up", 2)

	// Its monitor's socket is lost: that is told, and it runs.
	stop()
	monitor := filepath.Join(vm.RunDir(filepath.Join(machineDir, uuid)), vm.Monitor)
	if err := os.Rename(monitor, monitor+"-lost"); err != nil {
		t.Fatal(err)
	}
	m, stop = begin()
	m.Known(map[string]*api.InstanceSpec{uuid: w.Spec}, []string{"i1"})
	m.SawAll(map[string]State{unit: {Active: unitRuns, Since: time.Now()}})
	until(w, "its monitor lost", func(st api.InstanceStatus) bool {
		return st.State == api.InstanceRunning && strings.Contains(st.Reason, "cannot be reached at its monitor")
	})
	if err := os.Rename(monitor+"-lost", monitor); err != nil {
		t.Fatal(err)
	}
	until(w, "its monitor found", running)

	// Hung: told, and it goes on when it can.
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	if _, err := m.Screenshot(t.Context(), uuid); err == nil || !strings.Contains(err.Error(), "QEMU") {
		t.Errorf("the screen of one that hangs: %v", err)
	}
	until(w, "hung", func(st api.InstanceStatus) bool { return strings.Contains(st.Reason, "has not answered since") })
	if err := syscall.Kill(pid, syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	until(w, "not hung any more", running)

	// Killed: started again.
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	until(w, "started again", func(st api.InstanceStatus) bool { return running(st) && units.pid(unit) != 0 && units.pid(unit) != pid })
	printed("guest: up", 3)

	// Rebooted by request, by the power button; its monitor's socket is gone then.
	asked := *w.Spec
	asked.Reboot = "r1"
	w.Spec = &asked
	pid = units.pid(unit)
	until(w, "rebooted", func(st api.InstanceStatus) bool { return running(st) && units.pid(unit) != pid && len(st.Done) == 1 })
	printed("guest: power button", 1)
	printed("guest: up", 4)
	asked.Wanted = api.InstanceStopped
	until(w, "stopped", func(st api.InstanceStatus) bool { return st.State == api.InstanceStopped })
	printed("guest: power button", 2)
	until(Wanted{Gone: true}, "gone", func(api.InstanceStatus) bool {
		_, err := os.Stat(filepath.Join(machineDir, uuid))
		return errors.Is(err, os.ErrNotExist)
	})
}
