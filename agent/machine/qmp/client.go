package qmp

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	maxLine   = 1 << 20 // bytes of a line; query-qmp-schema, the longest answer there is, has 400 kB
	maxEvents = 256     // that wait to be taken
)

// Event is what QEMU told unasked (docs/interop/qmp-spec.rst, Asynchronous events).
type Event struct {
	Name string
	Data json.RawMessage
	Time time.Time // by the host's clock; zero: QEMU could not say
	// Missed is how many events before this one were dropped, as nobody took them: what
	// is known of the machine has to be asked for again.
	Missed int
}

// Error is a command that QEMU refused.
type Error struct {
	Command string
	Class   string // GenericError and four others (qapi/error.json)
	Desc    string // for people
}

// Error says which command was refused, and QEMU's reason.
func (e *Error) Error() string { return fmt.Sprintf("QEMU refused %s: %s", e.Command, e.Desc) }

// ErrClosed says that the connection has ended: QEMU is gone, or Close was called.
var ErrClosed = errors.New("the connection with QEMU has ended")

// Client is one connection with a monitor. Its methods may be called side by side.
type Client struct {
	conn   net.Conn
	events chan Event
	done   chan struct{} // closed when the reader has ended

	write sync.Mutex // one request at a time

	mu     sync.Mutex
	next   uint64
	calls  map[uint64]chan message // that wait for a reply, by id; nil: the reader has ended
	missed int
	err    error // why the reader ended
}

// message is anything that QEMU says.
type message struct {
	Greeting *json.RawMessage `json:"QMP"`
	ID       *uint64          `json:"id"`
	Return   json.RawMessage  `json:"return"`
	Error    *struct {
		Class string `json:"class"`
		Desc  string `json:"desc"`
	} `json:"error"`
	Event     string          `json:"event"`
	Data      json.RawMessage `json:"data"`
	Timestamp struct {
		Seconds      int64 `json:"seconds"`
		Microseconds int64 `json:"microseconds"`
	} `json:"timestamp"`
}

// request is what QEMU is asked.
type request struct {
	Execute   string `json:"execute"`
	Arguments any    `json:"arguments,omitempty"`
	ID        uint64 `json:"id"`
}

// Dial connects with the monitor at a Unix socket and enters command mode. It waits
// until ctx ends for a QEMU that does not answer, or that serves another client.
func Dial(ctx context.Context, path string) (*Client, error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", path)
	if err != nil {
		return nil, fmt.Errorf("connect with QEMU: %w", err)
	}
	c, err := New(ctx, conn)
	if err != nil {
		return nil, fmt.Errorf("connect with QEMU at %s: %w", path, err)
	}
	return c, nil
}

// New enters command mode on a connection, which it owns: it is closed when that fails.
func New(ctx context.Context, conn net.Conn) (*Client, error) {
	stop := context.AfterFunc(ctx, func() { _ = conn.SetReadDeadline(time.Unix(1, 0)) })
	lines := bufio.NewReaderSize(conn, 4096)
	m, err := read(lines)
	if !stop() { // its deadline is, or will be, set
		err = errors.Join(ctx.Err(), err)
	}
	if err == nil && m.Greeting == nil {
		err = errors.New("it does not begin with QMP's greeting")
	}
	if err != nil {
		_ = conn.Close()
		return nil, err
	}
	c := &Client{conn: conn, events: make(chan Event, maxEvents), done: make(chan struct{}), calls: map[uint64]chan message{}}
	go c.run(lines)
	if err := c.Call(ctx, "qmp_capabilities", nil, nil); err != nil {
		_ = c.Close()
		return nil, err
	}
	return c, nil
}

// Close ends the connection, and waits for its reader. QEMU goes on.
func (c *Client) Close() error {
	err := c.conn.Close()
	<-c.done
	return err
}

// Done is closed when the connection has ended; Err says why.
func (c *Client) Done() <-chan struct{} { return c.done }

// Err says why the connection ended: an error that is ErrClosed, or nil while it stands.
func (c *Client) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// Events are what QEMU tells unasked, in order. The channel is closed when the
// connection has ended.
func (c *Client) Events() <-chan Event { return c.events }

// Call has QEMU execute a command. args is encoded as JSON, nil: there are none; the
// answer is decoded into out, nil: it is not looked at. A command that QEMU refused is
// an *Error.
func (c *Client) Call(ctx context.Context, command string, args, out any) error {
	return c.CallFiles(ctx, command, args, out)
}

// CallFiles is Call with open files, which QEMU gets with the command (add-fd, getfd).
// They stay open here.
func (c *Client) CallFiles(ctx context.Context, command string, args, out any, files ...int) error {
	id, reply, err := c.expect()
	if err != nil {
		return fmt.Errorf("%s: %w", command, err)
	}
	defer c.forget(id)
	if err := c.send(ctx, request{command, args, id}, files); err != nil {
		return fmt.Errorf("%s: %w", command, err)
	}
	select {
	case m := <-reply:
		if m.Error != nil {
			return &Error{command, m.Error.Class, m.Error.Desc}
		}
		if out == nil {
			return nil
		}
		if err := json.Unmarshal(m.Return, out); err != nil {
			return fmt.Errorf("%s: read what QEMU answers: %w", command, err)
		}
		return nil
	case <-c.done:
		return fmt.Errorf("%s: %w", command, c.Err())
	case <-ctx.Done():
		return fmt.Errorf("%s: QEMU does not answer: %w", command, ctx.Err())
	}
}

// expect takes an id, and makes the place where its reply comes.
func (c *Client) expect() (uint64, chan message, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.calls == nil {
		return 0, nil, c.err
	}
	c.next++
	reply := make(chan message, 1)
	c.calls[c.next] = reply
	return c.next, reply, nil
}

func (c *Client) forget(id uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.calls, id)
}

// send writes a request. One that went out in part ends the connection: QEMU would take
// the next for the rest of it.
func (c *Client) send(ctx context.Context, r request, files []int) error {
	line, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("encode arguments: %w", err)
	}
	line = append(line, '\n')
	c.write.Lock()
	defer c.write.Unlock()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	cut := make(chan struct{})
	stop := context.AfterFunc(ctx, func() { defer close(cut); _ = c.conn.SetWriteDeadline(time.Unix(1, 0)) })
	n, err := c.put(line, files)
	if !stop() {
		<-cut
		_ = c.conn.SetWriteDeadline(time.Time{})
	}
	if err == nil {
		return nil
	}
	if n > 0 {
		_ = c.conn.Close()
	}
	return errors.Join(ctx.Err(), err)
}

// put writes a line, the first byte of it with files.
func (c *Client) put(line []byte, files []int) (n int, err error) {
	if len(files) > 0 {
		u, is := c.conn.(*net.UnixConn)
		if !is {
			return 0, errors.New("files go through Unix sockets only")
		}
		if n, _, err = u.WriteMsgUnix(line, unix.UnixRights(files...), nil); err != nil || n == len(line) {
			return n, err
		}
	}
	m, err := c.conn.Write(line[n:])
	return n + m, err
}

// run is the reader.
func (c *Client) run(lines *bufio.Reader) {
	defer close(c.done)
	defer close(c.events)
	for {
		m, err := read(lines)
		if err == nil {
			c.take(m)
			continue
		}
		_ = c.conn.Close()
		c.mu.Lock()
		if c.err = ErrClosed; !errors.Is(err, io.EOF) && !errors.Is(err, net.ErrClosed) {
			c.err = fmt.Errorf("%w: %w", ErrClosed, err)
		}
		c.calls = nil
		c.mu.Unlock()
		return
	}
}

// take passes on what QEMU said. It never blocks.
func (c *Client) take(m message) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if m.Event == "" {
		if m.ID == nil {
			return
		}
		if reply := c.calls[*m.ID]; reply != nil {
			delete(c.calls, *m.ID) // a second reply is none
			reply <- m
		}
		return
	}
	e := Event{Name: m.Event, Data: m.Data, Missed: c.missed}
	if m.Timestamp.Seconds > 0 {
		e.Time = time.Unix(m.Timestamp.Seconds, m.Timestamp.Microseconds*1000)
	}
	select {
	case c.events <- e:
		c.missed = 0
	default:
		c.missed++
	}
}

// read reads a line.
func read(lines *bufio.Reader) (m message, err error) {
	var line []byte
	for {
		part, err := lines.ReadSlice('\n')
		if len(line)+len(part) > maxLine {
			return m, fmt.Errorf("a line of more than %d bytes", maxLine)
		}
		line = append(line, part...)
		if err == nil {
			break
		}
		if !errors.Is(err, bufio.ErrBufferFull) {
			return m, err
		}
	}
	if err := json.Unmarshal(line, &m); err != nil {
		return m, fmt.Errorf("what is said is not QMP: %.100q: %w", line, err)
	}
	return m, nil
}
