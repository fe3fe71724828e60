package sysinfo

import (
	"context"
	"os/exec"
	"path/filepath"
	"regexp"
	"time"

	"nereid/api"
)

// qemuProgram is QEMU, below Roots.Root, which has qemuLimit to say its version.
const (
	qemuProgram = "usr/bin/qemu-system-x86_64"
	qemuLimit   = 10 * time.Second
)

// Hypervisor reads what the server has to run virtual machines with. It may be asked
// often: what does not change before the next boot is read once.
func (r *Reader) Hypervisor(ctx context.Context) api.Hypervisor {
	roots, err := r.Roots.orDefault()
	if err != nil {
		return api.Hypervisor{}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.hypervisor(ctx, tree{roots})
}

// hypervisor is Hypervisor. r.mu is held.
func (r *Reader) hypervisor(ctx context.Context, t tree) (h api.Hypervisor) {
	if program := filepath.Join(t.Root, qemuProgram); t.exists(program) {
		if r.qemu == "" || r.qemu == "unknown" {
			r.qemu = qemuVersion(ctx, program)
		}
		h.QEMU = r.qemu
	}
	if r.flags == nil {
		c := t.cpu().Virtualization
		r.flags, r.off = &c, t.switchedOff()
	}
	module := map[string]string{"vmx": "kvm_intel", "svm": "kvm_amd"}[*r.flags]
	switch {
	case module != "" && t.exists(filepath.Join(t.Dev, "kvm")) && t.exists(t.sys("module", module)):
		h.KVM = true
	case r.off || module != "" && t.exists(t.sys("module", "kvm")):
		// With the feature locked away the kernel takes vmx from its flags and says so, and
		// kvm_amd does not stay (arch/x86/kernel/cpu/feat_ctl.c; arch/x86/kvm/svm/svm.c).
		h.NoKVM = "Its processors can run guests, and its firmware has that switched off: switch on virtualisation (VT-x or SVM) in its setup."
	case module != "":
		h.NoKVM = "Its processors can run guests, and its kernel has not loaded " + module + "."
	default:
		h.NoKVM = "Its processors cannot run guests: neither vmx nor svm is among their flags."
	}
	return h
}

var offRE = regexp.MustCompile(`(VMX|SVM)[^\n]*disabled (\(by BIOS\)|by BIOS)`)

var versionRE = regexp.MustCompile(`version ([0-9]+(\.[0-9]+)+)`)

// qemuVersion asks QEMU for its version; "unknown" when it does not say.
func qemuVersion(ctx context.Context, program string) string {
	ctx, cancel := context.WithTimeout(ctx, qemuLimit)
	defer cancel()
	out, err := exec.CommandContext(ctx, program, "--version").Output()
	if m := versionRE.FindSubmatch(out); err == nil && m != nil {
		return string(m[1])
	}
	return "unknown"
}
