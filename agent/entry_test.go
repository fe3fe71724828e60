package agent

import (
	"context"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"nereid/agent/machine/ga"
	"nereid/api"
)

// TestMachineConsole: who types at a virtual machine's console is heard at its serial
// port, and sees its log; no shell runs in one, and that is said.
func TestMachineConsole(t *testing.T) {
	dir := t.TempDir()
	log, socket := filepath.Join(dir, "a.log"), filepath.Join(dir, "console.sock")
	if err := os.WriteFile(log, []byte("guest: up\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	z := ZoneEntry{Keyboards: &Keyboards{}, Log: func(string) string { return log }, Sockets: func(string) string { return dir }}
	_, err = z.Enter(t.Context(), "a", api.SessionRequest{Kind: "exec"}, io.NopCloser(strings.NewReader("")), io.Discard, io.Discard, nil)
	if err == nil || !strings.Contains(err.Error(), "no terminals and no shells") {
		t.Errorf("a shell: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	in, typed := io.Pipe()
	seen, before := io.Pipe()
	ended := make(chan error, 1)
	go func() {
		_, err := z.Enter(ctx, "a", api.SessionRequest{Kind: api.SessionConsole, Input: true, Follow: true}, in, io.Discard, before, nil)
		ended <- err
	}()
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	buf := make([]byte, 10)
	if _, err := io.ReadFull(seen, buf); err != nil || string(buf) != "guest: up\n" {
		t.Errorf("it shows %q, %v", buf, err)
	}
	if _, err := typed.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(c, buf[:5]); err != nil || string(buf[:5]) != "hello" {
		t.Errorf("the machine hears %q, %v", buf[:5], err)
	}
	cancel()
	if err := <-ended; err == nil {
		t.Error("a session that was cut ends well")
	}
}

// screened is a machine with a screen.
type screened struct{ hurt string }

func (*screened) Screenshot(_ context.Context, instance string) ([]byte, error) {
	return []byte("PNG of " + instance), nil
}

func (*screened) Guest(context.Context, string) (*ga.Agent, error) { return nil, ga.ErrSilent }

func (s *screened) NMI(_ context.Context, instance string) error {
	s.hurt = instance
	return nil
}

// TestMachineScreen: a viewer and a machine's VNC server hear each other byte for byte,
// until either goes; a picture and an NMI are of the machine that is named; a zone has
// none of it, and that is said.
func TestMachineScreen(t *testing.T) {
	dir := t.TempDir()
	l, err := net.Listen("unix", filepath.Join(dir, "vnc.sock"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	s := &screened{}
	z := ZoneEntry{VM: s, Sockets: func(instance string) string {
		if instance == "zone" {
			return ""
		}
		return dir
	}}
	enter := func(instance, kind string, stdin io.ReadCloser, stdout io.Writer) error {
		_, err := z.Enter(t.Context(), instance, api.SessionRequest{Kind: kind}, stdin, stdout, io.Discard, nil)
		return err
	}
	var out strings.Builder
	nothing := io.NopCloser(strings.NewReader(""))
	if err := enter("a", api.SessionScreenshot, nothing, &out); err != nil || out.String() != "PNG of a" {
		t.Errorf("a picture: %q, %v", &out, err)
	}
	if err := enter("a", api.SessionNMI, nothing, &out); err != nil || s.hurt != "a" {
		t.Errorf("an NMI: %q, %v", s.hurt, err)
	}
	for what, r := range map[string]api.SessionRequest{
		"install and start qemu-guest-agent": {Command: []string{"true"}},
		"no terminals":                       {Command: []string{"true"}, TTY: &api.TerminalSize{}},
		"runuser -u alice -- PROGRAM":        {Command: []string{"true"}, User: "alice"},
		"env -C /srv PROGRAM":                {Command: []string{"true"}, Dir: "/srv"},
	} {
		r.Kind = api.SessionExec
		if _, err := z.Enter(t.Context(), "a", r, nothing, &out, &out, nil); err == nil || !strings.Contains(err.Error(), what) {
			t.Errorf("%+v: %v: want %s", r, err, what)
		}
	}
	for _, kind := range []string{api.SessionScreen, api.SessionScreenshot, api.SessionNMI} {
		if err := enter("zone", kind, nothing, &out); err == nil || !strings.Contains(err.Error(), "no screen") {
			t.Errorf("%s of a zone: %v", kind, err)
		}
	}
	for _, first := range []string{"viewer", "server"} {
		in, says := io.Pipe()
		hears, screen := io.Pipe()
		ended := make(chan error, 1)
		go func() { ended <- enter("a", api.SessionScreen, in, screen) }()
		c, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		long := strings.Repeat("\x00\xff\r\nRFB", 50000)
		for _, way := range []struct {
			from io.Writer
			to   io.Reader
		}{{says, c}, {c, hears}} {
			go func() { _, _ = io.WriteString(way.from, long) }()
			got := make([]byte, len(long))
			if _, err := io.ReadFull(way.to, got); err != nil || string(got) != long {
				t.Errorf("what is said is not what is heard, %v", err)
			}
		}
		if first == "viewer" {
			says.Close()
			if n, err := c.Read(make([]byte, 1)); err != io.EOF {
				t.Errorf("the server hears %d, %v when its viewer has gone", n, err)
			}
		}
		c.Close()
		if err := <-ended; err != nil {
			t.Errorf("%s goes first: %v", first, err)
		}
	}
}

// TestKeyboard: two at a virtual machine's console see the same; one of them types, which
// the other is told, and what that one typed meanwhile is never heard; when the first has
// left, also while the machine did not read, the second is heard.
func TestKeyboard(t *testing.T) {
	dir := t.TempDir()
	log := filepath.Join(dir, "a.log")
	if err := os.WriteFile(log, []byte("guest: up\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", filepath.Join(dir, "console.sock"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	z := ZoneEntry{Keyboards: &Keyboards{}, Log: func(string) string { return log }, Sockets: func(string) string { return dir }}
	type seat struct {
		types *io.PipeWriter
		sees  io.Reader
		leave context.CancelFunc
		left  chan error
	}
	sit := func() seat {
		ctx, cancel := context.WithCancel(t.Context())
		in, types := io.Pipe()
		sees, out := io.Pipe()
		s := seat{types, sees, cancel, make(chan error, 1)}
		go func() {
			_, err := z.Enter(ctx, "a", api.SessionRequest{Kind: api.SessionConsole, Input: true, Follow: true}, in, out, out, nil)
			out.Close()
			s.left <- err
		}()
		return s
	}
	read := func(from io.Reader, want string) {
		t.Helper()
		buf := make([]byte, len(want))
		if _, err := io.ReadFull(from, buf); err != nil || string(buf) != want {
			t.Fatalf("%q, %v: want %q", buf, err, want)
		}
	}
	first := sit()
	read(first.sees, "guest: up\n")
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	second := sit()
	read(second.sees, "guest: up\n")
	_, _ = io.WriteString(first.types, "one")
	read(c, "one")
	_, _ = io.WriteString(second.types, "lost")
	read(second.sees, watched)
	f, err := os.OpenFile(log, os.O_WRONLY|os.O_APPEND, 0)
	if err == nil {
		_, err = io.WriteString(f, "login: ")
	}
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
	read(first.sees, "login: ")
	read(second.sees, "login: ")

	// The machine reads no more; who types goes all the same.
	go func() { _, _ = io.WriteString(first.types, strings.Repeat("y", 8<<20)) }()
	read(c, "yyy")
	first.leave()
	go func() { _, _ = io.Copy(io.Discard, first.sees) }()
	<-first.left
	c.Close()
	_, _ = io.WriteString(second.types, "two")
	if c, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	read(c, "two")
	second.leave()
	go func() { _, _ = io.Copy(io.Discard, second.sees) }()
	<-second.left
}
