package stub

import (
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"nereid/images"
)

// Screen is one console. Width is its columns, 0 when it is not a terminal: then
// progress is a line per quarter instead of one that is written over.
type Screen struct {
	io.Writer
	Width int
}

// Console writes to every console of the server. It is safe for concurrent use;
// a console that takes nothing is passed over.
type Console struct {
	mu      sync.Mutex
	screens []*screen
}

type screen struct {
	Screen
	partial int    // columns of an unfinished progress line
	name    string // of the transfer whose quarters are told
	quarter int64
}

// NewConsole returns a console that writes to all of screens.
func NewConsole(screens ...Screen) *Console {
	c := &Console{}
	for _, s := range screens {
		c.screens = append(c.screens, &screen{Screen: s})
	}
	return c
}

// Say writes one line.
func (c *Console) Say(format string, args ...any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	text := "nereid: " + clean(fmt.Sprintf(format, args...))
	for _, s := range c.screens {
		s.over(text + "\n")
		s.partial = 0
	}
}

// Progress shows how far a transfer is. The last one (all bytes) ends its line.
func (c *Console) Progress(name string, p images.Progress) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range c.screens {
		done := p.Bytes >= p.Total
		if s.Width > 0 {
			line := progressLine(name, p, s.Width-1)
			if done {
				line += "\n"
			}
			s.over(line)
			if done {
				s.partial = 0
			}
			continue
		}
		if s.name != name {
			s.name, s.quarter = name, 0
		}
		if q := 4 * p.Bytes / max(p.Total, 1); q > s.quarter {
			s.quarter = q
			fmt.Fprintln(s, progressLine(name, p, 120))
		}
	}
}

// over writes text over an unfinished progress line.
func (s *screen) over(text string) {
	n := len(strings.TrimSuffix(text, "\n"))
	if s.partial > 0 {
		pad := strings.Repeat(" ", max(0, s.partial-n))
		text = "\r" + strings.TrimSuffix(text, "\n") + pad + text[n:]
	}
	s.partial = n
	_, _ = io.WriteString(s, text) // a console that is not there
}

// progressLine is "nereid: base.squashfs 42 % of 88 MB, 31 MB/s, 2 s left", cut to width.
func progressLine(name string, p images.Progress, width int) string {
	line := fmt.Sprintf("nereid: %s %d %% of %s", name, 100*p.Bytes/max(p.Total, 1), mega(p.Total))
	if p.Bytes >= p.Total {
		line = fmt.Sprintf("nereid: %s %s in %.1f s", name, mega(p.Total), p.Elapsed.Seconds())
	}
	if p.Rate > 0 {
		line += fmt.Sprintf(", %.1f MB/s", p.Rate/1e6)
		if p.Bytes < p.Total {
			line += fmt.Sprintf(", %.0f s left", (time.Duration(float64(p.Total-p.Bytes) / p.Rate * 1e9)).Seconds())
		}
	}
	return line[:min(len(line), max(width, 20))]
}

// clean keeps what came from elsewhere from driving the terminal.
func clean(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r >= 0x80 && r < 0xa0 {
			return ' '
		}
		return r
	}, s)
}
