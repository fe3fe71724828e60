//go:build netns

package vm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"nereid/agent/machine/qmp"
)

// cutter is a monitor at which the agent ends after some commands.
type cutter struct {
	*qmp.Client
	left int
}

var errCut = errors.New("the agent was ended")

func (c *cutter) Call(ctx context.Context, command string, args, out any) error {
	return c.CallFiles(ctx, command, args, out)
}

func (c *cutter) CallFiles(ctx context.Context, command string, args, out any, files ...int) error {
	if c.left--; c.left < 0 {
		return errCut
	}
	return c.Client.CallFiles(ctx, command, args, out, files...)
}

// TestNetNSHot: a QEMU gets a disk and a NIC while it runs, is told that the disk grew,
// and loses both when its guest lets go of them, which this one does only when it is reset;
// an agent that is ended at any command of that does the rest the next time; nothing of
// what went is open in QEMU then.
func TestNetNSHot(t *testing.T) {
	runtime.LockOSThread() // its network goes with it
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	m := small(dir)
	more, nic := Disk{Name: "disk1", Path: dir + "/more", Slot: 1}, NIC{MAC: "90:b8:d0:00:00:02", Tap: "np90b8d0000002", MTU: 1400, Slot: 14, Vhost: true}
	for _, name := range []string{m.Disks[0].Path, more.Path} {
		if err := errors.Join(os.WriteFile(name, nil, 0o600), os.Truncate(name, 2<<20)); err != nil {
			t.Fatal(err)
		}
	}
	for tap, how := range map[string]string{m.NICs[0].Tap: "", nic.Tap: " multi_queue"} { // as QEMU itself opens one, and as the agent makes one
		if out, err := exec.Command("sh", "-c", "ip tuntap add "+tap+" mode tap vnet_hdr"+how+" && ip link set "+tap+" up").CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	args, err := m.Arguments()
	if err != nil {
		t.Fatal(err)
	}
	listens := created(t, dir, Screen)                  // after the monitors'
	cmd := exec.Command(Program, append(args, "-S")...) // firmware and guest do nothing
	cmd.Stderr = t.Output()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	select {
	case <-listens:
	case <-ctx.Done():
		t.Fatal("QEMU does not listen")
	}
	c, err := qmp.Dial(ctx, filepath.Join(dir, Monitor))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	q := QEMU{c}
	do := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	first := Has{map[string]HasDisk{"disk0": {Device: true, MiB: 2}}, map[string]HasNIC{m.NICs[0].MAC: {Device: true, Slot: 15}}}
	with := func(f func(Has)) Has {
		h := Has{map[string]HasDisk{"disk0": first.Disks["disk0"]}, map[string]HasNIC{m.NICs[0].MAC: first.NICs[m.NICs[0].MAC]}}
		f(h)
		return h
	}
	has := func(what string, want Has) {
		t.Helper()
		if got, err := q.Look(ctx); err != nil || !reflect.DeepEqual(got, want) {
			t.Fatalf("%s: %v\n got %+v\nwant %+v", what, err, got, want)
		}
	}
	open := func(what string) bool {
		files, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", cmd.Process.Pid))
		do(err)
		for _, f := range files {
			if to, _ := os.Readlink(f); strings.Contains(to, what) {
				return true
			}
		}
		return false
	}
	carries := func(tap string) bool {
		out, err := exec.Command("ip", "-o", "link", "show", tap, "up").CombinedOutput()
		do(err)
		return strings.Contains(string(out), ",LOWER_UP")
	}
	reset := func(device string) {
		t.Helper()
		do(c.Call(ctx, "system_reset", nil, nil))
		for e := range c.Events() {
			if e.Name == "DEVICE_DELETED" && strings.Contains(string(e.Data), `"device": "`+device+`"`) {
				return
			}
		}
		t.Fatal("the connection ended")
	}
	// at ends f at the n-th command, and reports whether it was ended.
	at := func(n int, f func(QEMU) error) bool {
		t.Helper()
		err := f(QEMU{&cutter{c, n}})
		if err != nil && !errors.Is(err, errCut) {
			t.Fatal(err)
		}
		return err != nil
	}
	has("at first", first)
	for _, d := range []struct {
		Device
		id  string
		has Has
	}{
		{more, "dev-disk1", with(func(h Has) { h.Disks["disk1"] = HasDisk{Device: true, MiB: 2, fd: true} })},
		{nic, "dev-nic90b8d0000002", with(func(h Has) { h.NICs[nic.MAC] = HasNIC{Device: true, Slot: 14} })},
	} {
		for n, cut := 0, true; cut; n++ {
			// What was cut goes, or is completed.
			if cut = at(n, func(q QEMU) error { return q.Add(ctx, d) }); cut && n > 0 && n%2 == 0 {
				do(q.Remove(ctx, d))
				if now, err := q.Look(ctx); err == nil && (now.Disks["disk1"].Device || now.NICs[nic.MAC].Device) {
					reset(d.id)
					do(q.Remove(ctx, d))
				}
				has(fmt.Sprintf("%s cut at %d and taken back", d, n), first)
			}
			do(q.Add(ctx, d))
			do(q.Add(ctx, d))
			has(fmt.Sprintf("%s cut at %d", d, n), d.has)
			if is := carries(nic.Tap); is != (d.id != "dev-disk1") {
				t.Fatalf("with %s the tap's carrier is %v", d, is)
			}
			at(n, func(q QEMU) error { return q.Remove(ctx, d) })
			do(q.Remove(ctx, d)) // the guest, which does nothing, keeps it
			if now, err := q.Look(ctx); err != nil || !now.Disks["disk1"].Device && !now.NICs[nic.MAC].Device {
				t.Fatalf("%s is asked for back, %v: %+v", d, err, now)
			}
			reset(d.id)
			at(n, func(q QEMU) error { return q.Remove(ctx, d) })
			do(q.Remove(ctx, d))
			has(fmt.Sprintf("%s gone after a cut at %d", d, n), first)
			if open(more.Path) {
				t.Fatal("QEMU has the disk open that is gone")
			}
		}
	}
	do(q.Add(ctx, more))
	do(os.Truncate(more.Path, 5<<20))
	do(q.Grow(ctx, "disk1", 5))
	do(q.Grow(ctx, "disk1", 5))
	has("grown", with(func(h Has) { h.Disks["disk1"] = HasDisk{Device: true, MiB: 5, fd: true} }))
	do(os.Remove(more.Path))
	if err := q.Add(ctx, NIC{MAC: "90:b8:d0:00:00:03", Tap: "npnone", Slot: 13}); err == nil || !strings.Contains(err.Error(), "look for tap npnone") {
		t.Errorf("a tap that is not there: %v", err)
	}
	has("after what could not be", with(func(h Has) { h.Disks["disk1"] = HasDisk{Device: true, MiB: 5, fd: true} }))
}
