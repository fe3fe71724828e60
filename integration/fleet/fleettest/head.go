// Package fleettest starts head nodes for fleets: processes on loopback addresses,
// without root, with a signed platform of a few bytes.
package fleettest

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"nereid/api"
	"nereid/images"
	"nereid/integration/lab"
)

// Stamp is that of the platform.
const Stamp = "20261122T101500Z"

// Answers is the answers file; the range has room for 50,000 servers.
const Answers = `datacenter = "fleet"
dns_domain = "fleet.example.com"

[admin]
interface = "lo"
address   = "127.82.0.7/16"
range     = ["127.82.1.0", "127.82.254.255"]
`

// Head is a head node in a process of its own.
type Head struct {
	Dir string // data directory; on a disk where the temporary directory is
	PID int

	t       testing.TB
	program func(ctx context.Context, args ...string) *exec.Cmd
	listen  string
	cmd     *exec.Cmd
	wait    sync.WaitGroup
}

// Start makes a data directory and starts a head node, by a program that takes the
// arguments of nereid-headnode.
func Start(t testing.TB, program func(ctx context.Context, args ...string) *exec.Cmd) *Head {
	t.Helper()
	dir, err := os.MkdirTemp("", "fl") // a Unix socket's path has to be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	h := &Head{t: t, Dir: filepath.Join(dir, "d"), program: program, listen: freePort(t)}
	answers := filepath.Join(dir, "answers.toml")
	if err := os.WriteFile(answers, []byte(Answers), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := program(t.Context(), "init", "--answers", answers, "--data-dir", h.Dir, "--elsewhere").CombinedOutput(); err != nil {
		t.Fatalf("nereid-headnode init: %v: %s", err, out)
	}
	t.Cleanup(h.Kill)
	h.Run()
	h.platform(dir)
	return h
}

// freePort is an address that nothing listens on. It stays the head node's over its
// restarts, as servers know it.
func freePort(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.82.0.7:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// Socket is the head node's Unix socket.
func (h *Head) Socket() string { return filepath.Join(h.Dir, "headnode.sock") }

// Run starts the head node and waits until it says that it is ready.
func (h *Head) Run() {
	h.t.Helper()
	// The context of a test ends before its cleanup, which kills.
	h.cmd = h.program(context.WithoutCancel(h.t.Context()), "run", "--data-dir", h.Dir, "--socket", h.Socket(),
		"--listen", h.listen, "--http-port", "0", "--svp-port", "0")
	log, err := h.cmd.StderrPipe()
	if err != nil {
		h.t.Fatal(err)
	}
	if err := h.cmd.Start(); err != nil {
		h.t.Fatal(err)
	}
	h.PID = h.cmd.Process.Pid
	ready := make(chan bool, 1)
	var said bytes.Buffer // until it is ready
	h.wait.Go(func() {
		lines, open := bufio.NewScanner(log), true
		for lines.Scan() {
			if open {
				said.Write(append(lines.Bytes(), '\n'))
			}
			if open && strings.Contains(lines.Text(), "head node ready") {
				open = false
				ready <- true
			}
		}
		if open {
			ready <- false
		}
	})
	if !<-ready {
		h.t.Fatalf("the head node ended before it was ready: %s", said.Bytes())
	}
}

// Kill ends the head node with SIGKILL, as a crash would.
func (h *Head) Kill() {
	if h.cmd == nil {
		return
	}
	_ = h.cmd.Process.Kill() // gone already is as good
	h.wait.Wait()            // all of its log is read
	_ = h.cmd.Wait()         // killed: that is its error
	h.cmd = nil
}

// platform imports a signed platform and makes it the default.
func (h *Head) platform(dir string) {
	h.t.Helper()
	ctx, c := h.t.Context(), api.NewClient(h.Socket())
	defer c.Close()
	dir = filepath.Join(dir, "platform")
	if err := lab.Blank(dir, Stamp); err != nil {
		h.t.Fatal(err)
	}
	if err := ImportPlatform(ctx, c, dir, func() {}); err != nil {
		h.t.Fatal(err)
	}
	if err := c.SetDefaultPlatform(ctx, Stamp); err != nil {
		h.t.Fatal(err)
	}
}

// ImportPlatform trusts the key of a platform in a directory and imports the platform.
// It calls each after each file.
func ImportPlatform(ctx context.Context, c *api.Client, dir string, each func()) error {
	key, err := os.ReadFile(filepath.Join(dir, "manifest.pub"))
	if err != nil {
		return fmt.Errorf("import a platform: %w", err)
	}
	signed, m, err := images.ReadPlatform(dir)
	if err != nil {
		return fmt.Errorf("import a platform: %w", err)
	}
	if err := c.AddPlatformKey(ctx, api.PlatformKey{Name: "test", Key: string(bytes.TrimSpace(key))}); err != nil {
		return fmt.Errorf("import a platform: %w", err)
	}
	if _, err := c.AddPlatform(ctx, signed); err != nil {
		return fmt.Errorf("import a platform: %w", err)
	}
	for _, f := range m.Files() {
		if err := upload(ctx, c, dir, f); err != nil {
			return fmt.Errorf("import a platform: %w", err)
		}
		each()
	}
	return nil
}

func upload(ctx context.Context, c *api.Client, dir string, f api.File) error {
	file, err := os.Open(filepath.Join(dir, f.Name))
	if err != nil {
		return err
	}
	defer file.Close()
	return c.Upload(ctx, f, file, nil)
}
