package lab

import (
	"bufio"
	"context"
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
	if _, err := fmt.Fprintln(conn, strings.ReplaceAll(line, "\n", "; ")); err != nil {
		return "", fmt.Errorf("shell of %s: %w", m.Spec.Name, err)
	}
	answer, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil {
		return "", fmt.Errorf("shell of %s: %q: %w", m.Spec.Name, line, err)
	}
	coded, status, _ := strings.Cut(strings.TrimSpace(answer), " ")
	if status == "" { // nothing was printed: the line is only the status
		coded, status = "", coded
	}
	out, err := base64.StdEncoding.DecodeString(coded)
	if err != nil {
		return "", fmt.Errorf("shell of %s: %q: %w", m.Spec.Name, line, err)
	}
	if rc, err := strconv.Atoi(status); err != nil || rc != 0 {
		return string(out), fmt.Errorf("shell of %s: %q: exit status %s: %s", m.Spec.Name, line, status, out)
	}
	return string(out), nil
}
