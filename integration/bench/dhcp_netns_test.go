//go:build netns

package bench

import (
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// The rates that are offered, exchanges a second, for how long each, and how often
// each server's turn comes.
var dhcpRates = []int{200, 1000, 4000, 8000}

const (
	dhcpSeconds = 5
	dhcpRounds  = 3
)

// dhcpServer is a DHCP server in a namespace of its own.
type dhcpServer struct {
	name  string
	start func(t *testing.T, ns, dir string) *exec.Cmd
	ready string // what its log says then
}

// dhcpRun is what perfdhcp saw of a server at a rate, and what the server spent.
type dhcpRun struct {
	done, lost     float64    // exchanges a second, and the part of those begun that did not end
	mean, p50, p99 [2]float64 // milliseconds, of DISCOVERs and REQUESTs
	cpu            float64    // milliseconds for each exchange
}

// TestBenchDHCP compares Nereid with Kea (memfile, which does not sync) in the same
// namespaces, in alternation, by perfdhcp: exchanges of newcomers' firmware (PXEClient,
// of which Nereid keeps a boot record too), each with a lease that is on disk before its
// ACK in Nereid's case. It prints medians, and fails where goodput falls below half of
// Kea's, or collapses: perfdhcp, which has the same CPUs, takes more of them the more it
// offers, so a fifth less than at a lower rate is none.
func TestBenchDHCP(t *testing.T) {
	for _, p := range []string{"ip", "perfdhcp", "kea-dhcp4"} {
		if _, err := exec.LookPath(p); err != nil {
			t.Fatalf("this benchmark needs %s: %v; run: integration/lab/packages.sh bench", p, err)
		}
	}
	bin := os.Getenv("NEREID_BIN")
	if bin == "" {
		t.Fatal("NEREID_BIN names no directory with the programs; run: make bench")
	}
	servers := []dhcpServer{
		{name: "Nereid", ready: "boot server ready", start: func(t *testing.T, ns, dir string) *exec.Cmd { return startNereid(t, bin, ns, dir) }},
		{name: "Kea", ready: "DHCP4_STARTED", start: startKea},
	}
	runs := map[string]map[int][]dhcpRun{"Nereid": {}, "Kea": {}}
	for range dhcpRounds {
		for _, s := range servers {
			for rate, r := range measureDHCP(t, s) {
				runs[s.name][rate] = append(runs[s.name][rate], r)
			}
		}
	}
	fmt.Printf("%-8s %8s %8s %7s %22s %22s %9s\n", "offered", "", "done/s", "lost", "DISCOVER p50 p99 mean", "REQUEST p50 p99 mean", "CPU ms")
	best := 0.0
	for _, rate := range dhcpRates {
		done := map[string]float64{}
		for _, s := range servers {
			of := func(f func(dhcpRun) float64) float64 {
				var v []float64
				for _, r := range runs[s.name][rate] {
					v = append(v, f(r))
				}
				return median(v)
			}
			done[s.name] = of(func(r dhcpRun) float64 { return r.done })
			fmt.Printf("%6d/s %9s %8.0f %6.1f%%", rate, s.name, done[s.name], 100*of(func(r dhcpRun) float64 { return r.lost }))
			for i := range 2 {
				fmt.Printf("  %6.2f %6.2f %6.2f", of(func(r dhcpRun) float64 { return r.p50[i] }),
					of(func(r dhcpRun) float64 { return r.p99[i] }), of(func(r dhcpRun) float64 { return r.mean[i] }))
			}
			fmt.Printf(" %9.3f\n", of(func(r dhcpRun) float64 { return r.cpu }))
		}
		if n, k := done["Nereid"], done["Kea"]; n < k/2 || n < 0.8*best {
			t.Errorf("at %d/s offered Nereid completes %.0f/s, Kea %.0f/s, Nereid at a lower rate %.0f/s", rate, n, k, best)
		}
		best = max(best, done["Nereid"])
	}
}

// measureDHCP starts a server without leases and gives what perfdhcp saw of it at
// each rate.
func measureDHCP(t *testing.T, s dhcpServer) map[int]dhcpRun {
	t.Helper()
	dir, err := os.MkdirTemp("", "dhcpbench") // a Unix socket's path has to be short
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	server, client := filepath.Base(dir)+"s", filepath.Base(dir)+"c"
	ip := func(args string) {
		t.Helper()
		if out, err := exec.Command("ip", strings.Fields(args)...).CombinedOutput(); err != nil {
			t.Fatalf("ip %s: %v: %s", args, err, out)
		}
	}
	for _, ns := range []string{server, client} {
		ip("netns add " + ns)
		defer ip("netns del " + ns)
		ip("-n " + ns + " link set lo up")
	}
	ip("-n " + server + " link add admin0 type veth peer name e0 netns " + client)
	ip("-n " + server + " addr add 10.96.0.7/12 dev admin0")
	ip("-n " + client + " addr add 10.96.0.5/12 dev e0")
	ip("-n " + server + " link set admin0 up")
	ip("-n " + client + " link set e0 up")

	cmd := s.start(t, server, dir)
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = cmd.Process.Signal(syscall.SIGTERM) // "ip netns exec" became the server
		_ = cmd.Wait()
	}()
	for limit := time.After(20 * time.Second); ; {
		text, err := os.ReadFile(log.Name())
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(text), s.ready) {
			break
		}
		select {
		case <-limit:
			t.Fatalf("%s is not ready:\n%s", s.name, text)
		case <-time.After(20 * time.Millisecond):
		}
	}
	out := map[int]dhcpRun{}
	for i, rate := range dhcpRates {
		before := cpuSeconds(t, cmd.Process.Pid)
		// A seed of its own for each rate gives each its own newcomers.
		perf := exec.CommandContext(t.Context(), "ip", "netns", "exec", client, "perfdhcp", "-4", "-r", strconv.Itoa(rate),
			"-o", "60,"+hex.EncodeToString([]byte("PXEClient:Arch:00000:UNDI:002001")), "-o", "93,0000", "-R", "1000000", "-b", fmt.Sprintf("mac=02:00:00:%02x:00:00", 0x10+0x10*i), "-p", strconv.Itoa(dhcpSeconds), "-x", "t", "-l", "e0", "10.96.0.7")
		text, err := perf.CombinedOutput()
		if len(text) == 0 && err != nil { // 3: not every message was answered
			t.Fatalf("perfdhcp: %v", err)
		}
		r := parsePerfDHCP(t, string(text))
		if exchanges := r.done * dhcpSeconds; exchanges > 0 {
			r.cpu = 1000 * (cpuSeconds(t, cmd.Process.Pid) - before) / exchanges
		}
		out[rate] = r
	}
	return out
}

func startNereid(t *testing.T, bin, ns, dir string) *exec.Cmd {
	t.Helper()
	answers := filepath.Join(dir, "answers.toml")
	text := "datacenter = \"bench\"\ndns_domain = \"bench.example.com\"\n[admin]\ninterface = \"admin0\"\naddress = \"10.96.0.7/12\"\n" +
		"range = [\"10.97.0.0\", \"10.110.255.255\"]\nlease = \"12h\"\nclients = \"pxe\"\n"
	if err := os.WriteFile(answers, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	program, data := filepath.Join(bin, "nereid-headnode"), filepath.Join(dir, "data")
	if out, err := exec.Command("ip", "netns", "exec", ns, program, "init", "--answers", answers, "--data-dir", data).CombinedOutput(); err != nil {
		t.Fatalf("nereid-headnode init: %v: %s", err, out)
	}
	return exec.CommandContext(t.Context(), "ip", "netns", "exec", ns, program, "run", "--data-dir", data, "--socket", filepath.Join(dir, "s"))
}

func startKea(t *testing.T, ns, dir string) *exec.Cmd {
	t.Helper()
	config := filepath.Join(dir, "kea.json")
	text := `{"Dhcp4": {"interfaces-config": {"interfaces": ["admin0"], "dhcp-socket-type": "udp"},
"lease-database": {"type": "memfile", "persist": true, "name": "` + filepath.Join(dir, "leases.csv") + `", "lfc-interval": 0},
"valid-lifetime": 43200, "subnet4": [{"id": 1, "subnet": "10.96.0.0/12", "pools": [{"pool": "10.97.0.0-10.110.255.255"}]}],
"loggers": [{"name": "kea-dhcp4", "severity": "INFO", "output_options": [{"output": "stderr"}]},
{"name": "kea-dhcp4.leases", "severity": "WARN", "output_options": [{"output": "stderr"}]}]}}`
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "ip", "netns", "exec", ns, "kea-dhcp4", "-c", config)
	cmd.Env = append(os.Environ(), "KEA_PIDFILE_DIR="+dir, "KEA_LOCKFILE_DIR="+dir)
	return cmd
}

var (
	perfCount = regexp.MustCompile(`(?m)^(sent|received) packets: (\d+)`)
	perfMean  = regexp.MustCompile(`(?m)^avg delay: ([0-9.]+) ms`)
	perfStamp = regexp.MustCompile(`(?m)^(?:sent / received: ([0-9.]+) / ([0-9.]+)|\*\*\*Timestamps for packets: (\S+))`)
)

// parsePerfDHCP reads perfdhcp's report with timestamps (-x t).
func parsePerfDHCP(t *testing.T, text string) (r dhcpRun) {
	t.Helper()
	var counts []float64
	for _, m := range perfCount.FindAllStringSubmatch(text, -1) {
		n, _ := strconv.ParseFloat(m[2], 64)
		counts = append(counts, n)
	}
	means := perfMean.FindAllStringSubmatch(text, -1)
	if len(counts) != 4 || len(means) != 2 {
		t.Fatalf("perfdhcp's report:\n%.2000s", text)
	}
	r.done = counts[3] / dhcpSeconds
	r.lost = 1 - counts[3]/counts[0]
	var delays [2][]float64
	at := -1
	for _, m := range perfStamp.FindAllStringSubmatch(text, -1) {
		if m[3] != "" {
			at++
			continue
		}
		sent, _ := strconv.ParseFloat(m[1], 64)
		received, err := strconv.ParseFloat(m[2], 64)
		if err == nil && at >= 0 && at < 2 {
			delays[at] = append(delays[at], 1000*(received-sent))
		}
	}
	for i := range 2 {
		r.mean[i], _ = strconv.ParseFloat(means[i][1], 64)
		slices.Sort(delays[i])
		if n := len(delays[i]); n > 0 {
			r.p50[i], r.p99[i] = delays[i][n/2], delays[i][n*99/100]
		}
	}
	return r
}
