package lab

import (
	"bufio"
	"context"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"
)

// shellArgs give a machine the port that ShellLayer's service listens on.
func (m *Machine) shellArgs() []string {
	return []string{
		"-device", "virtio-serial-pci",
		"-chardev", "socket,id=lab,server=on,wait=off,path=" + m.path("shell"),
		"-device", "virtserialport,chardev=lab,name=lab",
	}
}

// Shell runs one line of bash as root in the server and gives what it printed.
// The platform must carry ShellLayer.
func (m *Machine) Shell(ctx context.Context, line string) (string, error) {
	conn, err := new(net.Dialer).DialContext(ctx, "unix", m.path("shell"))
	if err != nil {
		return "", fmt.Errorf("shell of %s: %w", m.Spec.Name, err)
	}
	defer conn.Close()
	deadline, ok := ctx.Deadline()
	if !ok {
		deadline = time.Now().Add(time.Minute)
	}
	if err := conn.SetDeadline(deadline); err != nil {
		return "", fmt.Errorf("shell of %s: %w", m.Spec.Name, err)
	}
	id := rand.Text()
	if _, err := fmt.Fprintln(conn, id, strings.ReplaceAll(line, "\n", "; ")); err != nil {
		return "", fmt.Errorf("shell of %s: %w", m.Spec.Name, err)
	}
	out, status, err := answer(bufio.NewReader(conn), id)
	if err != nil {
		return "", fmt.Errorf("shell of %s: %q: %w", m.Spec.Name, line, err)
	}
	if status != 0 {
		return out, fmt.Errorf("shell of %s: %q: exit status %d: %s", m.Spec.Name, line, status, out)
	}
	return out, nil
}

// answer reads what a line printed, and its exit status. The answers of earlier lines,
// for which nobody waited to the end, are passed over.
func answer(r *bufio.Reader, id string) (out string, status int, err error) {
	for {
		text, err := r.ReadString('\n')
		if err != nil {
			return "", 0, err
		}
		of, rest, _ := strings.Cut(strings.TrimSpace(text), " ")
		if of != id {
			continue
		}
		code, coded, _ := strings.Cut(rest, " ")
		status, err := strconv.Atoi(code)
		if err != nil {
			return "", 0, fmt.Errorf("exit status: %w", err)
		}
		b, err := base64.StdEncoding.DecodeString(coded)
		return string(b), status, err
	}
}
