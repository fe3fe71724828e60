//go:build vm

package bench

import (
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"nereid/api"
	"nereid/images"
	"nereid/integration/lab"
	"nereid/integration/lab/labtest"
)

// rounds is how often each way of booting is measured; medians are printed.
const rounds = 3

// TestBenchBoot compares a boot over the network with the same kernel, stub and
// root filesystem started by QEMU from files and a disk, in alternation. It
// prints; it judges nothing.
func TestBenchBoot(t *testing.T) {
	r := labtest.NewRack(t)
	bios, uefi := r.Add(1, lab.BIOS, 4<<30), r.Add(2, lab.UEFI, 4<<30)
	for _, m := range []*lab.Machine{bios, uefi} {
		r.PowerOn(m)
		r.Approve(m)
		r.Setup(m, api.SetupSpec{}) // its key is on its pool, and is the same in every boot
		m.PowerOff()
	}
	totals := map[string][]float64{}
	legs := map[string]map[string][]float64{"BIOS": {}, "UEFI": {}}
	var names []string
	for range rounds {
		for _, way := range []string{"BIOS", "UEFI"} {
			m := bios
			if way == "UEFI" {
				m = uefi
			}
			total, b := network(r, m)
			totals[way] = append(totals[way], total)
			names = names[:0]
			for i, l := range b.Legs {
				s := l.Seconds
				if i == 0 { // from power-on, which the head node cannot see
					s += b.Started.Sub(m.On).Seconds()
				}
				legs[way][l.Name] = append(legs[way][l.Name], s)
				names = append(names, l.Name)
			}
		}
		totals["disk"] = append(totals["disk"], disk(r, bios))
	}
	for _, way := range []string{"BIOS", "UEFI"} {
		fw := median(legs[way]["firmware+DHCP"])
		fmt.Printf("%s over the network %.1f s; from disk %.1f s; firmware+DHCP %.1f s; the rest is %.2f of the disk's\n",
			way, median(totals[way]), median(totals["disk"]), fw, (median(totals[way])-fw)/median(totals["disk"]))
		for _, n := range names {
			fmt.Printf("  %-24s %6.2f s\n", n, median(legs[way][n]))
		}
	}
}

// network boots a machine over the network and gives the seconds from power-on to
// its first sync.
func network(r *labtest.Rack, m *lab.Machine) (float64, api.Boot) {
	r.PowerOn(m)
	defer m.PowerOff()
	return firstSync(r, m)
}

// disk boots the same platform from files and a disk.
func disk(r *labtest.Rack, m *lab.Machine) float64 {
	conf, err := r.BorrowBoot(r.T.Context(), m)
	if err != nil {
		r.T.Fatal(err)
	}
	_, manifest, err := images.ReadPlatform(r.Platform)
	if err != nil {
		r.T.Fatal(err)
	}
	path := filepath.Join(r.T.TempDir(), "boot.tar")
	if err := lab.BootDisk(path, r.Platform, conf); err != nil {
		r.T.Fatal(err)
	}
	extra := m.Spec.Extra
	defer func() { m.Spec.Extra = extra }()
	args := append([]string{"nereid.root=disk:vdb", "nereid.boot=" + conf.BootID, "console=tty0", "console=ttyS0,115200n8"}, manifest.Args...)
	m.Spec.Extra = []string{
		"-kernel", filepath.Join(r.Platform, manifest.Kernel.Name),
		"-initrd", filepath.Join(r.Platform, manifest.Initrd.Name),
		"-append", strings.Join(args, " "),
		"-drive", "if=none,id=bootdisk,format=raw,readonly=on,file=" + path,
		"-device", "virtio-blk-pci,drive=bootdisk",
	}
	r.PowerOn(m)
	defer m.PowerOff()
	total, _ := firstSync(r, m)
	return total
}

func firstSync(r *labtest.Rack, m *lab.Machine) (float64, api.Boot) {
	var done api.Boot
	r.Wait(m, "synced in the boot that was just begun", func(api.Server) bool {
		boots, err := r.Client().Boots(r.T.Context(), m.Spec.UUID)
		if err != nil || len(boots) == 0 || boots[0].Done == nil || boots[0].Done.Before(m.On) {
			return false
		}
		done = boots[0]
		return true
	})
	return done.Done.Sub(m.On).Seconds(), done
}

// TestBenchIdle prints what a running server and its agent cost over five idle
// minutes.
func TestBenchIdle(t *testing.T) {
	r := labtest.NewRack(t)
	m := r.Add(1, lab.BIOS, 4<<30, 4<<30)
	r.PowerOn(m)
	r.Approve(m)
	r.Setup(m, api.SetupSpec{})
	const agent = `pid=$(systemctl show -p MainPID --value nereid-agent); awk '{print $14+$15}' /proc/$pid/stat; awk '/VmRSS/{print $2} /VmHWM/{print $2}' /proc/$pid/status`
	read := func() (ticks, rss, peak float64) {
		f := strings.Fields(r.Shell(m, agent))
		if len(f) != 3 {
			t.Fatalf("the agent's figures: %q", f)
		}
		var v [3]float64
		for i := range f {
			var err error
			if v[i], err = strconv.ParseFloat(f[i], 64); err != nil {
				t.Fatal(err)
			}
		}
		return v[0], v[1] / 1024, v[2] / 1024
	}
	const idle = 5 * time.Minute
	<-time.After(time.Minute) // what setup left to do is not idleness
	before, _, _ := read()
	<-time.After(idle) // what is measured is the passing of time
	after, rss, peak := read()
	fmt.Printf("agent over %v idle: %.3f %% of a core (%.2f s), RSS %.1f MiB, peak %.1f MiB\n",
		idle, (after-before)/100/idle.Seconds()*100, (after-before)/100, rss, peak)
	fmt.Printf("platform: %s\n", r.Shell(m, `awk '/MemTotal/{t=$2} /MemAvailable/{a=$2} END {printf "%d MiB of %d MiB used", (t-a)/1024, t/1024}' /proc/meminfo`))
}
