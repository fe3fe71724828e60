package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// onTerminal gives what do writes to a terminal with so many columns; with 0
// columns it writes to what is no terminal.
func onTerminal(t *testing.T, columns int, do func(io.Writer)) string {
	t.Helper()
	if columns == 0 {
		var b bytes.Buffer
		do(&b)
		return b.String()
	}
	screen, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer screen.Close()
	n, err := unix.IoctlGetInt(int(screen.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlSetPointerInt(int(screen.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlSetWinsize(int(screen.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: 24, Col: uint16(columns)}); err != nil {
		t.Fatal(err)
	}
	tty, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	read := make(chan string)
	go func() {
		b, _ := io.ReadAll(screen) // ends with EIO when nobody has the terminal open any more
		read <- string(b)
	}()
	do(tty)
	if err := tty.Close(); err != nil {
		t.Error(err)
	}
	return strings.ReplaceAll(<-read, "\r\n", "\n")
}
