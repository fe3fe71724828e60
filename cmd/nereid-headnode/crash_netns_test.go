//go:build netns

package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"nereid/api"
	"nereid/integration/fleet/fleettest"
	"nereid/integration/lab"
)

// rack is the head node's namespace and a machine's, joined by a veth pair:
//
//	head: admin0 10.99.99.7/24 ---- machine: e0
type rack struct {
	t             *testing.T
	head, machine string
	dir           string
	daemon        *exec.Cmd
	client        *api.Client
}

func (r *rack) ip(args ...string) {
	r.t.Helper()
	if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
		r.t.Fatalf("ip %s: %v: %s", strings.Join(args, " "), err, out)
	}
}

func newRack(t *testing.T) *rack {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("the netns tier needs root")
	}
	for _, p := range []string{"ip", "udhcpc", "curl"} {
		if _, err := exec.LookPath(p); err != nil {
			t.Fatalf("the netns tier needs %s: %v", p, err)
		}
	}
	dir, err := os.MkdirTemp("", "hnr") // a Unix socket's path has to be short
	if err != nil {
		t.Fatal(err)
	}
	id := filepath.Base(dir)
	r := &rack{t: t, dir: dir, head: id + "h", machine: id + "m"}
	t.Cleanup(func() {
		r.kill()
		for _, ns := range []string{r.head, r.machine} {
			_ = exec.Command("ip", "netns", "del", ns).Run() // it may not have been made
		}
		os.RemoveAll(dir)
	})
	r.ip("netns", "add", r.head)
	r.ip("netns", "add", r.machine)
	r.ip("-n", r.head, "link", "add", "admin0", "type", "veth", "peer", "name", "e0", "netns", r.machine)
	r.ip("-n", r.head, "addr", "add", "10.99.99.7/24", "dev", "admin0")
	r.ip("-n", r.head, "link", "set", "admin0", "up")
	r.ip("-n", r.head, "link", "set", "lo", "up")
	r.ip("-n", r.machine, "link", "set", "e0", "address", "52:54:00:aa:bb:01")
	r.ip("-n", r.machine, "link", "set", "e0", "up")
	file := answersFile(t, strings.ReplaceAll(strings.Replace(good, `"lo"`, `"admin0"`, 1), "127.78.0", "10.99.99"))
	if _, err := call("init", "--answers", file, "--data-dir", r.data(), "--elsewhere"); err != nil {
		t.Fatal(err)
	}
	r.start()
	return r
}

func (r *rack) data() string { return filepath.Join(r.dir, "d") }

// start starts the daemon and waits for its READY=1.
func (r *rack) start() {
	r.t.Helper()
	exe, err := os.Executable()
	if err != nil {
		r.t.Fatal(err)
	}
	ready, err := os.CreateTemp(r.dir, "log")
	if err != nil {
		r.t.Fatal(err)
	}
	defer ready.Close()
	r.daemon = exec.Command("ip", "netns", "exec", r.head, exe, "run", "--data-dir", r.data())
	r.daemon.Env = append(os.Environ(), childEnv+"=1")
	r.daemon.Stderr = ready
	if err := r.daemon.Start(); err != nil {
		r.t.Fatal(err)
	}
	r.client = api.NewClient(filepath.Join(r.data(), "headnode.sock"))
	deadline := time.After(20 * time.Second)
	for {
		log, err := os.ReadFile(ready.Name())
		if err != nil {
			r.t.Fatal(err)
		}
		if bytes.Contains(log, []byte("head node ready")) && bytes.Contains(log, []byte("boot server ready")) {
			return
		}
		select {
		case <-deadline:
			r.t.Fatalf("the daemon is not ready: %s", log)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// kill is SIGKILL: "ip netns exec" became the daemon.
func (r *rack) kill() {
	if r.daemon == nil {
		return
	}
	r.client.Close()
	_ = r.daemon.Process.Signal(syscall.SIGKILL) // gone already is as good
	_ = r.daemon.Wait()
	r.daemon = nil
}

func (r *rack) crash() {
	r.t.Helper()
	r.kill()
	r.start()
}

// lease runs udhcpc as a ROM would and returns the address it got.
func (r *rack) lease(extra ...string) string {
	r.t.Helper()
	script := filepath.Join(r.dir, "udhcpc.sh")
	result := filepath.Join(r.dir, "lease")
	if err := os.WriteFile(script, []byte("#!/bin/sh\n[ \"$1\" = bound ] && echo \"$ip\" >"+result+"\nexit 0\n"), 0o700); err != nil {
		r.t.Fatal(err)
	}
	_ = os.Remove(result) // of the lease before
	args := append([]string{"netns", "exec", r.machine, "udhcpc", "-i", "e0", "-n", "-q", "-f", "-t", "5", "-T", "2", "-s", script, "-V", "PXEClient:Arch:00000:UNDI:002001"}, extra...)
	out, err := exec.Command("ip", args...).CombinedOutput()
	if err != nil {
		r.t.Fatalf("udhcpc: %v: %s", err, out)
	}
	b, err := os.ReadFile(result)
	if err != nil {
		r.t.Fatalf("udhcpc: %v: %s", err, out)
	}
	return strings.TrimSpace(string(b))
}

// curl returns status and body.
func (r *rack) curl(path string) (string, string) {
	r.t.Helper()
	cmd := exec.Command("ip", "netns", "exec", r.machine, "curl", "-s", "-A", "iPXE/1.0.0", "-w", "\n%{http_code}", "http://10.99.99.7"+path)
	out, err := cmd.CombinedOutput()
	if err != nil {
		r.t.Fatalf("curl %s: %v: %s", path, err, out)
	}
	i := bytes.LastIndexByte(out, '\n')
	return string(out[i+1:]), string(out[:i])
}

// importPlatform brings a signed platform of a few bytes, and returns its kernel.
func (r *rack) importPlatform() []byte {
	r.t.Helper()
	dir := filepath.Join(r.dir, "platform")
	if err := lab.Blank(dir, "20261122T101500Z"); err != nil {
		r.t.Fatal(err)
	}
	if err := fleettest.ImportPlatform(context.Background(), r.client, dir, r.crash); err != nil { // it crashes between any two files
		r.t.Fatal(err)
	}
	kernel, err := os.ReadFile(filepath.Join(dir, "vmlinuz"))
	if err != nil {
		r.t.Fatal(err)
	}
	return kernel
}

// The daemon is killed with SIGKILL between any two legs of a boot that foreign
// programs make: what was acknowledged holds, and the boot goes on.
func TestNetNSKilledBetweenLegs(t *testing.T) {
	r := newRack(t)
	kernel := r.importPlatform()
	addr := r.lease()
	r.crash()
	if again := r.lease("-r", addr); again != addr {
		t.Fatalf("the lease of %s became %s", addr, again)
	}
	r.ip("-n", r.machine, "addr", "add", addr+"/24", "dev", "e0")
	r.crash()
	bs, err := r.client.BootsByMAC(context.Background(), "52:54:00:aa:bb:01")
	if err != nil || len(bs) == 0 || bs[0].Address != addr {
		t.Fatalf("boots %+v %v", bs, err)
	}
	id := bs[0].ID
	status, script := r.curl("/boot/" + id + "/script.ipxe")
	if status != "200" || !strings.Contains(script, "vmlinuz") || !strings.Contains(script, "nereid.boot="+id) {
		t.Fatalf("script: %s %s", status, script)
	}
	r.crash()
	if status, body := r.curl(fmt.Sprintf("/files/%x/vmlinuz?boot=%s", sha256.Sum256(kernel), id)); status != "200" || body != string(kernel) {
		t.Fatalf("kernel: %s %q", status, body)
	}
	r.crash()
	status, config := r.curl("/boot/" + id + "/config.cpio")
	if status != "200" || !strings.Contains(config, `"token"`) || !strings.Contains(config, `"api": "https://10.99.99.7:8443"`) {
		t.Fatalf("configuration: %s", status)
	}
	// The record of it is written when it was sent; wait for that, then crash.
	for {
		bs, err = r.client.BootsByMAC(context.Background(), "52:54:00:aa:bb:01")
		if err != nil {
			t.Fatal(err)
		}
		if last := bs[0].Events[len(bs[0].Events)-1]; last.Stage == api.StageConfig {
			break
		}
		if t.Context().Err() != nil {
			t.Fatalf("the configuration is not in the record: %+v", bs[0].Events)
		}
	}
	r.crash()
	if status, text := r.curl("/boot/" + id + "/config.cpio"); status != "410" || !strings.Contains(text, "handed out already") {
		t.Errorf("the configuration a second time: %s %s", status, text)
	}
	if status, body := r.curl("/platforms/20261122T101500Z/manifest.json"); status != "200" || !strings.Contains(body, "20261122T101500Z") {
		t.Errorf("manifest: %s", status)
	}
}
