package lab

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/rpc"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"nereid/api"
)

// Options describe a rack. The zero value but for Headnode is useful.
type Options struct {
	Dir      string       // state, disks and consoles; made when missing
	Headnode string       // path of the nereid-headnode program
	Accel    Accel        // zero: software emulation
	Log      *slog.Logger // nil discards
	Answers  string       // answers file; empty: the lab's own
}

// Answers is the answers file of a lab's head node.
const Answers = `datacenter = "lab"
dns_domain = "lab.example.com"

[admin]
interface = "admin0"
address   = "10.99.99.7/24"
range     = ["10.99.99.100", "10.99.99.250"]
lease     = "12h"
clients   = "pxe"
`

// Rack is a namespace with a bridge, a head node and machines.
type Rack struct {
	opts      Options
	log       *slog.Logger
	Namespace string

	parent  *rpc.Client        // of the process that made it; nil: this one did
	born    []string           // its state at Settle
	unshare context.CancelFunc // ends Share; nil: it is not shared
	wait    sync.WaitGroup     // goroutines that Close waits for

	mu       sync.Mutex
	head     *process
	machines []*Machine
	servers  []*Server
}

// process is a child and the goroutine that waits for it.
type process struct {
	cmd  *exec.Cmd
	done chan struct{}
	err  error
}

func start(cmd *exec.Cmd) (*process, error) {
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	p := &process{cmd: cmd, done: make(chan struct{})}
	go func() {
		p.err = cmd.Wait()
		close(p.done)
	}()
	return p, nil
}

// kill ends the process and waits for it.
func (p *process) kill(sig syscall.Signal) error {
	_ = p.cmd.Process.Signal(sig) // gone already: Wait says so
	<-p.done
	return p.err
}

// New makes the namespace and its bridge. Close removes them.
func New(ctx context.Context, opts Options) (*Rack, error) {
	if os.Geteuid() != 0 {
		return nil, errors.New("make a rack: needs root for its network namespace; run as root")
	}
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	if opts.Answers == "" {
		opts.Answers = Answers
	}
	if err := os.MkdirAll(opts.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("make a rack: %w", err)
	}
	var id [3]byte
	rand.Read(id[:])
	r := &Rack{opts: opts, log: opts.Log, Namespace: "nereid-" + hex.EncodeToString(id[:])}
	if err := run(ctx, "ip", "netns", "add", r.Namespace); err != nil {
		return nil, fmt.Errorf("make a rack: %w", err)
	}
	for _, args := range [][]string{
		{"link", "set", "lo", "up"},
		{"link", "add", "admin0", "address", bridgeMAC("admin0"), "type", "bridge"},
		{"link", "set", "admin0", "up"},
		{"addr", "add", "10.99.99.7/24", "dev", "admin0"},
	} {
		if err := r.ip(ctx, args...); err != nil {
			return nil, errors.Join(fmt.Errorf("make a rack: %w", err), r.Close())
		}
	}
	if err := r.AddBridge(ctx, "data0"); err != nil {
		return nil, errors.Join(fmt.Errorf("make a rack: %w", err), r.Close())
	}
	return r, nil
}

// AddBridge makes another network that machines and servers can have NICs on. The
// rack's namespace has the addresses on it, which are prefixes.
func (r *Rack) AddBridge(ctx context.Context, name string, addresses ...string) error {
	lines := [][]string{
		{"link", "add", name, "mtu", mtu(name), "address", bridgeMAC(name), "type", "bridge"},
		{"link", "set", name, "up"},
	}
	for _, a := range addresses {
		lines = append(lines, []string{"addr", "add", a, "dev", name, "nodad"})
	}
	for _, args := range lines {
		if err := r.ip(ctx, args...); err != nil {
			return fmt.Errorf("add bridge %s: %w", name, err)
		}
	}
	return nil
}

// bridgeMAC is the MAC of a bridge for good. One that it chose by itself would be
// another whenever a machine comes or goes, and who knew it would send to nobody.
func bridgeMAC(name string) string {
	sum := sha256.Sum256([]byte(name))
	return fmt.Sprintf("02:%02x:%02x:%02x:%02x:%02x", sum[0], sum[1], sum[2], sum[3], sum[4])
}

// mtu is that of a bridge: the lab's rule is that only data0 has large frames.
func mtu(bridge string) string {
	if bridge == "data0" {
		return "9000"
	}
	return "1500"
}

// Close powers everything off and removes the namespace. A rack of another process
// stays.
func (r *Rack) Close() error {
	r.mu.Lock()
	machines, servers, head := r.machines, r.servers, r.head
	r.head = nil
	r.mu.Unlock()
	for _, s := range servers {
		s.PowerOff()
	}
	defer r.wait.Wait()
	if r.parent != nil {
		return r.parent.Close()
	}
	if r.unshare != nil {
		r.unshare()
	}
	for _, m := range machines {
		m.PowerOff()
	}
	if head != nil {
		_ = head.kill(syscall.SIGKILL)
	}
	return exec.Command("ip", "netns", "delete", r.Namespace).Run()
}

func (r *Rack) ip(ctx context.Context, args ...string) error {
	return run(ctx, "ip", append([]string{"-n", r.Namespace}, args...)...)
}

// run runs a program and puts what it said into the error.
func run(ctx context.Context, name string, args ...string) error {
	out, err := exec.CommandContext(ctx, name, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, bytes.TrimSpace(out))
	}
	return nil
}

// Exec is a command inside the rack's namespace, as the head node sees it.
func (r *Rack) Exec(ctx context.Context, name string, args ...string) *exec.Cmd {
	return exec.CommandContext(ctx, "ip", append([]string{"netns", "exec", r.Namespace, name}, args...)...)
}

// DataDir is the head node's data directory.
func (r *Rack) DataDir() string { return filepath.Join(r.opts.Dir, "headnode") }

// Socket is the head node's Unix socket.
func (r *Rack) Socket() string { return filepath.Join(r.DataDir(), "headnode.sock") }

// HeadnodeLog is the file the head node's log goes to.
func (r *Rack) HeadnodeLog() string { return filepath.Join(r.opts.Dir, "headnode.log") }

// InitHeadnode runs nereid-headnode init, unless that was done before.
func (r *Rack) InitHeadnode(ctx context.Context) error {
	if _, err := os.Stat(r.DataDir()); err == nil {
		return nil
	}
	answers := filepath.Join(r.opts.Dir, "answers.toml")
	if err := os.WriteFile(answers, []byte(r.opts.Answers), 0o600); err != nil {
		return fmt.Errorf("init head node: %w", err)
	}
	return run(ctx, r.opts.Headnode, "init", "--answers", answers, "--data-dir", r.DataDir(), "--elsewhere")
}

// StartHeadnode starts the daemon and waits until it says that it is ready, as systemd
// does (sd_notify(3)).
func (r *Rack) StartHeadnode(ctx context.Context) error {
	if r.parent != nil {
		_, err := r.order(ctx, Order{Do: "start"})
		return err
	}
	if err := r.InitHeadnode(ctx); err != nil {
		return err
	}
	log, err := os.OpenFile(r.HeadnodeLog(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("start head node: %w", err)
	}
	defer log.Close()
	notices := filepath.Join(r.opts.Dir, "notices")
	_ = os.Remove(notices)
	said, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: notices, Net: "unixgram"})
	if err != nil {
		return fmt.Errorf("start head node: %w", err)
	}
	// "ip netns exec" replaces itself by the program, so signals reach it.
	cmd := exec.Command("ip", "netns", "exec", r.Namespace, r.opts.Headnode, "run", "--data-dir", r.DataDir(), "--socket", r.Socket())
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Env = append(os.Environ(), "NOTIFY_SOCKET="+notices)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	p, err := start(cmd)
	if err != nil {
		said.Close()
		return fmt.Errorf("start head node: %w", err)
	}
	r.wait.Go(func() {
		<-p.done
		said.Close() // not before: it says that it stops, too
	})
	r.mu.Lock()
	r.head = p
	r.mu.Unlock()
	defer context.AfterFunc(ctx, func() { _ = said.SetReadDeadline(time.Now()) })()
	if err := said.SetReadDeadline(time.Now().Add(headnodeReady)); err != nil {
		return fmt.Errorf("start head node: %w", err)
	}
	for b := make([]byte, 4096); ; {
		n, err := said.Read(b)
		switch {
		case err == nil && bytes.Contains(b[:n], []byte("READY=1")):
			return nil
		case errors.Is(err, net.ErrClosed):
			return fmt.Errorf("start head node: it ended at once (%v); its log says: %s", p.err, tail(r.HeadnodeLog()))
		case err != nil:
			return fmt.Errorf("start head node: not ready after %v: %w; its log says: %s", headnodeReady, err, tail(r.HeadnodeLog()))
		}
	}
}

// headnodeReady is when a head node that does not become ready is given up.
const headnodeReady = 30 * time.Second

// KillHeadnode ends the daemon with SIGKILL, as a crash would.
func (r *Rack) KillHeadnode() { r.endHeadnode(syscall.SIGKILL, "kill") }

// StopHeadnode ends the daemon gracefully.
func (r *Rack) StopHeadnode() { r.endHeadnode(syscall.SIGTERM, "stop") }

func (r *Rack) endHeadnode(sig syscall.Signal, order string) {
	if r.parent != nil {
		r.tell(Order{Do: order})
		return
	}
	r.mu.Lock()
	p := r.head
	r.head = nil
	r.mu.Unlock()
	if p != nil {
		_ = p.kill(sig)
	}
}

// HeadnodePID is the daemon's process id; 0 when it does not run.
func (r *Rack) HeadnodePID() int {
	if r.parent != nil {
		return r.tell(Order{Do: "look"})
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.head == nil {
		return 0
	}
	return r.head.cmd.Process.Pid
}

// Client talks to the head node over its Unix socket.
func (r *Rack) Client() *api.Client { return api.NewClient(r.Socket()) }

// tail is the end of a log file, for an error message.
func tail(path string) string {
	f, err := os.Open(path)
	if err != nil {
		return err.Error()
	}
	defer f.Close()
	if st, err := f.Stat(); err == nil && st.Size() > 2000 {
		_, _ = f.Seek(-2000, io.SeekEnd)
	}
	b, _ := io.ReadAll(f)
	return string(bytes.TrimSpace(b))
}
