package mdata

import (
	"bytes"
	"strings"
)

// Source is what a guest's requests are about. The text of an error goes to the guest.
type Source interface {
	Get(key string) (value string, found bool, err error)
	Keys() ([]string, error)
	Put(key, value string) error
	Delete(key string) error
}

// MaxLine is the length of the longest line that is taken, in bytes: a PUT of a value
// of 128 KiB, twice in base64.
const MaxLine = 240 << 10

// unknown is the answer to what is no command, an empty line too: by it a client finds
// the beginning of a line again.
const unknown = "invalid command\n"

// Answer answers a line, which has no line end. Nil: it has no answer.
func Answer(src Source, line []byte) []byte {
	line = bytes.TrimSuffix(line, []byte("\r"))
	word, rest, more := strings.Cut(string(line), " ")
	switch {
	case word == "V2" && more:
		f, err := ParseFrame(line)
		if err != nil {
			return nil
		}
		return answerFrame(src, f).Append(nil)
	case word == "NEGOTIATE" && rest != "":
		if rest == "V2" {
			return []byte("V2_OK\n")
		}
		return []byte(Failure + "\n")
	case word == Get && rest != "":
		value, found, err := src.Get(rest)
		switch {
		case err != nil:
			return []byte(Failure + "\n")
		case !found:
			return []byte(NotFound + "\n")
		}
		return plain(value)
	case word == Keys && !more:
		keys, err := src.Keys()
		if err != nil {
			return []byte(Failure + "\n")
		}
		return plain(strings.Join(keys, "\n"))
	}
	return []byte(unknown)
}

// plain is a value as version 1 has it: its lines, of which one that begins with a
// period gets another one, and a period.
func plain(value string) []byte {
	b := []byte(Success + "\n")
	if value != "" {
		for line := range strings.SplitSeq(value, "\n") {
			if strings.HasPrefix(line, ".") {
				b = append(b, '.')
			}
			b = append(append(b, line...), '\n')
		}
	}
	return append(b, ".\n"...)
}

func answerFrame(src Source, f Frame) Frame {
	out := Frame{ID: f.ID, Word: Success}
	fail := func(text string) Frame { return Frame{ID: f.ID, Word: Failure, Data: []byte(text)} }
	switch f.Word {
	case Get:
		value, found, err := src.Get(string(f.Data))
		if err != nil {
			return fail(err.Error())
		}
		if !found {
			out.Word = NotFound
		}
		out.Data = []byte(value)
	case Keys:
		keys, err := src.Keys()
		if err != nil {
			return fail(err.Error())
		}
		out.Data = []byte(strings.Join(keys, "\n"))
	case Put:
		key, value, err := parsePut(f.Data)
		if err == nil {
			err = src.Put(key, value)
		}
		if err != nil {
			return fail(err.Error())
		}
		out.Data = []byte("OK")
	case Delete:
		if err := src.Delete(string(f.Data)); err != nil {
			return fail(err.Error())
		}
		out.Data = []byte("OK")
	default:
		return fail("invalid command")
	}
	return out
}

// splitter makes lines of what comes in pieces. It keeps one line at the most.
type splitter struct {
	part []byte
	long bool                // the line is too long: its rest is let go
	more func(need int) bool // may the part grow beyond small? nil: it may
	free func()              // it is small again
}

// small is what a line may need without asking for it.
const small = 4 << 10

// feed takes in a piece, and hands over the lines that end in it. One that is too long
// is handed over as nil.
func (s *splitter) feed(piece []byte, line func([]byte)) {
	for len(piece) > 0 {
		at := bytes.IndexByte(piece, '\n')
		end := at
		if at < 0 {
			end = len(piece)
		}
		s.add(piece[:end])
		if at < 0 {
			return
		}
		piece = piece[at+1:]
		if s.long {
			line(nil)
		} else {
			line(s.part)
		}
		s.forget()
	}
}

func (s *splitter) add(b []byte) {
	n := len(s.part) + len(b)
	if s.long || n > MaxLine || n > small && len(s.part) <= small && s.more != nil && !s.more(n) {
		s.long, s.part = true, s.part[:0]
		return
	}
	s.part = append(s.part, b...)
}

// forget lets go of a line that did not end.
func (s *splitter) forget() {
	if cap(s.part) > small {
		s.part = nil
		if s.free != nil {
			s.free()
		}
	}
	s.part, s.long = s.part[:0], false
}

// pending reports whether a line has begun.
func (s *splitter) pending() bool { return len(s.part) > 0 || s.long }
