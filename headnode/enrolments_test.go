package headnode

import (
	"bytes"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"nereid/api"
)

// big is the hardware of a large machine: NICs, and the disks of a captured list.
func big(t *testing.T, nics, disks int) (info api.Sysinfo) {
	t.Helper()
	b, err := os.ReadFile("../fixtures/disks/36-sas.json")
	if err != nil {
		t.Fatal(err)
	}
	var captured []api.Disk
	if err := json.Unmarshal(b, &captured); err != nil {
		t.Fatal(err)
	}
	for i := range disks {
		d := captured[i%len(captured)]
		d.Name, d.Serial = fmt.Sprintf("sd%d", i), fmt.Sprintf("%s%d", d.Serial, i)
		d.InUseBy, d.Content = "multipath map mpatha", "a partition table with an LVM2 physical volume"
		info.Disks = append(info.Disks, d)
	}
	for i := range nics {
		info.NICs = append(info.NICs, api.NIC{Name: fmt.Sprintf("enp%ds0f1np1", i), MAC: fmt.Sprintf("3c:ec:ef:01:00:%02x", i), Driver: "mlx5_core", PCIAddress: "0000:5e:00.1", Bus: "pci", LinkUp: true, SpeedMbps: 100000, MTU: 9000})
	}
	return info
}

// TestEnrolmentsAreShort: the largest real machine fits well into what is read of an
// enrolment, and a longer one is refused as too long.
func TestEnrolmentsAreShort(t *testing.T) {
	h := startHead(t)
	h.platform("20261122T101500Z")
	m := h.machine(1)
	m.powerOn()
	info := big(t, 100, 200)
	info.UUID = m.uuid
	info.NICs = append(info.NICs, api.NIC{Name: "eth0", MAC: m.mac})
	req := api.EnrolRequest{Token: m.token, BootID: m.boot, CSR: m.csr(), Sysinfo: info}
	b, err := json.Marshal(req)
	if err != nil || len(b) > api.MaxEnrol/2 {
		t.Errorf("100 NICs and 200 disks take %d bytes of %d, %v", len(b), api.MaxEnrol, err)
	}
	var out api.EnrolResponse
	if st, err := m.post(h.ca.Pool(), "/v1/enrol", req, &out); err != nil || st != http.StatusAccepted {
		t.Errorf("a large machine: %d %v", st, err)
	}
	req.Sysinfo = big(t, 100, 2000)
	if st, err := m.post(h.ca.Pool(), "/v1/enrol", req, &out); st != http.StatusRequestEntityTooLarge || codeOf(err) != api.CodeInvalid {
		t.Errorf("an enrolment that is too long: %d %v", st, err)
	}
}

// held starts enrolments that wait for approval, from an address, and gives what
// becomes of them.
func (m *machine) held(from string, n int) <-chan error {
	m.h.t.Helper()
	c, before := make(chan error, n), m.h.waiting.Held()
	mine := *m
	mine.from = netip.MustParseAddr(from)
	req := api.EnrolRequest{Token: m.token, BootID: m.boot, CSR: m.csr(), Sysinfo: m.sysinfo()}
	for range n {
		go func() {
			var out api.EnrolResponse
			st, err := mine.post(m.h.ca.Pool(), "/v1/enrol", req, &out)
			if err == nil && st != http.StatusOK {
				err = fmt.Errorf("answered %d", st)
			}
			c <- err
		}()
	}
	m.h.until("enrolments are held", func() bool { return m.h.waiting.Held() >= min(before+n, m.h.waiting.Strangers) })
	return c
}

func longHold(s *Server) { s.cfg.Hold = time.Minute }

// TestEnrolmentsOfOneClient: one address has so many enrolments held, and each of
// them is answered when its server is approved.
func TestEnrolmentsOfOneClient(t *testing.T) {
	h := startIn(t, initDir(t, 250), longHold)
	h.platform("20261122T101500Z")
	m, other := h.machine(1), h.letIn(2)
	m.powerOn()
	held := m.held("127.77.0.66", maxClientEnrols)
	late := *m
	late.from = netip.MustParseAddr("127.77.0.66")
	st, _, err := late.enrol()
	var p *api.Problem
	if !errors.As(err, &p) || st != http.StatusTooManyRequests || !strings.Contains(p.Detail, "8 enrolments of this address, 127.77.0.66, wait already") {
		t.Errorf("one too many: %d %v", st, err)
	}
	if st, _, err := other.enrol(); err != nil || st != http.StatusOK {
		t.Errorf("a server from another address: %d %v", st, err)
	}
	if !h.alerted("1 enrolments beyond 8 of one client since ") {
		t.Error("no alert says that the bound was reached")
	}
	if err := h.client.ApproveServer(t.Context(), m.uuid, ""); err != nil {
		t.Fatal(err)
	}
	for range maxClientEnrols {
		if err := <-held; err != nil {
			t.Errorf("approved: %v", err)
		}
	}
	if n := h.waiting.Held(); n != 0 {
		t.Errorf("%d places are held by nobody", n)
	}
}

// letIn is a server that was approved before its first enrolment was held.
func (h *head) letIn(n int) *machine {
	h.t.Helper()
	m := h.machine(n)
	m.powerOn()
	held := m.held("127.77.0.10", 1)
	h.until("it is listed", func() bool { _, err := h.client.Server(h.t.Context(), m.uuid); return err == nil })
	if err := h.client.ApproveServer(h.t.Context(), m.uuid, ""); err != nil {
		h.t.Fatal(err)
	}
	if err := <-held; err != nil {
		h.t.Fatal(err)
	}
	return m
}

// TestEnrolmentsOfStrangers: when strangers have all they may, the first gives way to
// one that has none, and a server is not kept waiting by them.
func TestEnrolmentsOfStrangers(t *testing.T) {
	h := startIn(t, initDir(t, 250), longHold, func(s *Server) { s.waiting.Total, s.waiting.Strangers = 4, 2 })
	h.platform("20261122T101500Z")
	server := h.letIn(9)
	m := h.machine(1)
	m.powerOn()
	first, second := m.held("127.77.0.61", 1), m.held("127.77.0.62", 1)
	third := m.held("127.77.0.63", 1)
	var p *api.Problem
	if err := <-first; !errors.As(err, &p) || p.Status != http.StatusServiceUnavailable || !strings.Contains(p.Detail, "more machines wait") {
		t.Errorf("the first stranger: %v", err)
	}
	server.from = server.addr
	if st, _, err := server.enrol(); err != nil || st != http.StatusOK {
		t.Errorf("a server: %d %v", st, err)
	}
	select {
	case err := <-second:
		t.Errorf("a stranger gave way to a server, for which there is room: %v", err)
	case err := <-third:
		t.Errorf("a stranger gave way to a server, for which there is room: %v", err)
	default:
	}
	if err := h.client.ApproveServer(t.Context(), m.uuid, ""); err != nil {
		t.Fatal(err)
	}
	for _, c := range []<-chan error{second, third} {
		if err := <-c; err != nil {
			t.Errorf("approved: %v", err)
		}
	}
}

// TestEnrolmentThatTrickles: an enrolment whose body does not come gives way at once.
func TestEnrolmentThatTrickles(t *testing.T) {
	h := startIn(t, initDir(t, 250), longHold, func(s *Server) { s.waiting.Strangers = 1 })
	h.platform("20261122T101500Z")
	m := h.machine(1)
	m.powerOn()
	d := tls.Dialer{NetDialer: &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 77, 0, 66)}}, Config: &tls.Config{RootCAs: h.ca.Pool(), ServerName: "127.77.0.7", Time: h.clock}}
	c, err := d.DialContext(t.Context(), "tcp4", h.HTTPS().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := io.WriteString(c, "POST /v1/enrol HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100000\r\n\r\n{"); err != nil {
		t.Fatal(err)
	}
	h.until("it has a place", func() bool { return h.waiting.Held() == 1 })
	held := m.held("127.77.0.10", 1)
	if err := c.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil { // half of what a body gets
		t.Fatal(err)
	}
	if b, err := io.ReadAll(io.LimitReader(c, 1)); errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("it still waits for the body: %q", bytes.TrimSpace(b))
	}
	h.until("the other machine is listed", func() bool { _, err := h.client.Server(t.Context(), m.uuid); return err == nil })
	if err := h.client.ApproveServer(t.Context(), m.uuid, ""); err != nil {
		t.Fatal(err)
	}
	if err := <-held; err != nil {
		t.Error(err)
	}
}
