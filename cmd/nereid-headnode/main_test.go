package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"nereid/api"
)

const childEnv = "NEREID_TEST_HEADNODE"

func TestMain(m *testing.M) {
	if os.Getenv(childEnv) != "" {
		main()
		return
	}
	os.Exit(isolated(m))
}

// isolated keeps the tests' head nodes, which root may run, from being where
// nereid looks on this machine.
func isolated(m *testing.M) int {
	dir, err := os.MkdirTemp("", "hnr")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	os.Setenv("RUNTIME_DIRECTORY", dir)
	return m.Run()
}

// call runs the program in this process.
func call(args ...string) (string, error) {
	var out bytes.Buffer
	err := run(context.Background(), args, strings.NewReader(""), &out, &out)
	return out.String(), err
}

// TestHelpFits: every help text fits a terminal of 80 columns.
func TestHelpFits(t *testing.T) {
	for _, c := range []string{"", "init", "run", "unit", "version"} {
		out, err := call(strings.Fields(c + " --help")...)
		if err != nil || out == "" {
			t.Errorf("%s --help: %q %v", c, out, err)
		}
		for line := range strings.Lines(out) {
			if len(strings.TrimRight(line, "\n")) > 80 {
				t.Errorf("%s --help: wider than 80 columns: %s", c, line)
			}
		}
	}
}

func answersFile(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "answers.toml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

const good = `datacenter = "coal"
[admin]
interface = "lo"
address = "127.78.0.7/24"
range = ["127.78.0.100", "127.78.0.250"]
`

func TestInit(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	if _, err := call("run", "--data-dir", dir); err == nil || !strings.Contains(err.Error(), "run first: nereid-headnode init --data-dir "+dir) {
		t.Errorf("run before init: %v", err)
	}
	if _, err := call("init", "--data-dir", dir); err == nil || !strings.Contains(err.Error(), "--answers") {
		t.Errorf("init without a terminal: %v", err)
	}
	bad := answersFile(t, strings.Replace(good, "127.78.0.7/24", "127.78.0.100/24", 1)+"leese = \"1h\"\n")
	_, err := call("init", "--answers", bad, "--data-dir", dir)
	if err == nil || !strings.Contains(err.Error(), "line 6: admin.leese: unknown key; perhaps admin.lease") || !strings.Contains(err.Error(), "line 5: admin.range") {
		t.Errorf("bad answers: %v", err)
	}
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("bad answers left something behind: %v", err)
	}
	file := answersFile(t, good)
	if out, err := call("init", "--answers", file, "--data-dir", dir); err != nil || !strings.Contains(out, "nereid-headnode run --data-dir "+dir) {
		t.Fatalf("init: %q %v", out, err)
	}
	if _, err := call("init", "--answers", file, "--data-dir", dir); err == nil || !strings.Contains(err.Error(), "already initialised as datacenter coal") {
		t.Errorf("init again: %v", err)
	}
}

// An init that was killed before its transaction leaves a store without answers.
func TestInitAfterAKill(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "leftover"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	file := answersFile(t, good)
	for range 20 {
		cmd := child(t, "init", "--answers", file, "--data-dir", dir)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if err := cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
			t.Fatal(err)
		}
		_ = cmd.Wait() // killed, or done before: the next one says which
	}
	_, err := call("init", "--answers", file, "--data-dir", dir)
	if err != nil && !strings.Contains(err.Error(), "already initialised") {
		t.Errorf("after 20 kills: %v", err)
	}
	if _, err := call("init", "--answers", file, "--data-dir", dir); err == nil {
		t.Error("it is not initialised in full")
	}
}

func child(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe, args...)
	cmd.Env = append(os.Environ(), childEnv+"=1")
	return cmd
}

// What this machine lacks is named before anything is written or opened, and not
// as a port that cannot be listened on.
func TestMissingNetwork(t *testing.T) {
	noInterface := answersFile(t, strings.Replace(good, `"lo"`, `"admin0"`, 1))
	noAddress := answersFile(t, strings.ReplaceAll(good, "127.78.0", "198.51.100"))
	dir := filepath.Join(t.TempDir(), "data")
	for file, want := range map[string]string{
		noInterface: "admin.interface: this machine has no interface admin0; it has ",
		noAddress:   "admin.address: lo does not have 198.51.100.7; give it the address with: ip address add 198.51.100.7/24 dev lo",
	} {
		if _, err := call("init", "--answers", file, "--data-dir", dir); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "--elsewhere") {
			t.Errorf("init: %v, want %q", err, want)
		}
		if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
			t.Fatalf("init wrote something: %v", err)
		}
		there := t.TempDir()
		if _, err := call("init", "--answers", file, "--data-dir", there, "--elsewhere"); err != nil {
			t.Errorf("init --elsewhere: %v", err)
		}
		if _, err := call("run", "--data-dir", there); err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "listen") {
			t.Errorf("run: %v, want %q", err, want)
		}
	}
}

func TestSharedSocket(t *testing.T) {
	for _, tt := range []struct {
		asked   string
		uid     int
		runtime string
		want    string
	}{
		{"", 0, "", "/run/nereid/headnode.sock"},
		{"", 0, "/run/systemd-made", "/run/systemd-made/headnode.sock"},
		{"/tmp/s", 0, "", ""},
		{"", 1000, "", ""},
	} {
		if got := sharedSocket(tt.asked, tt.uid, tt.runtime); got != tt.want {
			t.Errorf("%+v: %q", tt, got)
		}
	}
}

// An error of the system ends with what to do.
func TestNext(t *testing.T) {
	for _, tt := range []struct {
		err  error
		uid  int
		want string
	}{
		{syscall.EADDRINUSE, 0, "ss -lntup"},
		{syscall.EACCES, 1000, "needs root"},
		{syscall.EACCES, 0, ""},
		{syscall.EADDRNOTAVAIL, 0, ""},
	} {
		err := next(fmt.Errorf("listen for HTTP: %w", tt.err), tt.uid)
		if !errors.Is(err, tt.err) || !strings.Contains(err.Error(), tt.want) || tt.want == "" && strings.Contains(err.Error(), ";") {
			t.Errorf("%v as %d: %v", tt.err, tt.uid, err)
		}
	}
	if err := next(nil, 0); err != nil {
		t.Error(err)
	}
}

func TestFlags(t *testing.T) {
	for _, args := range [][]string{
		{"run", "--log-level", "loud"}, {"run", "--log-format", "xml"}, {"run", "--listen", "here"}, {"run", "--http-port", "99999"},
		{"walk"}, {"run", "extra"},
	} {
		if _, err := call(append(args, "--data-dir", t.TempDir())...); err == nil {
			t.Errorf("%v was accepted", args)
		}
	}
	if out, err := call("run", "--help"); err != nil || !strings.Contains(out, "--svp-port") || strings.Contains(out, "(default 1296)") {
		t.Errorf("SVP is not off unless a port is given: %v\n%s", err, out)
	}
	if out, err := call("unit"); err != nil || !strings.Contains(out, "Type=notify") || !strings.Contains(out, "WatchdogSec=") {
		t.Errorf("unit: %v", err)
	}
	if out, err := call("version"); err != nil || strings.TrimSpace(out) == "" {
		t.Errorf("version: %q %v", out, err)
	}
	out, err := call("init", "--sample")
	if err != nil || !strings.Contains(out, "[admin]") {
		t.Errorf("sample: %v", err)
	}
}

// The daemon tells systemd that it is ready, alive and stopping, refuses a second
// one over the same data, and ends within seconds of SIGTERM.
func TestDaemon(t *testing.T) {
	dir, err := os.MkdirTemp("", "hnd") // a Unix socket's path has to be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if _, err := call("init", "--answers", answersFile(t, good), "--data-dir", dir); err != nil {
		t.Fatal(err)
	}
	notify := filepath.Join(dir, "notify")
	sock, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: notify, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer sock.Close()
	cmd := child(t, "run", "--data-dir", dir, "--listen", "127.78.0.7:0", "--http-port", "0", "--log-format", "json")
	cmd.Env = append(cmd.Env, "NOTIFY_SOCKET="+notify, "WATCHDOG_USEC=300000", "JOURNAL_STREAM=1:1")
	var log bytes.Buffer
	cmd.Stderr = &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Process.Kill()
	expect := func(want string) {
		t.Helper()
		if err := sock.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
			t.Fatal(err)
		}
		b := make([]byte, 256)
		for {
			n, err := sock.Read(b)
			if err != nil {
				t.Fatalf("waiting for %s: %v; log: %s", want, err, log.String())
			}
			if string(b[:n]) == want {
				return
			}
		}
	}
	expect("READY=1")
	expect("WATCHDOG=1")
	c := api.NewClient(filepath.Join(dir, "headnode.sock"))
	defer c.Close()
	if _, err := c.Capabilities(context.Background()); err != nil {
		t.Error(err)
	}
	if _, err := call("run", "--data-dir", dir, "--http-port", "0"); err == nil || !strings.Contains(err.Error(), "another nereid-headnode") {
		t.Errorf("a second daemon: %v", err)
	}
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	expect("STOPPING=1")
	if err := cmd.Wait(); err != nil {
		t.Errorf("after SIGTERM: %v; log: %s", err, log.String())
	}
	if strings.Contains(log.String(), `"time"`) {
		t.Errorf("times under journald: %s", log.String())
	}
	if _, err := os.Stat(filepath.Join(dir, "headnode.sock")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket is still there: %v", err)
	}
}
