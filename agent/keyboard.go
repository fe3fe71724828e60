package agent

import (
	"context"
	"fmt"
	"io"
	"net"
	"sync"
)

// Keyboards are those of virtual machines' serial ports: each is one person's at a time.
// Its zero value is ready.
type Keyboards struct {
	mu sync.Mutex
	of map[string]chan struct{} // one slot each: who has it, by instance
}

func (k *Keyboards) turn(instance string) chan struct{} {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.of == nil {
		k.of = map[string]chan struct{}{}
	}
	if k.of[instance] == nil {
		k.of[instance] = make(chan struct{}, 1)
	}
	return k.of[instance]
}

// watched is what who types is told while somebody else does.
const watched = "\r\n[Somebody else types here. You see all, and are heard once they have left.]\r\n"

// typist types at a machine's serial port.
type typist struct {
	turn   chan struct{}
	socket string
	has    bool     // the keyboard
	told   bool     // that somebody else has it
	c      net.Conn // nil: none, or none any more
	drain  sync.WaitGroup
}

// take takes the keyboard, unless somebody has it. An error says that there is none.
func (t *typist) take(ctx context.Context) error {
	if !t.has {
		select {
		case t.turn <- struct{}{}:
			t.has = true
		default:
			return nil
		}
	}
	if t.c != nil {
		return nil
	}
	c, err := (&net.Dialer{}).DialContext(ctx, "unix", t.socket)
	if err != nil {
		return fmt.Errorf("the instance does not run, or its console cannot be reached: %w", err)
	}
	t.c = c
	context.AfterFunc(ctx, func() { c.Close() })         // also a write that waits
	t.drain.Go(func() { _, _ = io.Copy(io.Discard, c) }) // it is in the log
	return nil
}

// let gives the keyboard back.
func (t *typist) let() {
	t.hangUp()
	if t.has {
		t.has = false
		<-t.turn
	}
}

func (t *typist) hangUp() {
	if t.c != nil {
		t.c.Close()
		t.c = nil
	}
	t.drain.Wait()
}

// listen types what comes, until that ends. What is typed while somebody else has the
// keyboard, or while the machine is down, is lost.
func (t *typist) listen(ctx context.Context, from io.Reader, tell io.Writer) {
	buf := make([]byte, 4<<10)
	for {
		n, err := from.Read(buf)
		if n > 0 && t.take(ctx) == nil {
			if t.has {
				if _, err := t.c.Write(buf[:n]); err != nil {
					t.hangUp() // the machine may be another one now
				}
			} else if !t.told {
				t.told = true
				_, _ = io.WriteString(tell, watched) // who does not hear it has gone
			}
		}
		if err != nil {
			return
		}
	}
}
