package agent

import (
	"io"
	"log/slog"
	"os"
	"strings"
	"sync"
	"syscall"
)

// announcer tells people at the console how the server stands with its head
// node: one plain sentence, once per change.
type announcer struct {
	w   io.Writer // nil: nobody looks
	log *slog.Logger

	mu   sync.Mutex
	last string
}

// say announces a sentence unless it is the one that was said last.
func (a *announcer) say(sentence string) {
	sentence = printable(sentence)
	a.mu.Lock()
	defer a.mu.Unlock()
	if sentence == a.last {
		return
	}
	a.last = sentence
	a.log.Info("state", "says", sentence)
	if a.w == nil {
		return
	}
	if _, err := io.WriteString(a.w, "nereid: "+sentence+"\r\n"); err != nil {
		a.log.Debug("write to console", "err", err)
	}
}

// current is what was said last.
func (a *announcer) current() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.last
}

// printable makes one line without control characters of what others wrote:
// nothing a head node sends may drive a terminal.
func printable(s string) string {
	s = strings.Map(func(r rune) rune {
		if r == '\n' || r == '\t' {
			return ' '
		}
		if r < 0x20 || (r >= 0x7f && r < 0xa0) || r == 0xfffd {
			return -1
		}
		return r
	}, s)
	if len(s) > 500 {
		s = s[:500]
		s = strings.ToValidUTF8(s, "") + "..."
	}
	return strings.TrimSpace(s)
}

// Console is a terminal for an announcer. It is opened for each sentence: the
// console may change hands, and a serial line that is held open keeps a getty
// from hanging up.
type Console string

// Write writes without waiting for a terminal that has stopped its output.
func (c Console) Write(p []byte) (int, error) {
	f, err := os.OpenFile(string(c), os.O_WRONLY|syscall.O_NOCTTY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	return f.Write(p)
}
