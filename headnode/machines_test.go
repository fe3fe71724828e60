package headnode

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"nereid/api"
	"nereid/headnode/store"
)

// bootDisk is the image of a disk of 2 GiB.
var bootDisk = api.Image{V: 2, UUID: "0000d15c-0000-4000-8000-000000000001", Owner: alice, Name: "disk", Version: "1", State: api.ImageActive, Public: true,
	Type: api.ImageZvol, OS: "linux", SizeMiB: 2048,
	Files: []api.ImageFile{{Format: api.FormatQCOW2, Compression: "none", Size: 1 << 20, Digest: "sha256:" + strings.Repeat("1", 64)}}}

// machineRack is zoneRack with that image, and servers that have QEMU as they say.
func machineRack(t *testing.T, has ...api.Hypervisor) (*head, []*zones) {
	t.Helper()
	h, zs := zoneRack(t, len(has), func(s *Server) {
		of := s.imageOf
		s.imageOf = func(tx store.Tx, owner, id string) (api.Image, error) {
			if id == bootDisk.UUID || id == "disk" {
				return bootDisk, nil
			}
			return of(tx, owner, id)
		}
	})
	for i, z := range zs {
		info := z.sysinfo()
		info.Hypervisor = has[i]
		req := api.SyncRequest{Seen: z.machine.seen, InventoryDigest: "with QEMU", Inventory: &info, Report: z.rep}
		if _, _, err := z.syncWith(req); err != nil {
			t.Fatal(err)
		}
		z.report(nil)
	}
	must[api.Package](t)(h.client.Packages().Create(context.Background(), api.Package{Name: "vm", Limits: api.Limits{MemoryMiB: 64, VCPUs: 1, QuotaMiB: 5120}}))
	return h, zs
}

var (
	withKVM    = api.Hypervisor{QEMU: "10.0.13", KVM: true}
	withoutKVM = api.Hypervisor{QEMU: "10.0.13", NoKVM: "virtualisation is switched off in its firmware."}
)

func machine0(name string) api.InstanceCreate {
	in := web(name)
	in.Image, in.Package = "disk", "vm"
	return in
}

// TestMachine: a virtual machine, its disks, and what of a zone it has not.
func TestMachine(t *testing.T) {
	h, zs := machineRack(t, withKVM)
	ctx, z := context.Background(), zs[0]
	in := machine0("vm0")
	in.VM = &api.VMCreate{Disks: []string{"512", "remaining"}}
	made := must[api.Instance](t)(h.client.CreateInstance(ctx, in))
	want := &api.VM{Machine: "pc-q35-10.0", CPU: made.VM.CPU, Firmware: api.FirmwareBIOS, Source: api.SourceNoCloud,
		Disks: []api.VMDisk{{Name: "disk0", SizeMiB: 2048, Image: bootDisk.UUID}, {Name: "disk1", SizeMiB: 512}, {Name: "disk2", SizeMiB: made.QuotaMiB - 2560}}}
	if got := fmt.Sprintf("%+v", made.VM); made.Brand != api.BrandKVM || got != fmt.Sprintf("%+v", want) || !strings.HasPrefix(made.VM.CPU, "qemu64,") {
		t.Fatalf("made %s %+v", made.Brand, made.VM)
	}
	z.report(nil)
	spec := z.specs[made.UUID]
	if got := fmt.Sprintf("%+v", spec.VM); got != fmt.Sprintf("%+v", want) || spec.Brand != api.BrandKVM {
		t.Errorf("spec %+v", spec)
	}
	if i := z.images[bootDisk.UUID]; i.Type != api.ImageZvol || i.SizeMiB != 2048 || i.File.Format != api.FormatQCOW2 {
		t.Errorf("image %+v", i)
	}
	for n, err := range h.client.NICs().All(ctx, map[string][]string{"belongs_to": {made.UUID}}) {
		if err != nil || n.Brand != api.BrandKVM {
			t.Errorf("NIC %+v, %v", n, err)
		}
	}

	// Its disks change, as far as its quota goes.
	refused := func(what string, err error, words ...string) {
		t.Helper()
		if err == nil {
			t.Errorf("%s is done", what)
			return
		}
		for _, w := range words {
			if !strings.Contains(err.Error(), w) {
				t.Errorf("%s: %v, want %q", what, err, w)
			}
		}
	}
	_, err := h.client.AddInstanceDisk(ctx, "vm0", "remaining")
	refused("a disk of nothing", err, "nothing remains")
	_, err = h.client.AddInstanceDisk(ctx, "vm0", "1")
	refused("a disk beyond the quota", err, "the package has")
	_, err = h.client.RemoveInstanceDisk(ctx, "vm0", "disk0")
	refused("a machine without its disk", err, "boots from disk disk0")
	_, err = h.client.RemoveInstanceDisk(ctx, "vm0", "disk7")
	refused("a disk that is not there", err, "it has disk0, disk1, disk2")
	must[api.Instance](t)(h.client.RemoveInstanceDisk(ctx, "vm0", "disk2"))
	_, err = h.client.GrowInstanceDisk(ctx, "vm0", "disk1", 100)
	refused("a smaller disk", err, "cannot shrink to 100")
	_, err = h.client.GrowInstanceDisk(ctx, "vm0", "disk1", 1<<20)
	refused("a vast disk", err, "quota is")
	must[api.Instance](t)(h.client.GrowInstanceDisk(ctx, "vm0", "disk1", 1024))
	now := must[api.Instance](t)(h.client.AddInstanceDisk(ctx, "vm0", "100"))
	disks := "[{disk0 2048 " + bootDisk.UUID + "} {disk1 1024 } {disk3 100 }]"
	if got := fmt.Sprint(now.VM.Disks); got != disks || !slices.Equal(now.VM.Dropped, []string{"disk2"}) {
		t.Errorf("disks %s, dropped %v", got, now.VM.Dropped)
	}
	z.report(nil)
	if spec := z.specs[made.UUID]; fmt.Sprint(spec.VM.Disks) != disks || !slices.Equal(spec.VM.Dropped, []string{"disk2"}) {
		t.Errorf("spec %+v", spec.VM)
	}
	audit := must[[]api.InstanceAudit](t)(h.client.InstanceAudit(ctx, "vm0"))
	var actions []string
	for _, a := range audit {
		actions = append(actions, a.Action)
	}
	if !slices.Equal(actions, []string{"add_disk", "grow_disk", "remove_disk", "provision"}) {
		t.Errorf("audit %v", actions)
	}

	for {
		if _, err = h.client.AddInstanceDisk(ctx, "vm0", "1"); err != nil {
			break
		}
	}
	refused("a disk too many", err, "has had 15 disks and has 1 NIC")
	_, err = h.client.AddInstanceNIC(ctx, "vm0", in.Networks[0])
	refused("a NIC too many", err, "no more are allowed together")

	// What needs a program in its guest is refused; so is what is a virtual machine's of a zone.
	z.says("runs", []api.InstanceStatus{{UUID: made.UUID, State: api.InstanceRunning, Made: true, Started: h.clock()}})
	_, err = h.client.KillInstance(ctx, "vm0", "HUP")
	refused("a signal", err, "takes no signal but SIGKILL")
	must[api.Instance](t)(h.client.KillInstance(ctx, "vm0", ""))
	must[api.Instance](t)(h.client.CreateInstance(ctx, web("zone")))
	_, err = h.client.AddInstanceDisk(ctx, "zone", "100")
	refused("a zone's disk", err, "is of brand lx, and has no disks")
	must[api.Instance](t)(h.client.DeleteInstance(ctx, "vm0", false))
	_, err = h.client.AddInstanceDisk(ctx, "vm0", "100")
	refused("a disk of what is being deleted", err, "is being deleted")
}

// TestMachineRefused: one refusal names every fault.
func TestMachineRefused(t *testing.T) {
	h, _ := machineRack(t, withKVM)
	ctx := context.Background()
	for what, c := range map[string]struct {
		change func(*api.InstanceCreate)
		want   []string
	}{
		"every fault": {func(in *api.InstanceCreate) {
			in.VM = &api.VMCreate{DiskMiB: 100, Disks: []string{"x", "0", "remaining", "remaining", "999999"}}
		}, []string{"first disk is to have 100 MiB; image disk@1 has 2048 MiB", `"x": want`, `"0": want`, "two disks", "together; the package has"}},
		"too many": {func(in *api.InstanceCreate) {
			in.VM = &api.VMCreate{Disks: slices.Repeat([]string{"1"}, 15)}
		}, []string{"16 disks and 1 NIC; at most 16 are allowed together"}},
		"nothing remains": {func(in *api.InstanceCreate) {
			in.VM = &api.VMCreate{DiskMiB: 2 << 20, Disks: []string{"remaining"}}
		}, []string{"nothing remains for a disk", "the disks have"}},
		"small package": {func(in *api.InstanceCreate) { in.Package = "tiny" }, []string{"the disks have 2048 MiB together; the package has 1024 MiB"}},
		"a zone of it":  {func(in *api.InstanceCreate) { in.Brand = api.BrandLX }, []string{"is the disk of a virtual machine, which brand lx does not run"}},
		"a zone's root": {func(in *api.InstanceCreate) { in.Brand, in.Image = api.BrandKVM, "debian" }, []string{"is the root of a zone, which brand kvm does not run"}},
		"a zone with vm": {func(in *api.InstanceCreate) { in.Image, in.VM = "debian", &api.VMCreate{TPM: true} },
			[]string{"vm is for instances of brand kvm; this one is of brand lx"}},
		"words": {func(in *api.InstanceCreate) { in.VM = &api.VMCreate{Firmware: "coreboot", Source: "ec2"} }, []string{`firmware of the instance is "coreboot"`, "metadata_source"}},
	} {
		if what == "small package" {
			must[api.Package](t)(h.client.Packages().Create(ctx, api.Package{Name: "tiny", Limits: api.Limits{MemoryMiB: 64, VCPUs: 1, QuotaMiB: 1024}}))
		}
		in := machine0("vm0")
		c.change(&in)
		_, err := h.client.CreateInstance(ctx, in)
		for _, w := range c.want {
			if err == nil || !strings.Contains(err.Error(), w) {
				t.Errorf("%s: %v, want %q", what, err, w)
			}
		}
	}
}

// TestMachinePlacement: no machine is on a server without QEMU, and on one without KVM only
// when it may be emulated. A refusal says of each server why.
func TestMachinePlacement(t *testing.T) {
	h, zs := machineRack(t, api.Hypervisor{}, withoutKVM)
	ctx := context.Background()
	_, err := h.client.CreateInstance(ctx, machine0("vm0"))
	for _, w := range []string{"its platform has no QEMU", "it has no KVM: virtualisation is switched off in its firmware; emulated"} {
		if err == nil || !strings.Contains(err.Error(), w) {
			t.Errorf("got %v, want %q", err, w)
		}
	}
	wantCode(t, "no server", err, api.CodeNoCapacity)
	in := machine0("vm0")
	in.VM = &api.VMCreate{Emulated: true}
	made := must[api.Instance](t)(h.client.CreateInstance(ctx, in))
	if made.Server != zs[1].uuid || !made.VM.Emulated {
		t.Errorf("on %s: %+v", made.Server, made.VM)
	}
	why := must[api.Placement](t)(h.client.InstancePlacement(ctx, "vm0"))
	if !strings.Contains(fmt.Sprint(why.Servers), "no QEMU") {
		t.Errorf("placement %+v", why)
	}
	must[api.Instance](t)(h.client.CreateInstance(ctx, web("zone")))
}
