package power

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/godbus/dbus/v5"
)

// fakeSystemd speaks D-Bus on a socket as systemd does on its private one: the EXTERNAL
// handshake, and then answers to calls (D-Bus Specification, "Authentication Protocol").
type fakeSystemd struct {
	socket string
	refuse string // an error's text instead of answers

	mu    sync.Mutex
	asked []string
}

func startSystemd(t *testing.T, refuse string) *fakeSystemd {
	t.Helper()
	f := &fakeSystemd{socket: filepath.Join(t.TempDir(), "private"), refuse: refuse}
	ln, err := net.Listen("unix", f.socket)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer c.Close()
				f.serve(c)
			})
		}
	})
	t.Cleanup(func() {
		ln.Close()
		wg.Wait()
	})
	return f
}

func (f *fakeSystemd) serve(c net.Conn) {
	in := bufio.NewReader(c)
	if b, err := in.ReadByte(); err != nil || b != 0 {
		return
	}
	for {
		line, err := in.ReadString('\n')
		if err != nil {
			return
		}
		switch verb, rest, _ := strings.Cut(strings.TrimSpace(line), " "); verb {
		case "AUTH":
			if rest == "" { // the client asks which ways there are
				fmt.Fprint(c, "REJECTED EXTERNAL\r\n")
				continue
			}
			fmt.Fprintf(c, "OK %032x\r\n", 7)
			continue
		case "NEGOTIATE_UNIX_FD":
			fmt.Fprint(c, "AGREE_UNIX_FD\r\n")
			continue
		case "BEGIN":
		default:
			fmt.Fprint(c, "ERROR\r\n")
			continue
		}
		break
	}
	for serial := uint32(1); ; serial++ {
		m, err := dbus.DecodeMessage(in)
		if err != nil {
			return
		}
		if m.Type != dbus.TypeMethodCall {
			continue
		}
		out := f.answer(m)
		out.Headers[dbus.FieldReplySerial] = dbus.MakeVariant(m.Serial())
		if len(out.Body) > 0 {
			out.Headers[dbus.FieldSignature] = dbus.MakeVariant(dbus.SignatureOf(out.Body...))
		}
		if err := write(c, out, serial); err != nil {
			return
		}
	}
}

// write sends a message; the library keeps its serial number to itself.
func write(w io.Writer, m *dbus.Message, serial uint32) error {
	var b bytes.Buffer
	if err := m.EncodeTo(&b, binary.LittleEndian); err != nil {
		return err
	}
	binary.LittleEndian.PutUint32(b.Bytes()[8:], serial)
	_, err := w.Write(b.Bytes())
	return err
}

func (f *fakeSystemd) answer(m *dbus.Message) *dbus.Message {
	member := m.Headers[dbus.FieldMember].Value().(string)
	out := &dbus.Message{Type: dbus.TypeMethodReply, Headers: map[dbus.HeaderField]dbus.Variant{}}
	if member == "AddMatch" {
		return out
	}
	f.mu.Lock()
	f.asked = append(f.asked, strings.TrimSpace(member+" "+fmt.Sprintln(m.Body...)))
	f.mu.Unlock()
	switch {
	case f.refuse != "":
		out.Type = dbus.TypeError
		out.Headers[dbus.FieldErrorName] = dbus.MakeVariant("org.freedesktop.DBus.Error.AccessDenied")
		out.Body = []any{f.refuse}
	case member == "StartUnit":
		out.Body = []any{dbus.ObjectPath("/org/freedesktop/systemd1/job/17")}
	case member == "Get":
		out.Body = []any{dbus.MakeVariant(uint64(4500000))}
	}
	return out
}

func TestManager(t *testing.T) {
	f := startSystemd(t, "")
	m := Manager{Socket: f.socket}
	for _, ask := range []func(context.Context, bool) error{m.Reboot, m.Shutdown} {
		for _, force := range []bool{false, true} {
			if err := ask(t.Context(), force); err != nil {
				t.Fatal(err)
			}
		}
	}
	if s, err := m.Started(t.Context()); err != nil || s != 4.5 {
		t.Errorf("started at %v, %v; want 4.5", s, err)
	}
	want := []string{"StartUnit reboot.target replace-irreversibly", "Reboot", "StartUnit poweroff.target replace-irreversibly", "PowerOff",
		"Get org.freedesktop.systemd1.Manager UserspaceTimestampMonotonic"}
	f.mu.Lock()
	defer f.mu.Unlock()
	if !slices.Equal(f.asked, want) {
		t.Errorf("asked for\n%q, want\n%q", f.asked, want)
	}
}

func TestManagerRefused(t *testing.T) {
	m := Manager{Socket: startSystemd(t, "access denied").socket}
	none := Manager{Socket: filepath.Join(t.TempDir(), "none")}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	started := func(m Manager, ctx context.Context) error { _, err := m.Started(ctx); return err }
	for what, tt := range map[string]struct {
		err  error
		want string
	}{
		"refused":             {m.Reboot(t.Context(), false), "ask systemd for reboot.target: access denied"},
		"forced":              {m.Shutdown(t.Context(), true), "ask systemd for PowerOff: access denied"},
		"a property":          {started(m, t.Context()), "access denied"},
		"no systemd":          {none.Reboot(t.Context(), false), "no such file"},
		"no systemd by force": {none.Shutdown(t.Context(), true), "no such file"},
		"ended":               {started(m, ended), "ask systemd"},
	} {
		if tt.err == nil || !strings.Contains(tt.err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", what, tt.err, tt.want)
		}
	}
}
