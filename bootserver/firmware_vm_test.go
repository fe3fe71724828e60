//go:build vm

package bootserver_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/u-root/u-root/pkg/cpio"

	"nereid/api"
	"nereid/bootserver"
)

// TestVMFirmware boots real firmware in QEMU: SeaBIOS with iPXE as the NIC's ROM,
// BIOS iPXE loaded over TFTP by another iPXE, and OVMF with its own PXE and HTTP
// boot.
// Each must fetch script, kernel, initrd and configuration, and the kernel must
// find the configuration in its initramfs.
func TestVMFirmware(t *testing.T) {
	platform := os.Getenv("NEREID_PLATFORM")
	kernel, err := os.ReadFile(filepath.Join(platform, "vmlinuz"))
	if err != nil {
		t.Fatalf("NEREID_PLATFORM must be the directory of a built platform: %v", err)
	}
	initrd := testInitrd(t)

	for i, tc := range []struct {
		name   string
		args   func(t *testing.T, nic string) []string
		stages []api.BootStage
	}{
		{"bios", func(t *testing.T, nic string) []string {
			return []string{"-device", nic + ",bootindex=0"}
		}, []api.BootStage{api.StageIPXEDiscover, api.StageIPXEAck}},
		{"undionly", func(t *testing.T, nic string) []string {
			script := filepath.Join(t.TempDir(), "script")
			text := "#!ipxe\ndhcp\nset user-class PXE\nchain tftp://10.99.99.7/undionly.kpxe\n"
			if err := os.WriteFile(script, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			return []string{"-device", nic, "-kernel", "/boot/ipxe.lkrn", "-initrd", script}
		}, []api.BootStage{api.StageIPXEDiscover, api.StageIPXEAck, api.StageTFTP}},
		{"uefi", func(t *testing.T, nic string) []string {
			return append(ovmf(t), "-device", nic+",romfile=,bootindex=0")
		}, []api.BootStage{api.StageDiscover, api.StageAck, api.StageTFTP, api.StageIPXEDiscover, api.StageIPXEAck}},
		{"uefi-http", func(t *testing.T, nic string) []string {
			return append(ovmf(t), "-device", nic+",romfile=,bootindex=0", "-fw_cfg", "name=opt/org.tianocore/IPv4PXESupport,string=n")
		}, []api.BootStage{api.StageDiscover, api.StageAck, api.StageTFTP, api.StageIPXEDiscover, api.StageIPXEAck}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			b := newBooter(t, kernel, initrd)
			start(t, b, "pxe")
			tap := fmt.Sprintf("tap%d", i)
			ip(t, "tuntap add "+tap+" mode tap")
			t.Cleanup(func() { ip(t, "link del "+tap) })
			ip(t, "link set "+tap+" master admin0 up")
			nic := fmt.Sprintf("virtio-net-pci,netdev=n0,mac=52:54:00:00:00:%02x", i+1)
			console := filepath.Join(t.TempDir(), "console")
			args := append([]string{"-accel", "tcg,thread=multi,tb-size=512", "-cpu", "max", "-machine", "q35", "-smp", "1", "-m", "1024",
				"-uuid", "6f1b1c2e-0c55-4c7e-9d0a-0123456789ab", "-display", "none", "-serial", "file:" + console, "-no-reboot",
				"-netdev", "tap,id=n0,ifname=" + tap + ",script=no,downscript=no"}, tc.args(t, nic)...)
			ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
			defer cancel()
			began := time.Now()
			out, err := exec.CommandContext(ctx, "qemu-system-x86_64", args...).CombinedOutput()
			end := time.Since(began)
			text, _ := os.ReadFile(console)
			if err != nil {
				t.Fatalf("qemu: %v %s\nconsole:\n%s", err, out, text)
			}
			for _, want := range []string{"init: mode 600", "nereid.boot=", fmt.Sprintf("BOOTIF=01-52-54-00-00-00-%02x", i+1), `"token": "secret-of-`, "init: end"} {
				if !bytes.Contains(text, []byte(want)) {
					t.Errorf("console lacks %q", want)
				}
			}
			if t.Failed() {
				t.Logf("console:\n%s", text)
			}
			seen := map[api.BootStage]bool{}
			var legs strings.Builder
			for _, e := range b.Events("") {
				seen[e.Stage] = true
				fmt.Fprintf(&legs, "  %6.2f s  %-14s %9d bytes %6.3f s  %s\n", e.Time.Sub(began).Seconds(), e.Stage, e.Bytes, e.Seconds, e.Detail)
			}
			t.Logf("power-on to power-off %.1f s\n%s", end.Seconds(), legs.String())
			for _, want := range append(tc.stages, api.StageScript, api.StageKernel, api.StageInitrd, api.StageConfig) {
				if !seen[want] {
					t.Errorf("no event %s", want)
				}
			}
			if seen[api.StageRefused] {
				t.Error("something was refused")
			}
		})
	}
}

// ovmf are the arguments for UEFI without IPv6, whose attempts take a minute.
func ovmf(t *testing.T) []string {
	t.Helper()
	vars, err := os.ReadFile("/usr/share/OVMF/OVMF_VARS_4M.fd")
	if err != nil {
		t.Fatal(err)
	}
	copied := filepath.Join(t.TempDir(), "vars.fd")
	if err := os.WriteFile(copied, vars, 0o600); err != nil {
		t.Fatal(err)
	}
	return []string{"-drive", "if=pflash,format=raw,readonly=on,file=/usr/share/OVMF/OVMF_CODE_4M.fd",
		"-drive", "if=pflash,format=raw,file=" + copied, "-fw_cfg", "name=opt/org.tianocore/IPv6PXESupport,string=n"}
}

// testInitrd is a compressed initrd whose length is not a multiple of four, as
// real ones are.
func testInitrd(t *testing.T) []byte {
	t.Helper()
	bin := filepath.Join(t.TempDir(), "init")
	cmd := exec.CommandContext(t.Context(), "go", "build", "-ldflags=-s -w", "-o", bin, "./testdata/init")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build init: %v %s", err, out)
	}
	program, err := os.ReadFile(bin)
	if err != nil {
		t.Fatal(err)
	}
	for pad := 0; ; pad++ {
		var buf bytes.Buffer
		z := gzip.NewWriter(&buf)
		w := cpio.Newc.Writer(z)
		for _, r := range []cpio.Record{cpio.StaticFile("init", string(program), 0o755), cpio.StaticFile("pad", strings.Repeat("x", pad), 0o644)} {
			if err := w.WriteRecord(r); err != nil {
				t.Fatal(err)
			}
		}
		if err := cpio.WriteTrailer(w); err != nil {
			t.Fatal(err)
		}
		if err := z.Close(); err != nil {
			t.Fatal(err)
		}
		if buf.Len()%4 != 0 {
			return buf.Bytes()
		}
	}
}

// flaky are files whose first openings fail.
type flaky struct {
	bootserver.Files
	left atomic.Int32
}

func (f *flaky) Open(ctx context.Context, sha256 string) (*os.File, error) {
	if f.left.Add(-1) >= 0 {
		return nil, errors.New("disk trouble, made up")
	}
	return f.Files.Open(ctx, sha256)
}

// TestVMRetries: a boot that is held and a kernel that cannot be read are waited
// for; a boot whose configuration is used up begins a new boot.
func TestVMRetries(t *testing.T) {
	kernel, err := os.ReadFile(filepath.Join(os.Getenv("NEREID_PLATFORM"), "vmlinuz"))
	if err != nil {
		t.Fatalf("NEREID_PLATFORM must be the directory of a built platform: %v", err)
	}
	b := newBooter(t, kernel, testInitrd(t))
	b.Hold("held by the test", 2)
	files := &flaky{Files: b}
	files.left.Store(1)
	startWith(t, b, files, "pxe")
	ip(t, "tuntap add tapr mode tap")
	t.Cleanup(func() { ip(t, "link del tapr") })
	ip(t, "link set tapr master admin0 up")

	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	console := filepath.Join(t.TempDir(), "console")
	cmd := exec.CommandContext(ctx, "qemu-system-x86_64", "-accel", "tcg,thread=multi,tb-size=512", "-cpu", "max", "-machine", "q35,graphics=off", "-smp", "1", "-m", "1024",
		"-display", "none", "-serial", "file:"+console, "-no-reboot",
		"-netdev", "tap,id=n0,ifname=tapr,script=no,downscript=no", "-device", "virtio-net-pci,netdev=n0,mac=52:54:00:00:00:77,bootindex=0")
	began := time.Now()
	ended := make(chan error, 1)
	go func() { ended <- cmd.Run() }()

	if _, err := b.Wait(ctx, api.StageRefused); err != nil {
		t.Fatal(err)
	}
	// The boot's configuration is gone before its machine asks for it.
	first, err := b.Boot(ctx, api.BootRequest{Kind: api.KindInform, MAC: "52:54:00:00:00:77", UserClass: "iPXE"})
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Record(ctx, first.BootID, netip.Addr{}, api.BootEvent{Stage: api.StageConfig, Time: time.Now()}); err != nil {
		t.Fatal(err)
	}
	b.Hold("", 0)
	if err := <-ended; err != nil {
		t.Fatalf("qemu: %v", err)
	}
	text, err := os.ReadFile(console)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"held by the test", "asking again in 5 seconds", "asking again in 20 seconds", "beginning a new boot", "init: end"} {
		if !bytes.Contains(text, []byte(want)) {
			t.Errorf("console lacks %q", want)
		}
	}
	if len(b.Events(first.BootID)) == 0 || slices.Equal(b.Events(""), b.Events(first.BootID)) {
		t.Error("no new boot was begun")
	}
	t.Logf("%.1f s\n%s", time.Since(began).Seconds(), b)
	if t.Failed() {
		t.Logf("console:\n%s", text)
	}
}
