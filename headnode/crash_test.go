package headnode

import (
	"bufio"
	"context"
	"io"
	"os/exec"
	"strings"
	"sync"
	"testing"

	"nereid/api"
)

// killWhileBusy makes tokens until the daemon has acknowledged n leases and a
// token, kills it with SIGKILL, and returns all that was acknowledged: leases by MAC (address,
// boot id) and ids of tokens.
func killWhileBusy(t *testing.T, cmd *exec.Cmd, out io.Reader, socket string, n int) (acked map[string][2]string, tokens []string) {
	t.Helper()
	acked = map[string][2]string{}
	made := make(chan []string, 1)
	lines := bufio.NewScanner(out)
	begun, first := false, make(chan struct{})
	for lines.Scan() {
		f := strings.Fields(lines.Text())
		if len(f) != 4 || f[0] != "ack" {
			t.Errorf("daemon: %s", lines.Text())
			break
		}
		acked[f[1]] = [2]string{f[2], f[3]}
		if !begun {
			begun = true
			go func() { made <- makeTokens(socket, first) }()
		}
		if len(acked) == n {
			<-first
			break
		}
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Error(err)
	}
	for lines.Scan() { // what was acknowledged before the kill took effect
		if f := strings.Fields(lines.Text()); len(f) == 4 && f[0] == "ack" {
			acked[f[1]] = [2]string{f[2], f[3]}
		}
	}
	_ = cmd.Wait() // killed: that is its error
	if begun {
		tokens = <-made
	}
	return acked, tokens
}

// makeTokens makes tokens until the daemon is gone. first is closed when there is
// one, or will be none.
func makeTokens(socket string, first chan struct{}) []string {
	c := api.NewClient(socket)
	defer c.Close()
	var out []string
	told := sync.OnceFunc(func() { close(first) })
	defer told()
	for {
		tok, err := c.CreateToken(context.Background(), api.TokenCreate{Name: "crash"})
		if err != nil {
			return out
		}
		out = append(out, tok.ID)
		told()
	}
}
