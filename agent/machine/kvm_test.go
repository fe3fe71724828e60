package machine

import (
	"slices"
	"strings"
	"testing"
	"time"

	"nereid/agent/machine/vm"
	"nereid/agent/machine/zone"
	"nereid/api"
)

// machineOf is a virtual machine with two disks and a NIC.
func machineOf(uuid string) *api.InstanceSpec {
	s := specOf(uuid)
	s.Brand = api.BrandKVM
	s.VM = &api.VM{Machine: "pc-q35-10.0", CPU: "qemu64", Firmware: api.FirmwareBIOS, Source: api.SourceNoCloud,
		Disks: []api.VMDisk{{Name: "disk0", SizeMiB: 10, Image: "i1"}, {Name: "disk1", SizeMiB: 20}}}
	return s
}

// TestMachinePlan prints what is done of a virtual machine where that is not what is done
// of a zone, and what is refused.
func TestMachinePlan(t *testing.T) {
	spec := machineOf("a")
	now := seen{image: true, dataset: true, kept: spec, hypervisor: Hypervisor{QEMU: true, KVM: true}, dir: "/run/a", pool: "zones"}
	f := machineFiles(spec, now)
	ran := now
	ran.unit, ran.ran, ran.left, ran.guest, ran.start, ran.seed, ran.limits = unitRuns, true, &f.host, &f.guest, f.start, f.seed, &spec.Limits
	hot := ran
	hot.at = time.Unix(1e9, 0)
	less := func(s *seen, i *api.InstanceSpec) {
		v := *i.VM
		i.VM, v.Disks, v.Dropped = &v, v.Disks[:1], []string{"disk1"}
	}
	for _, tt := range []struct {
		what string
		seen seen
		f    func(*seen, *api.InstanceSpec)
		out  string
	}{
		{"as it is wanted", ran, nil, ""},
		{"as it is wanted, and asked what it has", hot, nil, ""},
		{"nothing is there", now, func(s *seen, _ *api.InstanceSpec) { s.dataset, s.kept, s.image = false, nil, false }, "image i1, then image"},
		{"the image is there", now, func(s *seen, _ *api.InstanceSpec) { s.dataset, s.kept = false, nil }, "2 disks quota 1024 MiB; keep spec; files for a start; start"},
		{"cut while its disks were made", now, func(s *seen, _ *api.InstanceSpec) { s.kept = nil }, "2 disks quota 1024 MiB; keep spec; files for a start; start"},
		{"cut, and the image went", now, func(s *seen, _ *api.InstanceSpec) { s.kept, s.image = nil, false }, "image i1, then image"},
		{"lost", now, func(s *seen, i *api.InstanceSpec) { s.dataset, s.kept, i.Made = false, nil, true }, "error: it ran before"},
		{"a larger disk", ran, func(_ *seen, i *api.InstanceSpec) {
			i.VM = &api.VM{Machine: "pc-q35-10.0", CPU: "qemu64", Firmware: "bios", Source: "nocloud", Disks: []api.VMDisk{{Name: "disk0", SizeMiB: 99}}}
		}, "1 disk quota 1024 MiB; keep spec; files"},
		{"more disk together", ran, func(_ *seen, i *api.InstanceSpec) { i.QuotaMiB = 2048 },
			"quota 2048 MiB; keep spec; files; limits {MemoryMiB:128 SwapMiB:0 VCPUs:2 CPUCapPercent:0 CPUWeight:0 QuotaMiB:2048 Processes:0 IOWeight:0}"},
		{"more memory", ran, func(_ *seen, i *api.InstanceSpec) { i.MemoryMiB = 256 }, "keep spec; files"},
		{"a higher cap", ran, func(_ *seen, i *api.InstanceSpec) { i.CPUCapPercent = 50 },
			"keep spec; files; limits {MemoryMiB:128 SwapMiB:0 VCPUs:2 CPUCapPercent:50 CPUWeight:0 QuotaMiB:1024 Processes:0 IOWeight:0}"},
		{"a disk is to go, and it does not run", now, func(_ *seen, i *api.InstanceSpec) {
			v := *i.VM
			i.VM, v.Disks, v.Dropped = &v, v.Disks[:1], []string{"disk1", "disk5"}
		}, "1 disk quota 1024 MiB; keep spec; destroy disk1; destroy disk5; files for a start; start"},
		{"a disk and a NIC more", hot, func(_ *seen, i *api.InstanceSpec) {
			v := *i.VM
			i.VM, v.Disks = &v, append(v.Disks[:2:2], api.VMDisk{Name: "disk2", SizeMiB: 5})
			i.NICs = append(i.NICs[:1:1], api.InstanceNIC{Interface: "net1", MAC: "02:00:00:00:00:02"})
		}, "3 disks quota 1024 MiB; keep spec; files; plug disk2; plug NIC 02:00:00:00:00:02"},
		{"a NIC more that is not there", hot, func(s *seen, i *api.InstanceSpec) {
			s.waits = []string{"02:00:00:00:00:02"}
			i.NICs = append(i.NICs[:1:1], api.InstanceNIC{Interface: "net1", MAC: "02:00:00:00:00:02"})
		}, "keep spec; files, then NIC"},
		{"another NIC in the place of one", hot, func(_ *seen, i *api.InstanceSpec) {
			i.NICs = []api.InstanceNIC{{Interface: "net0", MAC: "02:00:00:00:00:02"}}
		}, "keep spec; files; unplug NIC 02:00:00:00:00:01"},
		{"a larger disk, live", hot, func(_ *seen, i *api.InstanceSpec) {
			v := *i.VM
			i.VM, v.Disks = &v, []api.VMDisk{v.Disks[0], {Name: "disk1", SizeMiB: 99}}
		}, "2 disks quota 1024 MiB; keep spec; files; tell that disk1 has 99 MiB"},
		{"a disk less, live", hot, less, "1 disk quota 1024 MiB; keep spec; files; unplug disk1"},
		{"a disk less, and the guest keeps it", hot, func(s *seen, i *api.InstanceSpec) {
			less(s, i)
			s.asked = map[string]time.Time{"disk1": s.at.Add(-askAgain / 2)}
		}, "1 disk quota 1024 MiB; keep spec; files"},
		{"a disk less, and the guest keeps it for long", hot, func(s *seen, i *api.InstanceSpec) {
			less(s, i)
			s.asked = map[string]time.Time{"disk1": s.at.Add(-askAgain)}
		}, "1 disk quota 1024 MiB; keep spec; files; unplug disk1"},
		{"a disk less, and it is gone", hot, func(s *seen, i *api.InstanceSpec) {
			less(s, i)
			s.hot.Disks = map[string]vm.HasDisk{"disk0": {Device: true, MiB: 10}}
		}, "1 disk quota 1024 MiB; keep spec; files; destroy disk1"},
		{"a disk less, and its QEMU cannot be asked", ran, less, "1 disk quota 1024 MiB; keep spec; files"},
		{"no QEMU, no KVM, and much else", now, func(s *seen, i *api.InstanceSpec) {
			s.hypervisor = Hypervisor{}
			i.VM = &api.VM{Firmware: api.FirmwareUEFI, TPM: true, Disks: []api.VMDisk{{Name: "disk16"}, {Name: "disk01"}}}
			i.NICs = make([]api.InstanceNIC, 15)
		}, "error: this server's platform has no QEMU; it has 2 disks and 15 NICs; disk \"disk16\"; disk \"disk01\""},
		{"no OVMF", now, func(_ *seen, i *api.InstanceSpec) { v := *i.VM; v.Firmware, v.TPM = api.FirmwareUEFI, true; i.VM = &v }, "error: its firmware is to be UEFI; has no OVMF; a TPM; has no swtpm"},
		{"UEFI and a TPM", now, func(s *seen, i *api.InstanceSpec) {
			s.dataset, s.kept, s.hypervisor.UEFI, s.hypervisor.TPM = false, nil, true, true
			v := *i.VM
			v.Firmware, v.TPM = api.FirmwareUEFI, true
			i.VM = &v
		}, "4 disks quota 1024 MiB; keep spec; files for a start; start"},
		{"no KVM", now, func(s *seen, _ *api.InstanceSpec) { s.hypervisor.KVM, s.hypervisor.NoKVM = false, "It is off." }, "error: this server does not run guests on its processors; It is off."},
		{"no KVM, emulated", now, func(s *seen, i *api.InstanceSpec) {
			s.hypervisor.KVM = false
			v := *i.VM
			v.Emulated = true
			i.VM, s.kept = &v, nil
			i.Made = true
		}, "keep spec; files for a start; start"},
		{"no QEMU any more, and it runs", ran, func(s *seen, _ *api.InstanceSpec) { s.hypervisor.QEMU = false }, ""},
	} {
		s, c := tt.seen, *spec
		if !s.at.IsZero() {
			s.hot = &vm.Has{Disks: map[string]vm.HasDisk{"disk0": {Device: true, MiB: 10}, "disk1": {Device: true, MiB: 20}}, NICs: map[string]vm.HasNIC{"02:00:00:00:00:01": {Device: true, Slot: 15}}}
		}
		if tt.f != nil {
			tt.f(&s, &c)
		}
		steps, wait, err := plan(Wanted{Spec: &c}, s)
		var words []string
		for _, step := range steps {
			words = append(words, step.String())
		}
		got := strings.Join(words, "; ")
		if wait != "" {
			got += ", then " + wait
		}
		if all, is := strings.CutPrefix(tt.out, "error: "); is {
			for _, want := range strings.Split(all, "; ") {
				if err == nil || !strings.Contains(err.Error(), want) {
					t.Errorf("%s: error %v, want %s", tt.what, err, want)
				}
			}
		} else if err != nil || got != tt.out {
			t.Errorf("%s:\n got %s (%v)\nwant %s", tt.what, got, err, tt.out)
		}
	}
}

// TestMachineFiles: a machine is started with its disks in the first slots and its NICs in
// the last, by paths that are its own; QEMU takes it; its unit has those devices alone.
func TestMachineFiles(t *testing.T) {
	const uuid = "6a1c1a2e-1d2b-4c3d-8e4f-5a6b7c8d9e0f"
	spec := machineOf(uuid)
	spec.Metadata = map[string]any{"user-script": "#!/bin/sh\nexit 1\n"}
	dir := t.TempDir()
	s := seen{left: &zone.Host{Base: 524288}, dir: dir, pool: "tank", log: "/logs/x.log", hypervisor: Hypervisor{QEMU: true}}
	f := machineFiles(spec, s)
	var got []string
	for _, d := range f.start.Disks {
		got = append(got, d.Name, d.Path)
	}
	want := []string{"disk0", "/dev/zvol/tank/" + uuid + "/disk0", "disk1", "/dev/zvol/tank/" + uuid + "/disk1", "seed", dir + "/seed.img"}
	if !slices.Equal(got, want) || f.start.Disks[1].Slot != 1 || f.start.NICs[0].Slot != vm.Slots-1 || f.start.NICs[0].Tap != "np020000000001" || f.start.UID != 524288 {
		t.Errorf("%+v", f.start)
	}
	if args, err := f.start.Arguments(); err != nil || !slices.Contains(args, "tcg,tb-size=64") {
		t.Errorf("%v", err)
	}
	if err := f.leave(dir, nil); err != nil {
		t.Fatal(err)
	}
	list, err := machineProperties(uuid, dir, spec.Limits)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range list {
		switch p.Name {
		case "DeviceAllow":
			if d := p.Value.([][2]string); len(d) != 5 || d[3][0] != want[1] || d[4][0] != want[3] {
				t.Errorf("devices %v", d)
			}
		case "MemoryMax":
			if p.Value != uint64(128+160+2+64)<<20 {
				t.Errorf("memory %v", p.Value)
			}
		}
	}
	spec.VM.Source = api.SourceSmartOS
	if f := machineFiles(spec, s); f.seed != nil || len(f.start.Disks) != 2 || !f.start.SmartOS {
		t.Errorf("with SmartOS's source: %+v", f.start)
	}
}

// TestMachineLife: a machine is made, changed, stopped, started and deleted by the same
// requests as a zone; it gets no signal but SIGKILL, and says so.
func TestMachineLife(t *testing.T) {
	s := newServer(t)
	spec := machineOf("a")
	for _, step := range []struct {
		f             func(*api.InstanceSpec)
		state, calls  string
		reason, again string
	}{
		{func(*api.InstanceSpec) {}, api.InstanceRunning, "disks of a disk0 10 disk1 20; keep a; start nereid-vm-a.service", "", ""},
		{func(i *api.InstanceSpec) { i.Signal = &api.SignalSpec{ID: "s1", Signal: "SIGHUP"} }, api.InstanceRunning, "", "SIGHUP was not sent", ""},
		{func(i *api.InstanceSpec) { i.MemoryMiB = 512 }, api.InstanceRunning, "keep a", "512 MiB of memory at its next start", ""},
		{func(i *api.InstanceSpec) { i.Reboot = "r1" }, api.InstanceRunning, "stop nereid-vm-a.service; start nereid-vm-a.service", "", ""},
		{func(i *api.InstanceSpec) { i.Signal = &api.SignalSpec{ID: "s2", Signal: "SIGKILL"} }, api.InstanceRunning, "SIGKILL nereid-vm-a.service; reset nereid-vm-a.service; start nereid-vm-a.service", "", ""},
		{func(i *api.InstanceSpec) { i.Wanted = api.InstanceStopped }, api.InstanceStopped, "keep a; stop nereid-vm-a.service", "", ""},
	} {
		c := *spec
		step.f(&c)
		spec = &c
		s.dirty = true
		var st api.InstanceStatus
		for range 9 { // what failed is tried again
			if !s.dirty {
				break
			}
			s.dirty = false
			var err error
			if st, _, err = s.m.Set(t.Context(), "a", Wanted{Spec: spec}); err != nil {
				s.dirty = true
			}
		}
		if st.State != step.state || !strings.Contains(st.Reason, step.reason) || step.reason == "" && st.Reason != "" {
			t.Errorf("%+v, want %s because of %q", st, step.state, step.reason)
		}
		if calls := strings.Join(s.zones.Calls(), "; "); calls != step.calls {
			t.Errorf("did %s\nwant %s", calls, step.calls)
		}
	}
	// An agent that starts anew finds it by its name, and deletes it by what is there.
	spec.Wanted = api.InstanceRunning
	s.set(Wanted{Spec: spec}, "a")
	s.restart()
	s.zones.Calls()
	if st, _ := s.set(Wanted{Spec: spec}, "a"); st.State != api.InstanceRunning || len(s.m.Running()) != 1 {
		t.Errorf("adopted: %+v", st)
	}
	if _, gone := s.set(Wanted{Gone: true}, "a"); !gone || s.zones.String() != "" {
		t.Errorf("left is %s", s.zones)
	}
}
