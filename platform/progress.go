package platform

import (
	"fmt"
	"io"
	"strings"
	"sync"
	"time"
)

const (
	liveEvery  = 500 * time.Millisecond // how often a terminal's live line changes
	plainEvery = 30 * time.Second       // how often a log file gets a line
	lineWidth  = 79                     // one less than the least terminal has
)

// progress shows people what a build does. It is safe for concurrent use: the
// programs' output arrives on their own goroutines.
type progress struct {
	mu    sync.Mutex
	w     io.Writer
	live  bool
	now   func() time.Time
	stage string
	begun time.Time
	last  string        // latest line of output
	far   func() string // says how far the stage is, where its output does not
	dirty bool
}

// begin opens a stage.
func (p *progress) begin(stage, what string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.stage, p.begun = stage, p.now()
	p.last, p.far = "", nil
	fmt.Fprintf(p.w, "%-12s %s\n", stage, what)
}

// tick notes the latest line of output.
func (p *progress) tick(line string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.last = line
}

// follow has far say how far the stage is, instead of the output. It is called
// by one goroutine at a time.
func (p *progress) follow(far func() string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.far = far
}

// watch shows elapsed time and the latest line of output now and then, until the
// function it returns is called.
func (p *progress) watch() (stop func()) {
	every := plainEvery
	if p.live {
		every = liveEvery
	}
	t := time.NewTicker(every)
	quit, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		defer t.Stop()
		for {
			select {
			case <-quit:
				return
			case <-t.C:
				p.refresh()
			}
		}
	}()
	return func() {
		close(quit)
		<-done
	}
}

func (p *progress) refresh() {
	p.mu.Lock()
	defer p.mu.Unlock()
	last := p.last
	if p.far != nil {
		last = p.far()
	}
	text := fmt.Sprintf("%-12s   %s  %s", p.stage, round(p.now().Sub(p.begun)), printable(last))
	if r := []rune(text); len(r) > lineWidth {
		text = string(r[:lineWidth])
	}
	if !p.live {
		fmt.Fprintln(p.w, text)
		return
	}
	fmt.Fprintf(p.w, "\r\x1b[K%s", text)
	p.dirty = true
}

// end closes a stage.
func (p *progress) end(result string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.clear()
	fmt.Fprintf(p.w, "%-12s   %s\n", p.stage, result)
}

// say prints one line between stages.
func (p *progress) say(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.clear()
	fmt.Fprintf(p.w, format+"\n", args...)
}

func (p *progress) clear() {
	if p.dirty {
		fmt.Fprint(p.w, "\r\x1b[K")
		p.dirty = false
	}
}

func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return -1
		}
		return r
	}, s)
}

func round(d time.Duration) time.Duration {
	if d < 10*time.Second {
		return d.Round(100 * time.Millisecond)
	}
	return d.Round(time.Second)
}

// mb prints a size in units of 10^6 bytes.
func mb(n int64) string { return fmt.Sprintf("%.1f MB", float64(n)/1e6) }
