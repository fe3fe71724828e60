package lab

import (
	"bufio"
	"context"
	"os"
	"os/exec"
	"strings"
	"time"
)

// Accel is how QEMU runs a guest's processors.
type Accel struct {
	KVM bool
	Why string // why software emulation was chosen
}

func (a Accel) args() []string {
	if a.KVM {
		return []string{"-accel", "kvm", "-cpu", "host"}
	}
	return []string{"-accel", "tcg,thread=multi,tb-size=512", "-cpu", "max"}
}

// countedArgs make a guest's clock count its instructions: 2^3 ns each, which is what
// an emulated processor here takes for one, so that the time of the network and the
// time of the guest do not part.
func countedArgs() []string {
	return []string{"-accel", "tcg,thread=single,tb-size=512", "-cpu", "max", "-icount", "shift=3"}
}

func (a Accel) String() string {
	if a.KVM {
		return "KVM"
	}
	return "software emulation (" + a.Why + ")"
}

// ProbeAccel finds out whether KVM runs a stock kernel. /dev/kvm being there is
// not enough: some hosts offer one that runs firmware and then aborts, so kernel
// is booted to its banner.
func ProbeAccel(ctx context.Context, kernel string) Accel {
	if f, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0); err != nil {
		return Accel{Why: "no usable /dev/kvm"}
	} else {
		f.Close()
	}
	ctx, cancel := context.WithTimeout(ctx, 8*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, "qemu-system-x86_64", "-accel", "kvm", "-cpu", "host", "-machine", "q35", "-m", "256",
		"-nodefaults", "-display", "none", "-serial", "stdio", "-no-reboot",
		"-kernel", kernel, "-append", "console=ttyS0 panic=-1")
	cmd.WaitDelay = time.Second
	out, err := cmd.StdoutPipe()
	if err != nil {
		return Accel{Why: err.Error()}
	}
	if err := cmd.Start(); err != nil {
		return Accel{Why: err.Error()}
	}
	found := false
	for sc := bufio.NewScanner(out); sc.Scan(); {
		if strings.Contains(sc.Text(), "Freeing unused kernel") || strings.Contains(sc.Text(), "Kernel panic") {
			found = true // it came past its own initialisation
			break
		}
	}
	cancel()
	_ = cmd.Wait() // it was killed: the error says nothing
	if !found {
		return Accel{Why: "/dev/kvm does not boot a stock kernel here"}
	}
	return Accel{KVM: true}
}
