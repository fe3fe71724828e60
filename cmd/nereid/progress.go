package main

import (
	"fmt"
	"io"
	"strings"
	"time"
)

// status shows what something waits for: one line that is rewritten on a
// terminal, a line per change elsewhere.
type status struct {
	w       io.Writer
	live    bool
	width   func() int
	name    string
	now     func() time.Time
	begun   time.Time
	last    string
	written bool
}

func (a *app) newStatus(name string) *status {
	return &status{
		w: a.stderr, live: a.escapes(a.stderr), width: func() int { return a.width(a.stderr) },
		name: oneLine(name), now: a.now, begun: a.now(),
	}
}

func (p *status) show(text string) {
	text = oneLine(text)
	elapsed := span(p.now().Sub(p.begun))
	if p.live {
		fmt.Fprintf(p.w, "\r\x1b[K%s", cut(fmt.Sprintf("%s: %s (%s)", p.name, text, elapsed), p.width()-1))
		p.written = true
		return
	}
	if text != p.last {
		fmt.Fprintf(p.w, "%s: %s\n", p.name, text)
		p.last = text
	}
}

// end leaves the cursor at the beginning of an empty line.
func (p *status) end() {
	if p.written {
		fmt.Fprint(p.w, "\r\x1b[K")
	}
}

const (
	barEvery  = 100 * time.Millisecond
	lineEvery = 10 * time.Second
)

// bar shows how much of a transfer is done.
type bar struct {
	w       io.Writer
	live    bool
	unicode bool
	width   func() int
	now     func() time.Time
	name    string
	total   int64
	last    int64 // bytes at the latest call
	first   int64 // bytes that were there when it began
	begun   time.Time
	shown   time.Time
	started bool
}

func (a *app) newBar(name string, total int64) *bar {
	return &bar{
		w: a.stderr, live: a.escapes(a.stderr), unicode: a.unicode(), width: func() int { return a.width(a.stderr) },
		now: a.now, name: oneLine(name), total: total,
	}
}

// at shows that n bytes are there.
func (b *bar) at(n int64) {
	now := b.now()
	if !b.started {
		b.started, b.first, b.begun, b.shown = true, n, now, now
		if !b.live {
			from := ""
			if n > 0 {
				from = ", going on at " + size(n)
			}
			fmt.Fprintf(b.w, "%s: %s%s\n", b.name, size(b.total), from)
		}
	}
	if n == b.last && n == b.total {
		return // said already
	}
	b.last = n
	every := lineEvery
	if b.live {
		every = barEvery
	}
	if n < b.total && now.Sub(b.shown) < every {
		return
	}
	b.shown = now
	rate, left := b.speed(n, now)
	if !b.live {
		fmt.Fprintf(b.w, "%s: %s of %s%s%s\n", b.name, size(n), size(b.total), rate, left)
		return
	}
	tail := fmt.Sprintf(" %4s  %s%s%s", percent(n, b.total), size(n), rate, left)
	head := fmt.Sprintf("%-16s ", b.name)
	room := b.width() - len(head) - len(tail) - 3
	if room < 5 {
		fmt.Fprintf(b.w, "\r\x1b[K%s", cut(head+tail, b.width()-1))
		return
	}
	full := int(float64(room) * float64(n) / float64(max(b.total, 1)))
	mark := "#"
	if b.unicode {
		mark = "█"
	}
	fmt.Fprintf(b.w, "\r\x1b[K%s[%s%s]%s", head, strings.Repeat(mark, full), strings.Repeat(" ", room-full), tail)
}

// speed is since begun, and what is left of the time at that speed.
func (b *bar) speed(n int64, now time.Time) (rate, left string) {
	el := now.Sub(b.begun).Seconds()
	if el < 0.5 || n <= b.first {
		return "", ""
	}
	per := float64(n-b.first) / el
	rate = ", " + size(int64(per)) + "/s"
	if n < b.total {
		left = ", " + span(seconds(float64(b.total-n)/per)) + " left"
	}
	return rate, left
}

// end closes the bar's line.
func (b *bar) end() {
	if b.live && b.started {
		fmt.Fprintln(b.w)
	}
}

// seconds makes a duration of a number of seconds.
func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }
