package sysinfo

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestHypervisor: a server that cannot run guests is told from one whose firmware has
// that switched off, on processors of both makers, and from one that has not begun to.
func TestHypervisor(t *testing.T) {
	for _, tt := range []struct {
		what       string
		flags, log string
		there      []string
		qemu       string
		kvm        bool
		why        string
	}{
		{"Intel", "fpu vmx", "", []string{"dev/kvm", "sys/module/kvm/", "sys/module/kvm_intel/", qemuProgram}, "10.0.13", true, ""},
		{"Intel, off", "fpu", "6,340,0,-;x86/cpu: VMX (outside TXT) disabled by BIOS\n", nil, "", false, "switched off"},
		{"AMD, off", "fpu svm", "3,900,0,-;kvm_amd: SVM disabled (by BIOS) in MSR_VM_CR on CPU 0\n", nil, "", false, "switched off"},
		{"AMD, off, the log is gone", "fpu svm", "", []string{"sys/module/kvm/"}, "", false, "switched off"},
		{"not loaded", "fpu svm", "", nil, "", false, "has not loaded kvm_amd"},
		{"a guest of emulation", "fpu", "6,1,0,-;Linux version 6.12\n", []string{"dev/kvm"}, "", false, "cannot run guests"},
	} {
		root := t.TempDir()
		put := func(name, text string) {
			path := filepath.Join(root, name)
			if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
				t.Fatal(err)
			}
			if strings.HasSuffix(name, "/") {
				if err := os.MkdirAll(path, 0o755); err != nil {
					t.Fatal(err)
				}
				return
			}
			if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		put("proc/cpuinfo", "processor\t: 0\nflags\t\t: "+tt.flags+"\n")
		put("dev/kmsg", tt.log)
		for _, name := range tt.there {
			put(name, "#!/bin/sh\necho 'QEMU emulator version 10.0.13 (Debian 1:10.0.13+ds-0+deb13u1)'\n")
		}
		r := &Reader{Roots: Roots{Sys: root + "/sys", Proc: root + "/proc", Dev: root + "/dev", Root: root}}
		h := r.Hypervisor(t.Context())
		if again := r.Hypervisor(t.Context()); again != h {
			t.Errorf("%s: asked again: %+v, was %+v", tt.what, again, h)
		}
		if h.QEMU != tt.qemu || h.KVM != tt.kvm || !strings.Contains(h.NoKVM, tt.why) || (tt.why == "") != (h.NoKVM == "") {
			t.Errorf("%s: %+v", tt.what, h)
		}
	}
}
