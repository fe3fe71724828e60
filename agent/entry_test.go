package agent

import (
	"context"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"nereid/api"
)

// TestMachineConsole: who types at a virtual machine's console is heard at its serial
// port, and sees its log; no program runs in one, and that is said.
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
	z := ZoneEntry{Log: func(string) string { return log }, Serial: func(string) string { return socket }}
	_, err = z.Enter(t.Context(), "a", api.SessionRequest{Kind: "exec"}, io.NopCloser(strings.NewReader("")), io.Discard, io.Discard, nil)
	if err == nil || !strings.Contains(err.Error(), "virtual machine") {
		t.Errorf("a program: %v", err)
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
