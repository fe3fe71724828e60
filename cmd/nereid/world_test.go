package main

import (
	"net/http"
	"net/netip"
	"time"

	"nereid/api"
)

// stock fills the fake with a small datacenter: one server that runs, one that
// waits, one UUID that two machines claim, one that is silent and says strange
// things. Times are whole hours ago, so that tables do not change within a test.
func (f *fake) stock(now time.Time) {
	hours := func(n int) *time.Time { t := now.Add(-time.Duration(n) * time.Hour); return &t }
	disks := []api.Disk{
		{Name: "vda", ID: "virtio-cn0-0", Transport: "virtio", SizeBytes: 8 << 30, Model: "QEMU disk"},
		{Name: "vdb", ID: "virtio-cn0-1", Transport: "virtio", SizeBytes: 8 << 30, Model: "QEMU disk"},
	}
	sysinfo := func(uuid, mac string) *api.Sysinfo {
		return &api.Sysinfo{
			UUID: uuid, Manufacturer: "QEMU", Product: "Standard PC (Q35 + ICH9, 2009)", Firmware: "bios", BIOSVersion: "1.16.2",
			MemoryBytes: 2 << 30, Kernel: "6.12.0-amd64",
			CPU:   api.CPU{Model: "QEMU TCG CPU", Sockets: 1, Cores: 2, Threads: 2, Virtualization: "svm"},
			NICs:  []api.NIC{{Name: "enp0s2", MAC: mac, Driver: "virtio_net", PCIAddress: "0000:00:02.0", LinkUp: true, SpeedMbps: 1000, MTU: 1500}},
			Disks: disks,
		}
	}
	const platform = "20261122T101500Z"
	used := sysinfo("4e455245-4944-4000-8000-000000000010", "52:54:00:00:00:10")
	used.Disks = []api.Disk{disks[0], disks[1], {Name: "sr0", Transport: "sata", Removable: true, ReadOnly: true, SizeBytes: 1 << 20}}
	used.Disks[0].InUseBy, used.Disks[1].InUseBy = "pool zones", "pool zones"
	foreign := sysinfo("4e455245-4944-4000-8000-000000000011", "52:54:00:00:00:11")
	f.servers = []*api.Server{
		{
			UUID: used.UUID, Hostname: "cn0", State: api.StateRunning, MACs: []string{"52:54:00:00:00:10"}, Address: "10.99.99.100",
			Approved: true, SetUp: true, Created: *hours(50), LastSeen: hours(2), Booted: hours(26), BootID: "bootaaaa", Revision: "r1",
			Platform: api.PlatformChoice{Running: platform, Next: platform, Previous: platform, Reason: "the default"},
			Sysinfo:  used,
			Report: &api.Report{BootID: "bootaaaa", Platform: platform, AgentVersion: "v0.1.0",
				Pools: []api.Pool{{Name: "zones", GUID: "1234567890", Health: "ONLINE", SizeBytes: 7 << 30, AllocatedBytes: 900 << 20, System: true}},
				Boot:  api.BootTimings{Stub: 1.5, SwitchRoot: 9.2, Systemd: 9.4, Agent: 14.1, FirstSync: 14.8}},
			Usage: &api.Usage{UptimeSeconds: 93600, MemoryFreeBytes: 1536 << 20, Load1: 0.25, AgentRSSBytes: 21 << 20, AgentCPUSeconds: 12.5,
				Network: &api.NetworkReport{Applied: true, Problems: []string{"bond1: enp0s9 has no link"}, Maps: map[uint32]string{4097: "e:7"},
					Gateways: []api.GatewayReport{{Owner: "a11ce000-0000-4000-8000-000000000001", Used: "100.64.0.2", Down: []string{"100.64.0.1"}}},
					Drops:    map[string]uint64{"mac": 3, "vxlan": 12, "router_to_nobody": 4, "ra": 0}}},
		},
		{
			UUID: foreign.UUID, Hostname: "52-54-00-00-00-11", State: api.StatePending, StateReason: "waits for an operator's approval",
			MACs: []string{"52:54:00:00:00:11"}, Address: "10.99.99.101", Created: *hours(1), LastSeen: hours(1), BootID: "bootbbbb", Revision: "r1",
			Platform: api.PlatformChoice{Running: platform, Next: platform, Trial: true, Attempts: 1, Reason: "the default"}, Sysinfo: foreign,
		},
		{
			UUID: "4c4c4544-0042-3510-8052-b4c04f4e4d32", Hostname: "twin", State: api.StateHeld,
			StateReason: "two machines claim this UUID: 52:54:00:00:00:20 and 52:54:00:00:00:21", MACs: []string{"52:54:00:00:00:20", "52:54:00:00:00:21"},
			Created: *hours(3), Revision: "r1",
		},
		{
			UUID: "4c4c4544-0043-3510-8052-b4c04f4e4d32", Hostname: "evil\x1b[2J\x07", State: api.StateUnknown, StateReason: "silent for 5 hours",
			MACs: []string{"52:54:00:00:00:22"}, Address: "10.99.99.102", Approved: true, SetUp: true, Created: *hours(9), LastSeen: hours(5), Revision: "r1",
			Platform: api.PlatformChoice{Running: platform, Next: platform},
			Sysinfo:  &api.Sysinfo{MemoryBytes: 64 << 30, Disks: []api.Disk{{Name: "sda", SizeBytes: 1 << 40, Model: "\x1b]0;owned\x07Disk"}}},
			Report:   &api.Report{Pools: []api.Pool{{Name: "zones", Health: "DEGRADED", SizeBytes: 1 << 40, AllocatedBytes: 1 << 30, System: true}}},
			Alerts:   []string{"pool zones is DEGRADED"},
		},
	}
	start := time.Date(2026, 11, 22, 10, 15, 0, 0, time.UTC)
	at := func(s float64) time.Time { return start.Add(time.Duration(s * float64(time.Second))) }
	done := at(21.5)
	f.boots = []api.Boot{
		{
			ID: "7k2mxqaaaaaaaaaaaaaaaaaaaa", MAC: "52:54:00:00:00:10", UUID: used.UUID, Address: "10.99.99.100", Arch: 7, Platform: platform, Started: start, Done: &done,
			Events: []api.BootEvent{
				{Time: start, Stage: api.StageDiscover, Count: 2},
				{Time: at(0.9), Stage: api.StageAck, Detail: "10.99.99.100"},
				{Time: at(1.4), Stage: api.StageTFTP, Detail: "ipxe.efi", Bytes: 1 << 20, Seconds: 0.5},
				{Time: at(3.0), Stage: api.StageIPXEDiscover},
				{Time: at(3.2), Stage: api.StageIPXEAck},
				{Time: at(3.3), Stage: api.StageScript, Bytes: 612},
				{Time: at(4.3), Stage: api.StageKernel, Detail: "vmlinuz", Bytes: 12 << 20, Seconds: 1},
				{Time: at(5.3), Stage: api.StageInitrd, Detail: "initrd.img", Bytes: 10 << 20, Seconds: 1},
				{Time: at(5.4), Stage: api.StageConfig, Bytes: 1536},
				{Time: at(7.5), Stage: api.StageStub, Seconds: 1.5},
				{Time: at(14.4), Stage: api.StageLayer, Detail: "base.squashfs", Bytes: 210 << 20, Seconds: 6.9},
				{Time: at(14.5), Stage: api.StageRoot, Seconds: 8.7},
				{Time: at(15.0), Stage: api.StageSwitchRoot, Seconds: 9.2},
				{Time: at(20.9), Stage: api.StageEnrol},
				{Time: done, Stage: api.StageFirstSync},
			},
			Legs: []api.BootLeg{
				{Name: "firmware+DHCP", Start: 0, Seconds: 0.9}, {Name: "TFTP", Start: 0.9, Seconds: 0.5},
				{Name: "script", Start: 1.4, Seconds: 1.9}, {Name: "kernel+initrd", Start: 3.3, Seconds: 2.1},
				{Name: "root filesystem", Start: 5.4, Seconds: 9.1}, {Name: "kernel to systemd", Start: 14.5, Seconds: 0.7},
				{Name: "systemd to first sync", Start: 15.2, Seconds: 6.3},
			},
		},
		{
			ID: "3bq5zzaaaaaaaaaaaaaaaaaaaa", MAC: "52:54:00:00:00:10", UUID: used.UUID, Arch: 7, Platform: "20261101T080000Z", Trial: true, Started: start.Add(-time.Hour),
			Events: []api.BootEvent{
				{Time: at(-3600), Stage: api.StageDiscover},
				{Time: at(-3590), Stage: api.StageFailed, Detail: "base.squashfs has digest 00ab, the signed manifest says 11cd; it is fetched again in 4 s"},
			},
			Legs: []api.BootLeg{{Name: "firmware+DHCP", Start: 0, Seconds: 10}},
		},
		{
			ID: "x6c7vvaaaaaaaaaaaaaaaaaaaa", MAC: "52:54:00:00:00:99", Arch: 11, Started: start,
			Events: []api.BootEvent{{Time: start, Stage: api.StageRefused, Detail: "wrong architecture: UEFI arm64 is not built here; nothing to boot; import a platform for it", Count: 3}},
		},
	}
}

func (f *fake) explain(_ http.ResponseWriter, r *http.Request) (any, error) {
	in, err := read[api.BootRequest](r)
	if err != nil {
		return nil, err
	}
	e := api.Explanation{Request: in, Answer: api.BootAnswer{
		Verdict: api.VerdictAnswer, Rule: "known server", Reason: "the MAC belongs to cn0, which boots the default platform",
		Change: "assign another platform: nereid platform assign STAMP cn0", Address: netip.MustParsePrefix("10.99.99.100/24"), Hostname: "cn0",
		Boot: true, Server: "4e455245-4944-4000-8000-000000000010", Platform: "20261122T101500Z"}}
	switch {
	case in.Arch == 11:
		e.Answer.Boot, e.Answer.Rule, e.Answer.Reason = false, "wrong architecture", "there is no iPXE for UEFI arm64 here"
	case in.IPXE():
		e.BootFile, e.Script = "http://10.99.99.7/boot/EXPLAIN/script.ipxe", "#!ipxe\nkernel http://10.99.99.7/files/ab/vmlinuz\nboot\n"
	case in.Arch == 7:
		e.BootFile, e.Options = "ipxe.efi", []string{"51 lease time: 12h0m0s", "66 TFTP server: 10.99.99.7"}
	default:
		e.BootFile = "undionly.kpxe"
	}
	return e, nil
}
