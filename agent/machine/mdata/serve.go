package mdata

import (
	"context"
	"errors"
	"io"
	"os"
	"time"
)

// Times of Serve.
const (
	lineLimit  = 5 * time.Second  // for the rest of a line; then it is forgotten
	writeLimit = 10 * time.Second // for a guest to read an answer; then the rest is let go
	idleLimit  = 10 * time.Minute // for the next request on a socket
)

// Requests of one guest on one line: so many at once, and one in each pace.
const (
	burst = 64
	pace  = 5 * time.Millisecond
)

// Conn is a line to a guest: a socket, or the end of a terminal.
type Conn interface {
	io.ReadWriter
	SetReadDeadline(time.Time) error
	SetWriteDeadline(time.Time) error
}

// Line is how a guest's line is served.
type Line struct {
	Conn   Conn
	Serial bool          // it has no end: it is nobody's connection, and goes on
	Large  chan struct{} // a slot for each line beyond 4 KiB that may be under way; nil: any number
	// Stuck is called when a guest left an answer unread, or sent what is no command.
	// Nil: nothing is done.
	Stuck func(unread bool)
}

// Serve answers what comes in over a line, until it ends or ctx does. It waits for its
// guest as long as the times above say, and for nobody else.
func Serve(ctx context.Context, l Line, src Source) error {
	has := false
	s := splitter{
		more: func(int) bool {
			if l.Large == nil || has {
				return true
			}
			select {
			case l.Large <- struct{}{}:
				has = true
			default:
			}
			return has
		},
		free: func() {
			if has {
				<-l.Large
				has = false
			}
		},
	}
	defer s.forget()
	credit, last := burst, time.Now()
	buf := make([]byte, 2<<10)
	for ctx.Err() == nil {
		until := time.Time{}
		if s.pending() {
			until = time.Now().Add(lineLimit)
		} else if !l.Serial {
			until = time.Now().Add(idleLimit)
		}
		if err := l.Conn.SetReadDeadline(until); err != nil {
			return err
		}
		n, err := l.Conn.Read(buf)
		var failed error
		s.feed(buf[:n], func(line []byte) {
			if failed != nil || ctx.Err() != nil {
				return
			}
			if credit = min(burst, credit+int(time.Since(last)/pace)); credit == 0 {
				wait(ctx, pace)
			} else {
				credit--
			}
			last = time.Now()
			answer := []byte(unknown)
			if line != nil {
				answer = Answer(src, line)
			}
			if string(answer) == unknown && l.Stuck != nil {
				l.Stuck(false)
			}
			failed = l.write(answer)
		})
		if failed != nil && !l.Serial {
			return failed
		}
		switch {
		case err == nil:
		case errors.Is(err, os.ErrDeadlineExceeded) && (l.Serial || s.pending()):
			s.forget()
		case errors.Is(err, io.EOF), errors.Is(err, os.ErrClosed):
			return nil
		default:
			return err
		}
	}
	return nil
}

// write waits for the guest to read.
func (l Line) write(answer []byte) error {
	if len(answer) == 0 {
		return nil
	}
	if err := l.Conn.SetWriteDeadline(time.Now().Add(writeLimit)); err != nil {
		return err
	}
	_, err := l.Conn.Write(answer)
	if errors.Is(err, os.ErrDeadlineExceeded) && l.Stuck != nil {
		l.Stuck(true)
	}
	return err
}

func wait(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
