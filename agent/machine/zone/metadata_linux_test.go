package zone

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"nereid/agent/machine/mdata"
	"nereid/api"
)

// metadataOf is a zone that runs, as far as who answers it sees it: a process has its
// terminal. It gives the path of the zone's end.
func metadataOf(t *testing.T, a *Answerer, uuid string, g mdata.Guest) (tty string) {
	t.Helper()
	if err := Leave(filepath.Join(a.Zones, uuid), Host{UUID: uuid}, Inside{}, g); err != nil {
		t.Fatal(err)
	}
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer master.Close()
	fd := int(master.Fd())
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	peer, err := peerOf(fd)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(peer)
	if err := rawTerminal(peer); err != nil {
		t.Fatal(err)
	}
	nspawn := exec.Command("sleep", "1000")
	nspawn.Stdin = master
	if err := nspawn.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nspawn.Process.Kill(); nspawn.Wait() })
	start, err := startOf(nspawn.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(a.Entries, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := replace(filepath.Join(a.Entries, uuid), 0o600, 0, process{PID: nspawn.Process.Pid, Start: start}); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("/dev/pts/%d", n)
}

func answerer(t *testing.T) *Answerer {
	// Sockets have short names (unix(7)).
	dir, err := os.MkdirTemp("", "md")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Mkdir(filepath.Join(dir, "w"), 0o700); err != nil {
		t.Fatal(err)
	}
	return &Answerer{Entries: filepath.Join(dir, "e"), Zones: filepath.Join(dir, "z"), Changes: Changes{filepath.Join(dir, "w")}}
}

// run has zones answered until stop is called, or the test ends.
func (a *Answerer) run(t *testing.T) (stop func()) {
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	ended := false
	stop = func() {
		cancel()
		if !ended {
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
		ended = true
	}
	t.Cleanup(stop)
	return stop
}

// ask is one of the programs in a zone.
func (a *Answerer) ask(t *testing.T, uuid, name string, args ...string) (string, int) {
	t.Helper()
	var out, errs bytes.Buffer
	code := Ask(t.Context(), filepath.Join(a.Zones, uuid, insideDir), name, args, strings.NewReader("piped"), &out, &errs)
	return out.String() + errs.String(), code
}

// openLine opens the zone's end of a terminal.
func openLine(t *testing.T, tty string) *os.File {
	t.Helper()
	f, err := os.OpenFile(tty, os.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	if err := f.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return f
}

// TestAnswerer: a zone is answered at its terminal and its socket, by whoever answers
// now; what it changes is read at once, outlives who answers, and is kept until the head
// node has it. A zone that floods its terminal and reads nothing holds up nobody else.
func TestAnswerer(t *testing.T) {
	a := answerer(t)
	g := mdata.Guest{InstanceSpec: api.InstanceSpec{UUID: "u", Metadata: map[string]any{"n": 3.0, "user-script": "#!/bin/sh\n"}}}
	tty := metadataOf(t, a, "u", g)
	flood := metadataOf(t, a, "flood", mdata.Guest{InstanceSpec: api.InstanceSpec{UUID: "flood", Metadata: map[string]any{"k": strings.Repeat("x", 100<<10)}}})
	stop := a.run(t)
	bad := openLine(t, flood)
	go func() {
		for {
			if _, err := bad.WriteString("GET k\nV2 9 garbage\n\x00"); err != nil {
				return
			}
		}
	}()
	line := openLine(t, tty)
	m, err := mdata.Dial(line)
	if err != nil {
		t.Fatal(err)
	}
	get := func(key, want string) {
		t.Helper()
		if v, err := m.Get(key); v != want || err != nil {
			t.Errorf("%s is %q, %v; want %q", key, v, err, want)
		}
	}
	get("sdc:uuid", "u")
	get("n", "3")
	for _, tt := range []struct {
		name string
		args []string
		out  string
		code int
	}{
		{mdataGet, []string{"n"}, "3\n", 0},
		{mdataGet, []string{"x"}, "mdata-get: there is no metadata \"x\"\n", 1},
		{mdataGet, nil, "mdata-get: usage: mdata-get KEY\n", 3},
		{mdataPut, []string{"sdc:uuid", "y"}, "mdata-put: Cannot update the \"sdc\" Namespace\n", 2},
		{mdataPut, []string{"n", "3"}, "", 0}, // it stays a number
		{mdataPut, []string{"k", "one"}, "", 0},
		{mdataPut, []string{"k", "two"}, "", 0},
		{mdataPut, []string{"p"}, "", 0},
		{mdataDelete, []string{"user-script"}, "", 0},
		{mdataDelete, []string{"user-script"}, "", 0},
		{mdataList, nil, "k\nn\np\n", 0},
		{mdataGet, []string{"p"}, "piped\n", 0},
	} {
		if out, code := a.ask(t, "u", tt.name, tt.args...); out != tt.out || code != tt.code {
			t.Errorf("%s %q: %q, %d; want %q, %d", tt.name, tt.args, out, code, tt.out, tt.code)
		}
	}
	get("k", "two")
	kept, err := a.Changes.Read("u")
	if err != nil {
		t.Fatal(err)
	}
	var said []string
	for _, c := range kept {
		v := "deleted"
		if c.Value != nil {
			v = *c.Value
		}
		said = append(said, c.Key+" "+v)
	}
	if got := strings.Join(said, ", "); got != "k two, p piped, user-script deleted" {
		t.Errorf("what is kept: %s", got)
	}
	stop()
	a.run(t) // one that was killed, and starts
	get("k", "two")
	if out, code := a.ask(t, "u", mdataGet, "p"); out != "piped\n" || code != 0 {
		t.Errorf("after a restart: %q, %d", out, code)
	}
	// The head node has it: the agent leaves the spec anew, then the change goes.
	g.Metadata = map[string]any{"n": 3.0, "k": "theirs", "p": "piped"}
	if err := Leave(filepath.Join(a.Zones, "u"), Host{UUID: "u"}, Inside{}, g); err != nil {
		t.Fatal(err)
	}
	get("k", "two")
	if err := a.Changes.Drop("u", []string{kept[0].ID, kept[1].ID, kept[2].ID}); err != nil {
		t.Fatal(err)
	}
	get("k", "theirs")
	if out, _ := a.ask(t, "u", mdataPut, "k", "again"); out != "" {
		t.Error(out)
	}
	get("k", "again")
	// The zone starts anew, with another terminal.
	tty = metadataOf(t, a, "u", g)
	if m, err = mdata.Dial(openLine(t, tty)); err != nil {
		t.Fatal(err)
	}
	get("k", "again")
}

// TestEcho: a terminal that was made to repeat what it is told does not keep who answers
// busy.
func TestEcho(t *testing.T) {
	a := answerer(t)
	tty := metadataOf(t, a, "u", mdata.Guest{InstanceSpec: api.InstanceSpec{UUID: "u"}})
	a.run(t)
	line := openLine(t, tty)
	if _, err := mdata.Dial(line); err != nil {
		t.Fatal(err)
	}
	c, err := line.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	echo := func() (on bool) {
		_ = c.Control(func(fd uintptr) {
			s, err := unix.IoctlGetTermios(int(fd), unix.TCGETS)
			if err != nil {
				t.Error(err)
			}
			on = s.Lflag&unix.ECHO != 0
		})
		return on
	}
	_ = c.Control(func(fd uintptr) {
		s, err := unix.IoctlGetTermios(int(fd), unix.TCGETS)
		if err == nil {
			s.Lflag |= unix.ECHO
			err = unix.IoctlSetTermios(int(fd), unix.TCSETS, s)
		}
		if err != nil {
			t.Error(err)
		}
	})
	if !echo() {
		t.Fatal("the terminal does not repeat")
	}
	if _, err := line.WriteString("hello\n"); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 64)
	if _, err := line.Read(buf); err != nil { // the answer
		t.Fatal(err)
	}
	if echo() {
		t.Error("the terminal still repeats")
	}
}

// TestChangesWatch: who watches is told of the zones that have changes, and of each that
// has another one.
func TestChangesWatch(t *testing.T) {
	c := Changes{t.TempDir()}
	if err := c.add(api.MetadataChange{ID: "ID1", Instance: "a", Key: "k"}, changeName(0, "ID1")); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	told, done := make(chan string, 100), make(chan error, 1)
	go func() { done <- c.Watch(ctx, func(uuid string) { told <- uuid }) }()
	if got := <-told; got != "a" {
		t.Errorf("told of %q", got)
	}
	v := "v"
	if err := c.add(api.MetadataChange{ID: "ID2", Instance: "b", Key: "k", Value: &v}, changeName(7, "ID2")); err != nil {
		t.Fatal(err)
	}
	for <-told != "b" {
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// TestScripts: scripts run once, the operator's first; one without an interpreter is the
// shell's, one with another system's line ends runs, and one that fails is told of.
func TestScripts(t *testing.T) {
	a := answerer(t)
	root := t.TempDir()
	if err := os.MkdirAll(filepath.Join(root, "run"), 0o755); err != nil {
		t.Fatal(err)
	}
	log := filepath.Join(root, "log")
	metadataOf(t, a, "u", mdata.Guest{InstanceSpec: api.InstanceSpec{UUID: "u",
		Metadata: map[string]any{"user-script": "#!/bin/sh\r\necho user >>" + log + "\r\nexit 3\r\n", "user-data": "data"},
		Internal: map[string]any{"operator-script": "echo operator >>" + log + "\n"}}})
	a.run(t)
	dir := filepath.Join(a.Zones, "u", insideDir)
	err := RunScripts(t.Context(), root, dir)
	if err == nil || !strings.Contains(err.Error(), "user-script: exit status 3") {
		t.Errorf("%v", err)
	}
	if err := RunScripts(t.Context(), root, dir); err != nil {
		t.Error(err)
	}
	if b, err := os.ReadFile(log); string(b) != "operator\nuser\n" {
		t.Errorf("%q, %v", b, err)
	}
	if b, err := os.ReadFile(filepath.Join(root, legacyData)); string(b) != "data" {
		t.Errorf("%q, %v", b, err)
	}
}
