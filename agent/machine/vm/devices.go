package vm

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
)

// properties are those of an object of QEMU's, as JSON: the same where it is started with
// one, and where it gets one while it runs.
type properties map[string]any

func (p properties) String() string {
	text, err := json.Marshal(p)
	if err != nil { // there is nothing in them that cannot be marshalled
		return err.Error()
	}
	return string(text)
}

// deviceOf is what QEMU calls the device of a disk, or of a NIC by its id.
func deviceOf(name string) string { return "dev-" + name }

// blockdev opens a disk past the host's page cache, which ZFS has its own for. One that
// is only read may be a file in memory, past whose cache there is nothing.
func (d Disk) blockdev() properties {
	file := properties{"driver": "file", "filename": d.Path}
	if d.Block {
		file["driver"] = "host_device"
	}
	p := properties{"driver": "raw", "node-name": d.Name, "file": file}
	for _, p := range []properties{file, p} {
		if d.ReadOnly {
			p["read-only"] = true
		} else {
			p["cache"], p["discard"] = properties{"direct": true}, "unmap"
		}
	}
	return p
}

// device is what the guest sees of a disk. A write that fails, as it does in a full pool,
// stops the machine, and not its file system.
func (d Disk) device() properties {
	p := properties{"driver": "virtio-blk-pci", "id": deviceOf(d.Name), "drive": d.Name, "bus": fmt.Sprint("slot", d.Slot), "iothread": "io0", "serial": d.Name}
	if d.Slot == NoSlot {
		p["bus"], p["addr"] = "pcie.0", "0x8"
	}
	if !d.ReadOnly {
		p["werror"], p["rerror"], p["discard"], p["write-zeroes"], p["physical_block_size"] = "stop", "report", true, true, 4096
	}
	return p
}

// nicID is what QEMU calls the tap of a NIC.
func nicID(mac string) string { return "nic" + strings.ReplaceAll(mac, ":", "") }

// netdev is the host's side of a NIC.
func (n NIC) netdev() properties {
	p := properties{"type": "tap", "id": nicID(n.MAC), "vhost": n.Vhost}
	if n.FD == 0 {
		p["ifname"], p["script"], p["downscript"] = n.Tap, "no", "no"
		return p
	}
	p["fd"] = strconv.Itoa(n.FD)
	if n.Vhost {
		p["vhostfd"] = strconv.Itoa(n.VhostFD)
	}
	return p
}

// device is what the guest sees of a NIC.
func (n NIC) device() properties {
	id := nicID(n.MAC)
	p := properties{"driver": "virtio-net-pci", "id": deviceOf(id), "netdev": id, "mac": n.MAC, "bus": fmt.Sprint("slot", n.Slot), "romfile": ""}
	if n.MTU > 0 {
		p["host_mtu"] = n.MTU
	}
	return p
}
