package qmp

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

const hello = `{"QMP": {"version": {"qemu": {"micro": 2, "minor": 0, "major": 10}}, "capabilities": ["oob"]}}` + "\n"

// monitor is QEMU's end.
type monitor struct {
	t     *testing.T
	conn  net.Conn
	lines *bufio.Scanner
}

// dial gives a client and its monitor, in command mode. It runs in a synctest bubble.
func dial(t *testing.T) (*Client, *monitor) {
	t.Helper()
	ours, theirs := net.Pipe()
	m := &monitor{t, theirs, bufio.NewScanner(theirs)}
	go func() {
		m.say(hello)
		_, id := m.hear()
		m.say(`{"return": {}, "id": %d}`+"\n", id)
	}()
	c, err := New(t.Context(), ours)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = theirs.Close(); _ = c.Close() })
	return c, m
}

func (m *monitor) say(format string, args ...any) {
	_, _ = fmt.Fprintf(m.conn, format, args...)
}

// hear is the next command, and its id.
func (m *monitor) hear() (string, uint64) {
	if !m.lines.Scan() {
		return "", 0
	}
	var r request
	if err := json.Unmarshal(m.lines.Bytes(), &r); err != nil {
		m.t.Errorf("QEMU was told %q: %v", m.lines.Text(), err)
	}
	return r.Execute, r.ID
}

// TestCall: replies find their calls in whatever order they come, a refusal is an Error,
// and what nobody asked for is ignored.
func TestCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, m := dial(t)
		go func() {
			ids := map[string]uint64{}
			for range 2 {
				command, id := m.hear()
				ids[command] = id
			}
			m.say(`{"return": {"status": "nobody's"}, "id": 999}` + "\n" + `{"return": {}}` + "\n")
			m.say(`{"return": {"status": "second"}, "id": %d}`+"\n", ids["b"])
			m.say(`{"return": {"status": "again"}, "id": %d}`+"\n", ids["b"])
			m.say(`{"return": {"status": "first"}, "id": %d}`+"\n", ids["a"])
			_, id := m.hear()
			m.say(`{"error": {"class": "DeviceNotFound", "desc": "Device 'x' not found"}, "id": %d}`+"\n", id)
		}()
		status := make(chan string)
		for _, command := range []string{"a", "b"} {
			go func() {
				var s struct{ Status string }
				if err := c.Call(t.Context(), command, nil, &s); err != nil {
					t.Error(err)
				}
				status <- command + " " + s.Status
			}()
		}
		got := map[string]bool{<-status: true, <-status: true}
		if !got["a first"] || !got["b second"] {
			t.Errorf("answers %v", got)
		}
		var refused *Error
		err := c.Call(t.Context(), "device_del", map[string]string{"id": "x"}, nil)
		if !errors.As(err, &refused) || refused.Class != "DeviceNotFound" || err.Error() != "QEMU refused device_del: Device 'x' not found" {
			t.Errorf("refused with %v", err)
		}
	})
}

// TestCallEnds: a call ends with its context, whether QEMU reads or not, and the
// connection serves the next; a request that went out in part ends the connection.
func TestCallEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, m := dial(t)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := c.Call(ctx, "stop", nil, nil); !errors.Is(err, context.DeadlineExceeded) { // nothing is read
			t.Errorf("QEMU that does not read: %v", err)
		}
		heard := make(chan uint64, 1)
		go func() { _, id := m.hear(); heard <- id }()
		ctx, cancel = context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := c.Call(ctx, "stop", nil, nil); !errors.Is(err, context.DeadlineExceeded) { // read, not answered
			t.Errorf("QEMU that does not answer: %v", err)
		}
		late := <-heard
		go func() {
			m.say(`{"return": {"late": true}, "id": %d}`+"\n", late)
			_, id := m.hear()
			m.say(`{"return": {"late": false}, "id": %d}`+"\n", id)
		}()
		var out struct{ Late bool }
		if err := c.Call(t.Context(), "cont", nil, &out); err != nil || out.Late {
			t.Errorf("after a late answer: %+v, %v", out, err)
		}
		go func() { _, _ = io.ReadFull(m.conn, make([]byte, 10)) }()
		ctx, cancel = context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := c.Call(ctx, "stop", nil, nil); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a request that was cut: %v", err)
		}
		<-c.Done()
		if err := c.Call(t.Context(), "cont", nil, nil); !errors.Is(err, ErrClosed) {
			t.Errorf("after that: %v", err)
		}
	})
}

// TestEvents: events come in order; those that nobody takes are counted, hold up nobody,
// and the next one says how many they were.
func TestEvents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, m := dial(t)
		m.say(`{"event": "SHUTDOWN", "data": {"guest": true, "reason": "guest-shutdown"}, "timestamp": {"seconds": 1700000000, "microseconds": 250000}}` + "\n")
		e := <-c.Events()
		if e.Name != "SHUTDOWN" || !strings.Contains(string(e.Data), "guest-shutdown") || !e.Time.Equal(time.UnixMilli(1700000000250)) || e.Missed != 0 {
			t.Errorf("event %+v", e)
		}
		for n := range maxEvents + 10 {
			m.say(`{"event": "E%d", "timestamp": {"seconds": -1, "microseconds": -1}}`+"\n", n)
		}
		go func() { _, id := m.hear(); m.say(`{"return": {}, "id": %d}`+"\n", id) }()
		if err := c.Call(t.Context(), "query-status", nil, nil); err != nil {
			t.Errorf("beside events that nobody takes: %v", err)
		}
		for n := range maxEvents {
			if e := <-c.Events(); e.Name != fmt.Sprint("E", n) || !e.Time.IsZero() {
				t.Fatalf("event %d is %+v", n, e)
			}
		}
		m.say(`{"event": "RESET"}` + "\n")
		if e := <-c.Events(); e.Name != "RESET" || e.Missed != 10 {
			t.Errorf("after the dropped ones: %+v", e)
		}
	})
}

// TestEnd: a QEMU that ends, or talks nonsense, ends all calls with words, and the
// events.
func TestEnd(t *testing.T) {
	for name, last := range map[string]struct{ say, want string }{
		"gone":     {"", "query-status: the connection with QEMU has ended"},
		"nonsense": {"-----\n", `query-status: the connection with QEMU has ended: what is said is not QMP: "-----\n"`},
		"endless":  {strings.Repeat("x", maxLine+1), "query-status: the connection with QEMU has ended: a line of more than 1048576 bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c, m := dial(t)
				go func() {
					m.hear()
					m.say("%s", last.say)
					_ = m.conn.Close()
				}()
				err := c.Call(t.Context(), "query-status", nil, nil)
				if !errors.Is(err, ErrClosed) || !strings.HasPrefix(err.Error(), last.want) {
					t.Errorf("%v, want %s", err, last.want)
				}
				if _, more := <-c.Events(); more {
					t.Error("there are events")
				}
				if err := c.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
					t.Error(err)
				}
			})
		})
	}
}

// TestNoGreeting: what does not greet, or is another protocol, is no monitor; ctx bounds
// the wait for one that serves another client.
func TestNoGreeting(t *testing.T) {
	for name, say := range map[string]string{"silent": "", "another": `{"return": {}}` + "\n", "text": "SSH-2.0-x\r\n"} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ours, theirs := net.Pipe()
				defer theirs.Close()
				go func() { _, _ = io.WriteString(theirs, say) }()
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				if _, err := New(ctx, ours); err == nil || name == "silent" && !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("no error: %v", err)
				}
				if _, err := ours.Write([]byte("x")); err == nil {
					t.Error("the connection is open")
				}
			})
		})
	}
}

// FuzzReader: whatever comes from QEMU, the reader ends, and calls with it.
func FuzzReader(f *testing.F) {
	f.Add([]byte(hello + `{"return": {}, "id": 1}` + "\n" + `{"event": "STOP", "timestamp": {"seconds": 1, "microseconds": 2}}` + "\n"))
	f.Add([]byte(hello + `{"return": {}, "id": 1}` + "\n" + `{"error": {}, "id": 2}` + "\n"))
	f.Add([]byte(hello + `{"error": {"class": "GenericError", "desc": "no"}, "id": 1}` + "\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		ours, theirs := net.Pipe()
		go func() { _, _ = theirs.Write(b); _ = theirs.Close() }()
		go func() { _, _ = io.Copy(io.Discard, theirs) }()
		c, err := New(t.Context(), ours)
		if err != nil {
			return
		}
		_ = c.Call(t.Context(), "query-status", nil, &struct{}{})
		for range c.Events() {
		}
		if err := c.Err(); !errors.Is(err, ErrClosed) {
			t.Errorf("it ended with %v", err)
		}
		_ = c.Close()
	})
}
