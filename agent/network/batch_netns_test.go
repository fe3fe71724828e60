//go:build netns

package network

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"nereid/api"
)

// TestNetNSPartialFailure: of many changes those that can be done are done, and
// the error counts the others; also when the kernel's answers get lost.
func TestNetNSPartialFailure(t *testing.T) {
	for _, small := range []bool{false, true} {
		t.Run(fmt.Sprint("small buffer: ", small), func(t *testing.T) { partialFailure(t, small) })
	}
}

func partialFailure(t *testing.T, small bool) {
	n := newLab(t).server(t, 1, 1)
	n.mustApply(t, n.labSpec(1, "192.0.2.1/24", []uint32{100}))
	s := n.read(t)
	vb := s.Links["vb100"].Index
	if small { // room for some errors, not for those of a batch
		err := unix.SetsockoptInt(rawFD(t, n.kernel.conn), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 64<<10)
		if err != nil {
			t.Fatal(err)
		}
	}
	var changes []Change
	for i := range 3000 {
		c := Change{Dev: vb, IP: netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), MAC: MAC{2, 0, 0, 0, byte(i >> 8), byte(i)}}
		if i%2 == 1 {
			c.Dev = 99999
		}
		changes = append(changes, c)
	}
	err := n.kernel.Change(t.Context(), changes)
	if !errors.Is(err, unix.ENODEV) && !errors.Is(err, unix.EINVAL) || !strings.Contains(err.Error(), "(and 1499 more)") {
		t.Error(err)
	}
	table, err := n.kernel.Table(t.Context(), vb, s.Links["vx100"].Index)
	if err != nil || len(table.Neighbours) != 1500 {
		t.Errorf("%d neighbours, %v", len(table.Neighbours), err)
	}
	// Deleting what is not there is no failure.
	for i := range changes {
		changes[i].Delete, changes[i].Dev = true, vb
	}
	if err := n.kernel.Change(t.Context(), changes); err != nil {
		t.Error(err)
	}
}

func rawFD(t *testing.T, c *conn) (fd int) {
	t.Helper()
	if err := c.raw.Control(func(f uintptr) { fd = int(f) }); err != nil {
		t.Fatal(err)
	}
	return fd
}

// TestNetNSEventsLost: when the kernel drops events, all is read again. A change by
// hand in between is repaired.
func TestNetNSEventsLost(t *testing.T) {
	n := newLab(t).server(t, 1, 1)
	n.mustApply(t, n.labSpec(1, "192.0.2.1/24", []uint32{100}))
	if err := n.ApplyMap(t.Context(), 100, bigMap(3000)); err != nil {
		t.Fatal(err)
	}
	n.watch(t)
	// More different events than are remembered, and one of them matters.
	vb := n.read(t).Links["vb100"].Index
	var changes []Change
	for i := range 2 * maxPending {
		changes = append(changes, Change{Dev: vb, IP: netip.AddrFrom4([4]byte{10, 99, byte(i >> 8), byte(i)}), MAC: MAC{2, 0, 0, 0, byte(i >> 8), byte(i)}})
	}
	changes = append(changes, Change{Delete: true, Dev: vb, IP: netip.MustParseAddr("10.0.0.1")})
	if err := n.kernel.Change(t.Context(), changes); err != nil {
		t.Fatal(err)
	}
	eventually(t, "repaired, and what is not of the map removed", func() bool {
		table, err := n.kernel.Table(t.Context(), vb, n.read(t).Links["vx100"].Index)
		return err == nil && len(table.Neighbours) == 3000
	})
}

// TestNetNSManyPorts: 200 ports are made, and a second Apply of them reads three
// dumps and does nothing.
func TestNetNSManyPorts(t *testing.T) {
	n := newLab(t).server(t, 1, 1)
	var ports []api.PortSpec
	for i := range 200 {
		ports = append(ports, labPort(i+1, 1, 100, netip.AddrFrom4([4]byte{10, 0, 0, byte(i + 1)}).String()+"/24"))
	}
	n.mustApply(t, n.labSpec(1, "192.0.2.1/24", []uint32{100}, ports...))
	if !reaches(t, ports[0].MAC, "10.0.0.200") {
		t.Error("the first does not reach the last")
	}
}
