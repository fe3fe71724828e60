package lab

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"sync"
	"time"
)

// qmp is the one connection to a QEMU's monitor: commands one at a time, events
// dropped.
type qmp struct {
	mu   sync.Mutex
	conn net.Conn
	in   *bufio.Reader
}

// dialQMP connects as soon as QEMU listens and negotiates; ended tells when there
// is nothing to wait for any more.
func dialQMP(ctx context.Context, path string, ended <-chan struct{}) (*qmp, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	for {
		conn, err := new(net.Dialer).DialContext(ctx, "unix", path)
		if err == nil {
			q := &qmp{conn: conn, in: bufio.NewReaderSize(conn, 1<<20)}
			if err := q.execute(ctx, "qmp_capabilities"); err != nil {
				conn.Close()
				return nil, err
			}
			return q, nil
		}
		select {
		case <-ended:
			return nil, fmt.Errorf("connect to the monitor: QEMU ended")
		case <-ctx.Done():
			return nil, fmt.Errorf("connect to the monitor: %w", err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func (q *qmp) execute(ctx context.Context, command string, args ...any) error {
	arguments := map[string]any{}
	for i := 0; i+1 < len(args); i += 2 {
		arguments[fmt.Sprint(args[i])] = args[i+1]
	}
	request, err := json.Marshal(map[string]any{"execute": command, "arguments": arguments})
	if err != nil {
		return fmt.Errorf("%s: %w", command, err)
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	deadline, ok := ctx.Deadline()
	if !ok {
		deadline = time.Now().Add(10 * time.Second)
	}
	if err := q.conn.SetDeadline(deadline); err != nil {
		return fmt.Errorf("%s: %w", command, err)
	}
	if _, err := q.conn.Write(append(request, '\n')); err != nil {
		return fmt.Errorf("%s: %w", command, err)
	}
	for {
		line, err := q.in.ReadBytes('\n')
		if err != nil {
			return fmt.Errorf("%s: %w", command, err)
		}
		var reply struct {
			Return json.RawMessage `json:"return"`
			Error  *struct {
				Desc string `json:"desc"`
			} `json:"error"`
		}
		if err := json.Unmarshal(line, &reply); err != nil {
			return fmt.Errorf("%s: %w", command, err)
		}
		switch {
		case reply.Error != nil:
			return fmt.Errorf("%s: %s", command, reply.Error.Desc)
		case reply.Return != nil:
			return nil
		}
	}
}

func (q *qmp) close() { q.conn.Close() }
