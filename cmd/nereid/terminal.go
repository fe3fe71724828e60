package main

import (
	"io"
	"os"
	"strconv"
	"strings"

	"golang.org/x/term"
)

// fd gives the descriptor of a file that is a terminal.
func fd(v any) (int, bool) {
	f, ok := v.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return 0, false
	}
	return int(f.Fd()), true
}

func isTerminal(v any) bool {
	_, ok := fd(v)
	return ok
}

// width is how many columns a picture on w may take.
func (a *app) width(w io.Writer) int {
	if d, ok := fd(w); ok {
		if cols, _, err := term.GetSize(d); err == nil && cols > 0 {
			return cols
		}
	}
	if n, err := strconv.Atoi(a.getenv("COLUMNS")); err == nil && n > 0 {
		return n
	}
	return 80
}

// height is how many lines the terminal w has; 0: it does not say.
func (a *app) height(w io.Writer) int {
	if d, ok := fd(w); ok {
		if _, rows, err := term.GetSize(d); err == nil {
			return max(rows, 0)
		}
	}
	return 0
}

// fit is how wide the lines of tables and cards may be: as wide as the terminal.
// Elsewhere it is 0, a row a line, for grep and awk.
func (a *app) fit() int {
	if !isTerminal(a.stdout) {
		return 0
	}
	return a.width(a.stdout)
}

// unicode reports whether the locale's characters are UTF-8 (POSIX: the first
// of LC_ALL, LC_CTYPE and LANG that is set decides).
func (a *app) unicode() bool {
	loc := strings.ToLower(firstOf(a.getenv("LC_ALL"), a.getenv("LC_CTYPE"), a.getenv("LANG")))
	return strings.Contains(loc, "utf-8") || strings.Contains(loc, "utf8")
}

// escapes reports whether w may get control sequences, to colour a text or to
// draw over one: a terminal that knows them, and a person who does not mind
// (https://no-color.org). Others get one line after another.
func (a *app) escapes(w io.Writer) bool {
	term := a.getenv("TERM")
	return isTerminal(w) && a.getenv("NO_COLOR") == "" && term != "" && term != "dumb"
}

// style is an SGR attribute (ECMA-48, 8.3.117); empty for none.
type style string

const (
	plain  style = ""
	bold   style = "1"
	dim    style = "2"
	red    style = "31"
	green  style = "32"
	yellow style = "33"
)

func (s style) paint(text string, on bool) string {
	if s == plain || !on || text == "" {
		return text
	}
	return "\x1b[" + string(s) + "m" + text + "\x1b[0m"
}
