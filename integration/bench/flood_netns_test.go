//go:build netns

package bench

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"nereid/api"
	"nereid/integration/lab"
)

// floodRounds is how often the boots without and with a flood take turns.
const floodRounds = 9

// floodAnswers is a head node's answers file with addresses for all invented MACs.
const floodAnswers = `datacenter = "bench"
[admin]
interface = "admin0"
address   = "10.99.99.7/12"
range     = ["10.100.0.0", "10.110.255.255"]
lease     = "12h"
`

// TestBenchFlood measures how long a known server's DISCOVER to ACK and its whole
// boot take while one client floods the head node, beside the same without: two head
// nodes of the same kind, of which one is flooded, boot their server in turns; the
// flood is stopped while the other one's turn is. Another machine's CPU is not the head
// node's, so the flood has what nobody else wants of it.
func TestBenchFlood(t *testing.T) {
	bin := os.Getenv("NEREID_BIN")
	if bin == "" {
		t.Fatal("NEREID_BIN names no directory with the programs; run: make bench")
	}
	only := os.Getenv(floodEnv + "_ONLY")
	quiet := newHall(t, bin)
	fmt.Printf("%-10s %9s | %25s | %25s\n", "flood", "done/s", "DISCOVER to ACK, ms", "whole boot, ms")
	for _, f := range floods {
		if only != "" && only != f.name {
			continue
		}
		t.Run(f.name, func(t *testing.T) {
			loud := newHall(t, bin)
			fl := loud.flood(t, f.name)
			var ack, whole [2][]float64
			for range floodRounds {
				for i, h := range []*hall{quiet, loud} {
					if i == 1 {
						fl.goOn()
					}
					b := h.boot(t)
					if i == 1 {
						fl.pause()
					}
					ack[i] = append(ack[i], ms(b.ack))
					whole[i] = append(whole[i], ms(b.whole))
				}
			}
			a0, a1, w0, w1 := median(ack[0]), median(ack[1]), median(whole[0]), median(whole[1])
			fmt.Printf("%-10s %9.0f | %7.2f %7.2f %7.1fx | %7.1f %7.1f %7.1fx   %s\n", f.name, fl.rate(), a0, a1, a1/a0, w0, w1, w1/w0, f.what)
			if a1 > 2*a0 || w1 > 2*w0 {
				t.Errorf("during %s a known server waits %.1f times as long for its ACK and %.1f times for its boot: want at most twice", f.name, a1/a0, w1/w0)
			}
		})
	}
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// hall is a head node with a server that it knows, and a place on its network for
// one who floods:
//
//	rack's namespace: head node, admin0 --- eth0 of the server's namespace
//	                                   \--- eth0 of the flood's
type hall struct {
	rack   *lab.Rack
	server *machine
	far    string // the flood's namespace
}

func newHall(t *testing.T, bin string) *hall {
	t.Helper()
	dir, err := os.MkdirTemp("", "hall") // a Unix socket's path has to be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	rack, err := lab.New(t.Context(), lab.Options{Dir: filepath.Join(dir, "rack"), Headnode: filepath.Join(bin, "nereid-headnode"), Answers: floodAnswers})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := rack.Close(); err != nil {
			t.Errorf("close the rack: %v", err)
		}
	})
	h := &hall{rack: rack, far: rack.Namespace + "-f"}
	near := rack.Namespace + "-s"
	for _, args := range []string{"-n " + rack.Namespace + " addr del 10.99.99.7/24 dev admin0", "-n " + rack.Namespace + " addr add 10.99.99.7/12 dev admin0"} {
		shell(t, "ip "+args)
	}
	for i, ns := range []string{near, h.far} {
		shell(t, "ip netns add "+ns)
		t.Cleanup(func() { shell(t, "ip netns del "+ns) })
		shell(t, fmt.Sprintf("ip -n %s link add port%d type veth peer name eth0 netns %s", rack.Namespace, i, ns))
		shell(t, fmt.Sprintf("ip -n %s link set port%d master admin0 up", rack.Namespace, i))
		shell(t, "ip -n "+ns+" link set eth0 up")
	}
	platform := filepath.Join(dir, "platform")
	if err := lab.Filled(platform, "20260101T000000Z", 10<<20); err != nil {
		t.Fatal(err)
	}
	if err := rack.StartHeadnode(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := lab.ImportPlatform(t.Context(), rack, filepath.Join(bin, "nereid"), platform, t.Output()); err != nil {
		t.Fatal(err)
	}
	const uuid = "4e455245-4944-4000-8000-000000000301"
	if h.server, err = newMachine("00:25:90:00:03:01", uuid, floodServer, "/run/netns/"+near); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = h.server.udp.Close() })
	first := make(chan error, 1)
	go func() {
		_, err := h.server.boot(t.Context()) // its enrolment waits for the operator
		first <- err
	}()
	if err := lab.WaitState(t.Context(), rack.Client(), uuid, api.StatePending, time.Minute); err != nil {
		t.Fatal(err)
	}
	if err := rack.Client().ApproveServer(t.Context(), uuid, ""); err != nil {
		t.Fatal(err)
	}
	if err := <-first; err != nil {
		t.Fatal(err)
	}
	// Who floods has the other addresses of the range, behind one: the kernel's table
	// of neighbours is small, and is not what is measured.
	shell(t, "ip -n "+h.far+" addr add "+floodClient.String()+" dev eth0")
	shell(t, "ip -n "+h.far+" route add local 10.100.0.0/14 dev lo")
	shell(t, "ip -n "+rack.Namespace+" route add "+h.server.address.Addr().String()+" dev admin0")
	shell(t, "ip -n "+rack.Namespace+" route add 10.100.0.0/14 via "+floodClient.Addr().String()+" dev admin0")
	return h
}

func (h *hall) boot(t *testing.T) booted {
	t.Helper()
	b, err := h.server.boot(t.Context())
	if err != nil {
		t.Fatalf("boot: %v", err)
	}
	if b.whole == 0 {
		t.Fatal("the server is not let in")
	}
	return b
}

func shell(t *testing.T, line string) {
	t.Helper()
	args := strings.Fields(line)
	if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
		t.Errorf("%s: %v: %s", line, err, out)
	}
}

// flooding is a flood that a process makes; it is at work or paused.
type flooding struct {
	t    *testing.T
	cmd  *exec.Cmd
	says chan int64 // what it did so far, the latest
	did  int64
	on   time.Duration
	at   time.Time
	then int64
}

// flood starts a flood, and pauses it once it is at work.
func (h *hall) flood(t *testing.T, name string) *flooding {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	f := &flooding{t: t, says: make(chan int64, 1), cmd: exec.CommandContext(ctx, "ip", "netns", "exec", h.far, "nice", "-n", "19", self)}
	f.cmd.Env = append(os.Environ(), floodEnv+"="+name)
	f.cmd.Stderr = t.Output()
	out, err := f.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := f.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	read := make(chan struct{})
	go func() {
		defer close(read)
		defer close(f.says)
		for s := bufio.NewScanner(out); s.Scan(); {
			n, err := strconv.ParseInt(s.Text(), 10, 64)
			if err != nil {
				return
			}
			select {
			case <-f.says: // nobody heard that one
			default:
			}
			f.says <- n
		}
	}()
	t.Cleanup(func() {
		cancel()
		<-read
		_ = f.cmd.Wait()
	})
	want := int64(1)
	if name == "tokens" {
		want = 2000
	}
	f.at = time.Now()
	for f.did < want {
		f.hear()
	}
	f.pause()
	f.on, f.then = 0, f.did
	return f
}

// hear waits for the next word of the flood.
func (f *flooding) hear() {
	f.t.Helper()
	n, ok := <-f.says
	if !ok {
		f.t.Fatal("the flood ended")
	}
	f.did = n
}

// goOn lets the flood go on, and waits until it does.
func (f *flooding) goOn() {
	f.t.Helper()
	if err := f.cmd.Process.Signal(syscall.SIGCONT); err != nil {
		f.t.Fatal(err)
	}
	f.at = time.Now()
	f.hear()
	f.hear() // the first may have been on its way since before the pause
}

func (f *flooding) pause() {
	f.t.Helper()
	if err := f.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		f.t.Fatal(err)
	}
	f.on += time.Since(f.at)
	select {
	case n, ok := <-f.says:
		if ok {
			f.did = n
		}
	default:
	}
}

// rate is what it did a second while it was at work.
func (f *flooding) rate() float64 { return float64(f.did-f.then) / max(f.on.Seconds(), 0.001) }
