package bootserver_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/iana"
	"github.com/u-root/u-root/pkg/cpio"

	"nereid/api"
	"nereid/bootserver"
	"nereid/bootserver/boottest"
)

// local is a boot server on the loopback with a fake Booter. Machines are the
// addresses from 127.0.0.2 on.
type local struct {
	*bootserver.Server
	booter *boottest.Booter
}

func fakeIPXE(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	for _, n := range []string{"undionly.kpxe", "snponly.efi", "ipxe.efi"} {
		if err := os.WriteFile(filepath.Join(dir, n), []byte("this is "+n), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func newLocal(t testing.TB, set ...func(*bootserver.Server)) *local {
	t.Helper()
	b, err := boottest.New(t.TempDir(), netip.MustParsePrefix("127.0.0.1/8"), netip.MustParseAddr("127.0.0.2"),
		[]byte("kernel"), []byte("initrd"), bytes.Repeat([]byte("layer "), 2<<20))
	if err != nil {
		t.Fatal(err)
	}
	s := &bootserver.Server{Address: b.Network, Booter: b, Files: b, IPXEDir: fakeIPXE(t),
		Ports: bootserver.Ports{DHCP: -1, BootService: -1, TFTP: -1, HTTP: -1}, Logger: slog.New(slog.NewTextHandler(t.Output(), nil))}
	for _, f := range set {
		f(s)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	select {
	case <-s.Ready():
	case err := <-done:
		done <- nil
		t.Fatal(err)
	}
	return &local{s, b}
}

// machine begins a boot by MAC and returns its id and an HTTP client that has the
// machine's address.
func (l *local) machine(t *testing.T, mac string) (id string, c *http.Client) {
	t.Helper()
	a, err := l.booter.Boot(t.Context(), api.BootRequest{Kind: api.KindDiscover, MAC: mac})
	if err != nil {
		t.Fatal(err)
	}
	tr := &http.Transport{DialContext: (&net.Dialer{LocalAddr: &net.TCPAddr{IP: a.Address.Addr().AsSlice()}}).DialContext}
	t.Cleanup(tr.CloseIdleConnections)
	return a.BootID, &http.Client{Transport: tr, Timeout: 20 * time.Second, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

func do(t *testing.T, c *http.Client, method, url string, body io.Reader, header ...string) (*http.Response, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, url, body)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	resp, err := c.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, string(b)
}

func wait(t *testing.T, b *boottest.Booter, stage api.BootStage) api.BootEvent {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	ev, err := b.Wait(ctx, stage)
	if err != nil {
		t.Fatal(err)
	}
	return ev
}

// TestWholeBoot is a boot over HTTP as iPXE and the stub do it.
func TestWholeBoot(t *testing.T) {
	l := newLocal(t)
	id, c := l.machine(t, "52:54:00:00:00:01")
	url := l.URL()
	resp, script := do(t, c, "GET", url+"/boot/"+id+"/script.ipxe", nil, "User-Agent", "iPXE/1.0.0")
	if resp.StatusCode != 200 || !strings.HasPrefix(script, "#!ipxe\n") {
		t.Fatalf("script: %s %q", resp.Status, script)
	}
	m := l.booter.Platform
	for _, f := range []api.File{m.Kernel, m.Initrd, m.Layers[0]} {
		resp, body := do(t, c, "GET", url+"/files/"+f.SHA256+"/"+f.Name+"?boot="+id, nil)
		if resp.StatusCode != 200 || int64(len(body)) != f.Size || resp.Header.Get("ETag") != `"`+f.SHA256+`"` {
			t.Fatalf("%s: %s, %d bytes, %v", f.Name, resp.Status, len(body), resp.Header)
		}
	}
	wait(t, l.booter, api.StageLayer)
	resp, body := do(t, c, "GET", url+"/boot/"+id+"/config.cpio", nil)
	rs, err := cpio.ReadAllRecords(cpio.Newc.Reader(strings.NewReader(body)))
	if resp.StatusCode != 200 || err != nil || len(rs) != 2 {
		t.Fatalf("config: %s %v %v", resp.Status, rs, err)
	}
	wait(t, l.booter, api.StageConfig)
	if resp, body = do(t, c, "GET", url+"/boot/"+id+"/config.cpio", nil); resp.StatusCode != 410 || !strings.Contains(body, "handed out already; begin a new boot.") {
		t.Errorf("second config: %s %q", resp.Status, body)
	}
	for name, want := range map[string]string{"manifest.sig": strings.Repeat("s", 64), "manifest.json": ""} {
		resp, body = do(t, c, "GET", url+"/platforms/"+boottest.Stamp+"/"+name, nil)
		if resp.StatusCode != 200 || (want != "" && body != want) || (want == "" && !json.Valid([]byte(body))) {
			t.Errorf("%s: %s %q", name, resp.Status, body)
		}
	}
	if resp, _ := do(t, c, "POST", url+"/boot/"+id+"/event", strings.NewReader(`{"stage":"stub","detail":"runs\nnow","seconds":1.5}`)); resp.StatusCode != 204 {
		t.Errorf("event: %s", resp.Status)
	}
	want := fmt.Sprintf(`boot 0 52:54:00:00:00:01 127.0.0.2 arch 0
  discover
  script %d
  kernel 6 (vmlinuz)
  initrd 6 (initrd.img)
  layer 12582912 (layer0.squashfs)
  config %d
  refused (this boot's configuration was handed out already; begin a new boot)
  stub (runs now)
`, len(script), len(rs)*512)
	if d := cmp.Diff(want, l.booter.String()); d != "" {
		t.Errorf("record (-want +got):\n%s", d)
	}
}

// TestRefusals: what is refused, with which status, and that the sentences differ.
func TestRefusals(t *testing.T) {
	l := newLocal(t)
	id, c := l.machine(t, "52:54:00:00:00:01")
	_, other := l.machine(t, "52:54:00:00:00:02")
	m := l.booter.Platform
	sentences := map[string]int{}
	for _, tc := range []struct {
		method, path, body string
		c                  *http.Client
		status             int
		want               string
	}{
		{"GET", "/", "", c, 404, "nothing is served at this path"},
		{"GET", "/files/", "", c, 404, "nothing is served"},
		{"GET", "/files/" + m.Kernel.SHA256, "", c, 404, "nothing is served"},
		{"GET", "/files/" + m.Kernel.SHA256 + "/", "", c, 404, "nothing is served"},
		{"GET", "/files/" + strings.Repeat("0", 64) + "/vmlinuz", "", c, 404, "there is no file vmlinuz here"},
		{"GET", "/files/" + strings.ToUpper(m.Kernel.SHA256) + "/vmlinuz", "", c, 404, "not the path of a file"},
		{"GET", "/files/../../etc/passwd", "", c, 404, "nothing is served"},
		{"GET", "/files/..%2f..%2fetc%2fpasswd/x", "", c, 404, ""},
		{"GET", "/files/" + m.Kernel.SHA256 + "/..%2f..%2fpasswd", "", c, 404, ""},
		{"GET", "/ipxe/../../etc/passwd", "", c, 404, "nothing is served"},
		{"GET", "/ipxe/%2e%2e%2fetc%2fpasswd", "", c, 404, ""},
		{"GET", "/ipxe/..%5c..%5cboot.ini", "", c, 404, ""},
		{"GET", "/ipxe/", "", c, 404, "nothing is served"},
		{"GET", "/ipxe/pxelinux.0", "", c, 404, "no such iPXE program here"},
		{"GET", "//etc/passwd", "", c, 404, "nothing is served"},
		{"GET", "/platforms/" + boottest.Stamp + "/manifest.key", "", c, 404, "not a platform's manifest"},
		{"GET", "/platforms/20200101T000000Z/manifest.json", "", c, 404, "no platform 20200101T000000Z"},
		{"GET", "/boot/" + strings.Repeat("a", 26) + "/script.ipxe", "", c, 404, "no boot has this id"},
		{"GET", "/boot/short/script.ipxe", "", c, 404, "not a boot id"},
		{"GET", "/boot/" + id + "/script.ipxe", "", other, 403, "belongs to 127.0.0.2, not to 127.0.0.3"},
		{"GET", "/boot/" + id + "/config.cpio", "", other, 403, "belongs to 127.0.0.2"},
		{"HEAD", "/boot/" + id + "/config.cpio", "", c, 405, ""},
		{"POST", "/boot/" + id + "/event", `{"stage":"stub"}`, other, 403, "belongs to 127.0.0.2"},
		{"POST", "/boot/" + id + "/event", `{"stage":"first-sync"}`, c, 422, `does not report stage "first-sync"`},
		{"POST", "/boot/" + id + "/event", `nonsense`, c, 400, "not a JSON object"},
		{"POST", "/boot/" + id + "/event", `{"stage":"stub","detail":"` + strings.Repeat("x", 5000) + `"}`, c, 413, "longer than 4096 bytes"},
		{"PUT", "/files/" + m.Kernel.SHA256 + "/vmlinuz", "x", c, 405, "nothing here is changed"},
		{"DELETE", "/", "", c, 405, "nothing here is changed"},
	} {
		t.Run(tc.method+" "+tc.path, func(t *testing.T) {
			resp, body := do(t, tc.c, tc.method, l.URL()+tc.path, strings.NewReader(tc.body))
			if resp.StatusCode != tc.status || !strings.Contains(body, tc.want) {
				t.Errorf("%s %q, want %d %q", resp.Status, body, tc.status, tc.want)
			}
			if tc.method != "HEAD" && (!strings.HasPrefix(resp.Header.Get("Content-Type"), "text/plain") || strings.Count(body, "\n") != 1) {
				t.Errorf("%s: %q is not one line of text", resp.Header.Get("Content-Type"), body)
			}
			if strings.Contains(body, "root:") {
				t.Error("a file from outside was served")
			}
			if s, seen := sentences[body]; seen && s != resp.StatusCode {
				t.Errorf("%q is said for %d and %d", body, s, resp.StatusCode)
			}
			if body != "" {
				sentences[body] = resp.StatusCode
			}
		})
	}
}

// TestRefusalOnScreen: iPXE gets refusals as a script with status 200.
func TestRefusalOnScreen(t *testing.T) {
	l := newLocal(t)
	id, c := l.machine(t, "52:54:00:00:00:01")
	for path, want := range map[string]string{
		strings.Repeat("a", 26): "echo Nereid: no boot has this id; begin a new boot\n",
		"short":                 "echo Nereid: this is not a boot id;",
	} {
		resp, body := do(t, c, "GET", l.URL()+"/boot/"+path+"/script.ipxe", nil, "User-Agent", "iPXE/1.0.0+git")
		if resp.StatusCode != 200 || !strings.Contains(body, want) {
			t.Errorf("%s: %s %q", path, resp.Status, body)
		}
	}
	l.booter.Hold("it boots in circles", 20)
	resp, body := do(t, c, "GET", l.URL()+"/boot/"+id+"/script.ipxe", nil, "User-Agent", "iPXE/1.0.0+git")
	if resp.StatusCode != 200 || !strings.Contains(body, "echo Nereid: it boots in circles\n") || !strings.Contains(body, "sleep 20\n") {
		t.Errorf("held: %s %q", resp.Status, body)
	}
	if ev := wait(t, l.booter, api.StageRefused); ev.Detail != "held: it boots in circles" {
		t.Errorf("recorded %+v", ev)
	}
}

// TestResume: a transfer that is cut and resumed is recorded as that.
func TestResume(t *testing.T) {
	l := newLocal(t)
	id, c := l.machine(t, "52:54:00:00:00:01")
	f := l.booter.Platform.Layers[0]
	path := "/files/" + f.SHA256 + "/" + f.Name + "?boot=" + id
	_, _, _, addr := l.Addrs()

	// The first read takes some bytes and resets the connection.
	conn, err := (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 2)}}).Dial("tcp4", addr.String())
	if err != nil {
		t.Fatal(err)
	}
	if err := conn.(*net.TCPConn).SetReadBuffer(4096); err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: x\r\n\r\n", path)
	if _, err := io.ReadFull(conn, make([]byte, 100_000)); err != nil {
		t.Fatal(err)
	}
	if err := conn.(*net.TCPConn).SetLinger(0); err != nil {
		t.Fatal(err)
	}
	if err := conn.Close(); err != nil {
		t.Fatal(err)
	}
	ev := wait(t, l.booter, api.StageLayer)
	var n, size int64
	if _, err := fmt.Sscanf(ev.Detail, "layer0.squashfs, cut after %d of %d bytes", &n, &size); err != nil || n != ev.Bytes || n < 100_000 || n >= f.Size || size != f.Size {
		t.Fatalf("recorded %+v", ev)
	}

	resp, body := do(t, c, "GET", l.URL()+path, nil, "Range", "bytes=100000-")
	if resp.StatusCode != 206 || int64(len(body)) != f.Size-100_000 {
		t.Errorf("resumed: %s, %d bytes", resp.Status, len(body))
	}
	resp, body = do(t, c, "GET", l.URL()+path, nil, "Range", "bytes=6-11")
	if resp.StatusCode != 206 || body != "layer " {
		t.Errorf("range: %s %q", resp.Status, body)
	}
	if resp, _ = do(t, c, "GET", l.URL()+path, nil, "Range", "bytes=999999999-"); resp.StatusCode != 416 {
		t.Errorf("range beyond the end: %s", resp.Status)
	}
	if resp, _ = do(t, c, "GET", l.URL()+path, nil, "If-None-Match", `"`+f.SHA256+`"`); resp.StatusCode != 304 {
		t.Errorf("conditional: %s", resp.Status)
	}
	if resp, body := do(t, c, "HEAD", l.URL()+path, nil); resp.ContentLength != f.Size || body != "" {
		t.Errorf("HEAD: %d bytes", resp.ContentLength)
	}
	// The record of the last range follows its last byte; another event marks that.
	want := fmt.Sprintf(`boot 0 52:54:00:00:00:01 127.0.0.2 arch 0
  discover
  layer %d (layer0.squashfs, cut after %d of 12582912 bytes)
  layer 12482912 (layer0.squashfs, resumed at byte 100000, complete now)
  layer 6 (layer0.squashfs, bytes 6 to 11 of 12582912)
`, n, n)
	deadline := time.After(5 * time.Second)
	for l.booter.String() != want {
		changed := l.booter.Changed()
		if l.booter.String() == want {
			break
		}
		select {
		case <-changed:
		case <-deadline:
			t.Fatalf("record (-want +got):\n%s", cmp.Diff(want, l.booter.String()))
		}
	}
}

// TestDHCPRefusalIsRecorded: a NAK is in the record of the boot it interrupts.
func TestDHCPRefusalIsRecorded(t *testing.T) {
	l := newLocal(t)
	dhcpAddr, _, _, _ := l.Addrs()
	c, err := net.DialUDP("udp4", nil, &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: int(dhcpAddr.Port())})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for _, m := range []*dhcpv4.DHCPv4{
		dhcpMessage(dhcpv4.MessageTypeRequest, "127.0.0.2"), // renews what it has
		dhcpMessage(dhcpv4.MessageTypeRequest, "127.0.0.9"),
	} {
		if _, err := c.Write(m.ToBytes()); err != nil {
			t.Fatal(err)
		}
		if ev := wait(t, l.booter, map[string]api.BootStage{"127.0.0.2": api.StageIPXEAck, "127.0.0.9": api.StageRefused}[m.ClientIPAddr.String()]); ev.Stage == api.StageRefused &&
			ev.Detail != "DHCP REQUEST: 127.0.0.9 is not the address of 52:54:00:00:00:05; that is 127.0.0.2" {
			t.Errorf("recorded %q", ev.Detail)
		}
	}
}

func dhcpMessage(kind dhcpv4.MessageType, ciaddr string) *dhcpv4.DHCPv4 {
	m := &dhcpv4.DHCPv4{OpCode: dhcpv4.OpcodeBootRequest, HWType: iana.HWTypeEthernet, ClientHWAddr: []byte{0x52, 0x54, 0, 0, 0, 5},
		ClientIPAddr: net.ParseIP(ciaddr), TransactionID: dhcpv4.TransactionID{net.ParseIP(ciaddr)[15]}, Options: dhcpv4.Options{}}
	m.UpdateOption(dhcpv4.OptMessageType(kind))
	m.UpdateOption(dhcpv4.OptUserClass("iPXE"))
	return m
}

// TestHeaderLimit: a request that never ends costs no memory.
func TestHeaderLimit(t *testing.T) {
	l := newLocal(t)
	resp, _ := do(t, &http.Client{}, "GET", l.URL()+"/", nil, "X-Long", strings.Repeat("x", 64<<10))
	if resp.StatusCode != http.StatusRequestHeaderFieldsTooLarge {
		t.Errorf("status %s", resp.Status)
	}
}

// TestForeignTransfer: naming another machine's boot does not write its record.
func TestForeignTransfer(t *testing.T) {
	l := newLocal(t)
	id, c := l.machine(t, "52:54:00:00:00:01")
	_, other := l.machine(t, "52:54:00:00:00:02")
	do(t, c, "GET", l.URL()+"/boot/"+id+"/script.ipxe", nil)
	f := l.booter.Platform.Kernel
	if resp, _ := do(t, other, "GET", l.URL()+"/files/"+f.SHA256+"/vmlinuz?boot="+id, nil); resp.StatusCode != 200 {
		t.Errorf("files are for all: %s", resp.Status)
	}
	for _, e := range l.booter.Events(id) {
		if e.Stage == api.StageKernel {
			t.Error("another machine's transfer is in the record")
		}
	}
}

// TestOpenUnwinds: when one socket cannot be had the others are given back.
func TestOpenUnwinds(t *testing.T) {
	taken, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	free, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	tftp := free.LocalAddr().(*net.UDPAddr).Port
	if err := free.Close(); err != nil {
		t.Fatal(err)
	}
	s := &bootserver.Server{Address: netip.MustParsePrefix("127.0.0.1/8"), IPXEDir: fakeIPXE(t), Clients: "all",
		Ports: bootserver.Ports{DHCP: -1, BootService: -1, TFTP: tftp, HTTP: taken.Addr().(*net.TCPAddr).Port}}
	if err := s.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "listen for HTTP") {
		t.Errorf("error %v", err)
	}
	select {
	case <-s.Ready():
		t.Error("ready without a socket")
	default:
	}
	again, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: tftp})
	if err != nil {
		t.Fatalf("the TFTP port is still held: %v", err)
	}
	again.Close()

	for want, s := range map[string]*bootserver.Server{
		"is not IPv4":         {Address: netip.MustParsePrefix("fe80::1/64")},
		"want pxe or all":     {Address: netip.MustParsePrefix("127.0.0.1/8"), Clients: "some"},
		"install Debian's":    {Address: netip.MustParsePrefix("127.0.0.1/8"), IPXEDir: t.TempDir()},
		`interface "nowhere"`: {Address: netip.MustParsePrefix("127.0.0.1/8"), IPXEDir: fakeIPXE(t), Interface: "nowhere"},
	} {
		if err := s.Run(t.Context()); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want %q", err, want)
		}
	}
}

func TestExplain(t *testing.T) {
	l := newLocal(t)
	ex, err := l.Explain(t.Context(), api.BootRequest{MAC: "52:54:00:00:00:09", Arch: 7})
	if err != nil {
		t.Fatal(err)
	}
	if ex.BootFile != "snponly.efi" || !strings.Contains(ex.Script, "/boot/BOOTID/config.cpio") || len(ex.Options) < 8 {
		t.Errorf("explanation %+v", ex)
	}
	ex, err = l.Explain(t.Context(), api.BootRequest{MAC: "52:54:00:00:00:09", UserClass: "iPXE"})
	if err != nil || ex.BootFile != l.URL()+"/boot/BOOTID/script.ipxe" {
		t.Errorf("boot file %q, error %v", ex.BootFile, err)
	}
	if n := len(l.booter.Events("")); n != 0 {
		t.Errorf("explaining left %d events", n)
	}
	l.booter.Fail(errors.New("store is closed"))
	if _, err = l.Explain(t.Context(), api.BootRequest{MAC: "52:54:00:00:00:09"}); err == nil {
		t.Error("the Booter's error is lost")
	}
}
