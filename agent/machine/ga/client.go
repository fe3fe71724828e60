// Package ga talks with the QEMU guest agent in a virtual machine (qemu-ga(8), and
// qga/qapi-schema.json in QEMU's source): programs, files, file systems at rest. What it
// says is the guest's, and hostile: lines are bounded, and nothing in them is believed
// that is not checked.
//
// The agent's channel has no connections and one user at a time. Each call is a
// conversation of its own, which begins by finding out that both are in step.
package ga

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"time"
)

// maxLine is the length of the longest answer, in bytes. A program's output, of which the
// agent keeps 16 MiB of each kind, is one, in base64.
const maxLine = 48 << 20

// Times of a guest.
const (
	stepLimit = 5 * time.Second  // to be in step; a guest that boots has no agent yet
	callLimit = 30 * time.Second // for an answer
)

// Agent is that of one guest. Its methods may be called side by side.
type Agent struct {
	// Dial connects with the channel, which nobody else may have then.
	Dial func(ctx context.Context) (net.Conn, error)
	// Turn is the right to have the channel: one slot.
	Turn chan struct{}
}

// ErrSilent says that there is no agent, or that it does not answer.
var ErrSilent = errors.New("no guest agent answers in the instance; install and start qemu-guest-agent in it, or use its console or SSH")

// Error is a command that the guest's agent refused.
type Error struct{ Command, Desc string }

// Error says which command was refused, and the agent's reason.
func (e *Error) Error() string {
	return fmt.Sprintf("the guest's agent refused %s: %.300q", e.Command, e.Desc)
}

// call has the agent do a command. args is encoded as JSON, nil: there are none; the answer
// is decoded into out, nil: it is not looked at.
func (a *Agent) call(ctx context.Context, command string, args, out any) error {
	select {
	case a.Turn <- struct{}{}:
		defer func() { <-a.Turn }()
	case <-ctx.Done():
		return fmt.Errorf("%s: wait for another conversation with the guest's agent: %w", command, ctx.Err())
	}
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	c, err := a.Dial(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	stop := context.AfterFunc(ctx, func() { c.Close() })
	defer stop()
	lines := bufio.NewReaderSize(c, 4096)
	if err := step(c, lines); err != nil {
		return err
	}
	if err := send(c, command, args); err != nil {
		return fmt.Errorf("%s: %w", command, err)
	}
	m, err := read(lines)
	switch {
	case err != nil && ctx.Err() != nil:
		return fmt.Errorf("%s: the guest's agent does not answer: %w", command, ctx.Err())
	case err != nil:
		return fmt.Errorf("%s: %w", command, err)
	case m.Error != nil:
		return &Error{command, m.Error.Desc}
	case out == nil:
		return nil
	}
	if err := json.Unmarshal(m.Return, out); err != nil {
		return fmt.Errorf("%s: read what the guest's agent answers: %w", command, err)
	}
	return nil
}

// message is what the agent says.
type message struct {
	Return json.RawMessage `json:"return"`
	Error  *struct {
		Desc string `json:"desc"`
	} `json:"error"`
}

func send(c net.Conn, command string, args any) error {
	line, err := json.Marshal(struct {
		Execute   string `json:"execute"`
		Arguments any    `json:"arguments,omitempty"`
	}{command, args})
	if err == nil {
		_, err = c.Write(append(line, '\n'))
	}
	return err
}

// delimiter begins the answer to guest-sync-delimited, and has the agent forget the half of
// a command that it may have read.
const delimiter = 0xff

// step makes sure that what comes next is the answer to what is sent next: what the agent
// says to somebody before is left out.
func step(c net.Conn, lines *bufio.Reader) error {
	late := time.AfterFunc(stepLimit, func() { c.Close() })
	defer late.Stop()
	id := rand.Int64N(1 << 52)
	if _, err := c.Write([]byte{delimiter}); err != nil {
		return fmt.Errorf("%w: %w", ErrSilent, err)
	}
	if err := send(c, "guest-sync-delimited", map[string]int64{"id": id}); err != nil {
		return fmt.Errorf("%w: %w", ErrSilent, err)
	}
	for {
		if err := skip(lines); err != nil {
			return fmt.Errorf("%w (%w)", ErrSilent, err)
		}
		m, err := read(lines)
		if err != nil {
			return fmt.Errorf("%w (%w)", ErrSilent, err)
		}
		var said int64
		if m.Error == nil && json.Unmarshal(m.Return, &said) == nil && said == id {
			return nil
		}
	}
}

// skip reads up to the delimiter, which is not in JSON. A guest that says ever more without
// one is none that answers.
func skip(lines *bufio.Reader) error {
	for range maxLine {
		b, err := lines.ReadByte()
		if err != nil || b == delimiter {
			return err
		}
	}
	return errors.New("it says something else")
}

// read reads a line.
func read(lines *bufio.Reader) (m message, err error) {
	var line []byte
	for {
		part, err := lines.ReadSlice('\n')
		if len(line)+len(part) > maxLine {
			return m, fmt.Errorf("the guest's agent says a line of more than %d bytes", maxLine)
		}
		line = append(line, part...)
		if err == nil {
			break
		}
		if !errors.Is(err, bufio.ErrBufferFull) {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return m, fmt.Errorf("read what the guest's agent says: %w", err)
		}
	}
	if err := json.Unmarshal(bytes.TrimLeft(line, "\xff"), &m); err != nil {
		return m, fmt.Errorf("what the guest's agent says is not its protocol: %.100q: %w", line, err)
	}
	if m.Error == nil && m.Return == nil {
		return m, fmt.Errorf("what the guest's agent says is no answer: %.100q", line)
	}
	return m, nil
}
