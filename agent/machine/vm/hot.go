package vm

import (
	"context"
	"errors"
	"fmt"
	"path"
	"regexp"
	"strconv"
	"strings"

	"nereid/agent/machine/qmp"
)

// QEMU is one that runs, at its monitor. What its methods change they look at first, so
// that one which was cut is called again, and does what is left. They may not be called
// side by side.
type QEMU struct{ Monitor Caller }

// Caller has QEMU execute commands, as a qmp.Client does.
type Caller interface {
	Call(ctx context.Context, command string, args, out any) error
	CallFiles(ctx context.Context, command string, args, out any, files ...int) error
}

// Device is a Disk or a NIC: what comes and goes while a machine runs.
type Device interface {
	fmt.Stringer // a few words
	add(context.Context, QEMU, Has) error
	remove(context.Context, QEMU, Has) error
}

// Has is what a machine has that comes and goes. A thing is named for as long as anything
// of it is there.
type Has struct {
	Disks map[string]HasDisk // by name
	NICs  map[string]HasNIC  // by MAC
}

// HasDisk is what is there of a disk.
type HasDisk struct {
	Device bool // the guest has it
	MiB    int  // its size, as the guest has it; 0: QEMU has not opened it
	fd     bool // QEMU holds its descriptor
}

// HasNIC is what is there of a NIC.
type HasNIC struct {
	Device bool // the guest has it
	Slot   int  // where
	tap    bool // QEMU has its tap, and no device for it
}

func (d Disk) String() string { return d.Name }
func (n NIC) String() string  { return "NIC " + n.MAC }

// Add gives a machine a device. The guest finds it when it looks.
func (q QEMU) Add(ctx context.Context, d Device) error {
	has, err := q.Look(ctx)
	if err == nil {
		err = d.add(ctx, q, has)
	}
	if err != nil {
		return fmt.Errorf("give the machine %s: %w", d, err)
	}
	return nil
}

// Remove takes a device from a machine, as far as that goes now. A guest is asked to let
// go of it, and may do so later, or never: DEVICE_DELETED tells, after which Remove does
// the rest. At the latest it lets go when the machine is reset, from inside too. A NIC
// carries nothing any more when Remove returns.
func (q QEMU) Remove(ctx context.Context, d Device) error {
	has, err := q.Look(ctx)
	if err == nil {
		err = d.remove(ctx, q, has)
	}
	if err != nil {
		return fmt.Errorf("take %s from the machine: %w", d, err)
	}
	return nil
}

// Grow tells a machine that a disk has grown, to a size in MiB.
func (q QEMU) Grow(ctx context.Context, disk string, mib int) error {
	if err := q.Monitor.Call(ctx, "block_resize", properties{"node-name": disk, "size": int64(mib) << 20}, nil); err != nil {
		return fmt.Errorf("tell the machine that %s has grown: %w", disk, err)
	}
	return nil
}

var (
	diskRE = regexp.MustCompile(`^disk[0-9]{1,4}$`)
	nicRE  = regexp.MustCompile(`^nic([0-9a-f]{2})([0-9a-f]{2})([0-9a-f]{2})([0-9a-f]{2})([0-9a-f]{2})([0-9a-f]{2})$`)
	tapsRE = regexp.MustCompile(`(?m)^[^a-z]*(nic[0-9a-f]{12}): .*type=tap`)
)

// macOf is the MAC that a NIC's id has in it.
func macOf(id string) (mac string, ok bool) {
	part := nicRE.FindStringSubmatch(id)
	if part == nil {
		return "", false
	}
	return strings.Join(part[1:], ":"), true
}

const peripheral = "/machine/peripheral" // devices that have ids

// Look asks what a machine has.
func (q QEMU) Look(ctx context.Context) (has Has, err error) {
	has = Has{map[string]HasDisk{}, map[string]HasNIC{}}
	for _, look := range []func(context.Context, Has) error{q.devices, q.nodes, q.files, q.taps} {
		if err := look(ctx, has); err != nil {
			return Has{}, fmt.Errorf("ask QEMU what the machine has: %w", err)
		}
	}
	return has, nil
}

func (q QEMU) devices(ctx context.Context, has Has) error {
	var all []struct{ Name string }
	if err := q.Monitor.Call(ctx, "qom-list", properties{"path": peripheral}, &all); err != nil {
		return err
	}
	for _, d := range all {
		name, is := strings.CutPrefix(d.Name, deviceOf(""))
		if !is {
			continue
		}
		if diskRE.MatchString(name) {
			has.Disks[name] = HasDisk{Device: true}
		} else if mac, is := macOf(name); is {
			var bus string
			err := q.Monitor.Call(ctx, "qom-get", properties{"path": path.Join(peripheral, d.Name), "property": "parent_bus"}, &bus)
			var refused *qmp.Error
			if errors.As(err, &refused) { // it went meanwhile
				continue
			}
			if err != nil {
				return err
			}
			slot, err := strconv.Atoi(strings.TrimPrefix(path.Base(bus), "slot"))
			if err != nil {
				return fmt.Errorf("NIC %s is in %q, which is no slot", mac, bus)
			}
			has.NICs[mac] = HasNIC{Device: true, Slot: slot}
		}
	}
	return nil
}

func (q QEMU) nodes(ctx context.Context, has Has) error {
	var all []struct {
		Name  string `json:"node-name"`
		Image struct {
			Size int64 `json:"virtual-size"`
		}
	}
	if err := q.Monitor.Call(ctx, "query-named-block-nodes", properties{"flat": true}, &all); err != nil {
		return err
	}
	for _, n := range all {
		if diskRE.MatchString(n.Name) {
			d := has.Disks[n.Name]
			d.MiB = max(1, int(n.Image.Size>>20))
			has.Disks[n.Name] = d
		}
	}
	return nil
}

// firstSet is the first number of the sets of descriptors that are of disks, which have
// their numbers by their slots.
const firstSet = 100

func (q QEMU) files(ctx context.Context, has Has) error {
	var all []struct {
		ID  int `json:"fdset-id"`
		FDs []struct{ Opaque string }
	}
	if err := q.Monitor.Call(ctx, "query-fdsets", nil, &all); err != nil {
		return err
	}
	for _, set := range all {
		for _, fd := range set.FDs {
			if set.ID >= firstSet && diskRE.MatchString(fd.Opaque) {
				d := has.Disks[fd.Opaque]
				d.fd = true
				has.Disks[fd.Opaque] = d
			}
		}
	}
	return nil
}

// taps asks for the host's sides of NICs, which no command but one for people tells of.
func (q QEMU) taps(ctx context.Context, has Has) error {
	var text string
	if err := q.Monitor.Call(ctx, "human-monitor-command", properties{"command-line": "info network"}, &text); err != nil {
		return err
	}
	for _, m := range tapsRE.FindAllStringSubmatch(text, -1) {
		mac, _ := macOf(m[1])
		if n := has.NICs[mac]; !n.Device {
			has.NICs[mac] = HasNIC{tap: true}
		}
	}
	return nil
}

// add hands the disk over as an open file, as the machine's unit may open those alone that
// it was started with.
func (d Disk) add(ctx context.Context, q QEMU, has Has) error {
	h := has.Disks[d.Name]
	if h.Device {
		return nil
	}
	if h.MiB == 0 {
		if err := d.forget(ctx, q, h); err != nil { // one that was cut is of another opening
			return err
		}
		fd, err := d.open(ctx)
		if err != nil {
			return err
		}
		defer closeFile(fd)
		if err := q.Monitor.CallFiles(ctx, "add-fd", properties{"fdset-id": firstSet + d.Slot, "opaque": d.Name}, nil, fd); err != nil {
			return err
		}
		d.Path = fmt.Sprint("/dev/fdset/", firstSet+d.Slot)
		if err := q.Monitor.Call(ctx, "blockdev-add", d.blockdev(), nil); err != nil {
			return err
		}
	}
	return q.Monitor.Call(ctx, "device_add", d.device(), nil)
}

func (d Disk) remove(ctx context.Context, q QEMU, has Has) error {
	h := has.Disks[d.Name]
	if h.Device {
		return q.ask(ctx, d.Name)
	}
	if h.MiB > 0 {
		if err := q.Monitor.Call(ctx, "blockdev-del", properties{"node-name": d.Name}, nil); err != nil {
			return err
		}
	}
	return d.forget(ctx, q, h)
}

// forget has QEMU close the file of a disk.
func (d Disk) forget(ctx context.Context, q QEMU, h HasDisk) error {
	if !h.fd {
		return nil
	}
	return q.Monitor.Call(ctx, "remove-fd", properties{"fdset-id": firstSet + d.Slot}, nil)
}

// ask asks the guest to let go of a device. One that is gone, or going, is no error.
func (q QEMU) ask(ctx context.Context, name string) error {
	err := q.Monitor.Call(ctx, "device_del", properties{"id": deviceOf(name)}, nil)
	var refused *qmp.Error
	if errors.As(err, &refused) && (refused.Class == "DeviceNotFound" || strings.Contains(refused.Desc, "in the process of unplug")) {
		return nil
	}
	return err
}

func (n NIC) add(ctx context.Context, q QEMU, has Has) error {
	h := has.NICs[n.MAC]
	if h.Device {
		return nil
	}
	if h.tap { // one that was cut is of another tap, maybe
		if err := n.cut(ctx, q); err != nil {
			return err
		}
	}
	if err := n.open(); err != nil {
		return err
	}
	defer n.close()
	id := nicID(n.MAC)
	p, files := n.netdev(), map[string]int{"fd": n.FD}
	if n.Vhost {
		files["vhostfd"] = n.VhostFD
	}
	for key, fd := range files {
		name := key + "-" + id
		if err := q.Monitor.CallFiles(ctx, "getfd", properties{"fdname": name}, nil, fd); err != nil {
			return err
		}
		p[key] = name
	}
	if err := q.Monitor.Call(ctx, "netdev_add", p, nil); err != nil {
		return err
	}
	return q.Monitor.Call(ctx, "device_add", n.device(), nil)
}

func (n NIC) close() {
	closeFile(n.FD)
	if n.Vhost {
		closeFile(n.VhostFD)
	}
}

// remove takes the tap first: what the guest still has of the NIC carries nothing, though
// QEMU closes the tap no earlier than that goes.
func (n NIC) remove(ctx context.Context, q QEMU, has Has) error {
	if err := n.cut(ctx, q); err != nil || !has.NICs[n.MAC].Device {
		return err
	}
	return q.ask(ctx, nicID(n.MAC))
}

// cut parts a NIC from its tap. One that has none is no error.
func (n NIC) cut(ctx context.Context, q QEMU) error {
	err := q.Monitor.Call(ctx, "netdev_del", properties{"id": nicID(n.MAC)}, nil)
	var refused *qmp.Error
	if errors.As(err, &refused) && (refused.Class == "DeviceNotFound" || strings.Contains(refused.Desc, "not found")) {
		return nil
	}
	return err
}
