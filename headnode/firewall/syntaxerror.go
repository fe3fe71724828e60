package firewall

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// excerptWidth is how many characters of a long line an error shows, and
// excerptAfter how many of them come after the place.
const (
	excerptWidth = 100
	excerptAfter = 40
)

// SyntaxError says where a rule is wrong, and how.
type SyntaxError struct {
	Offset   int      // byte of the rule's text, from 0 to its length
	Line     int      // from 1
	Column   int      // in characters, from 1
	Msg      string   // what is wrong there
	Expected []string // what could stand there; keywords in capitals, the rest in lower case
	Hint     string   // what was probably meant; may be empty

	excerpt, caret string
}

// newSyntaxError makes the error of a place of a text.
func newSyntaxError(text string, offset int, msg, hint string, expected ...string) *SyntaxError {
	e := &SyntaxError{Offset: offset, Msg: msg, Expected: expected, Hint: hint}
	before := text[:offset]
	start := strings.LastIndexByte(before, '\n') + 1
	e.Line = strings.Count(before, "\n") + 1
	e.Column = utf8.RuneCountInString(before[start:]) + 1
	line, _, _ := strings.Cut(text[start:], "\n")
	e.excerpt, e.caret = excerpt([]rune(strings.TrimSuffix(line, "\r")), e.Column-1)
	return e
}

// excerpt gives what is shown of a line, and the caret below its character at.
func excerpt(line []rune, at int) (string, string) {
	first := max(0, min(at+excerptAfter, len(line))-excerptWidth)
	last := min(len(line), first+excerptWidth)
	head, tail := "", ""
	if first > 0 {
		head = "..."
	}
	if last < len(line) {
		tail = "..."
	}
	shown := strings.Map(visible, string(line[first:last]))
	return head + shown + tail, strings.Repeat(" ", len(head)+at-first) + "^"
}

// visible replaces what would not take one place on a terminal, or would drive it.
func visible(r rune) rune {
	switch {
	case unicode.IsSpace(r):
		return ' '
	case r == utf8.RuneError || !unicode.IsPrint(r):
		return '?'
	}
	return r
}

// Error prints Summary, the place in the rule, and the hint, in lines.
func (e *SyntaxError) Error() string {
	s := e.Summary()
	for _, l := range e.Lines() {
		s += "\n  " + l
	}
	return s
}

// Summary says in one line where and what.
func (e *SyntaxError) Summary() string {
	at := fmt.Sprintf("column %d", e.Column)
	if e.Line > 1 {
		at = fmt.Sprintf("line %d, column %d", e.Line, e.Column)
	}
	return at + ": " + e.Msg + expectation(e.Expected)
}

func expectation(expected []string) string {
	switch n := len(expected); n {
	case 0:
		return ""
	case 1:
		return ", expected " + expected[0]
	default:
		return ", expected " + strings.Join(expected[:n-1], ", ") + " or " + expected[n-1]
	}
}

// Lines are the rule's line, a caret under the place, and the hint if there is one.
func (e *SyntaxError) Lines() []string {
	lines := []string{e.excerpt, e.caret}
	if e.Hint != "" {
		lines = append(lines, "hint: "+e.Hint)
	}
	return lines
}
