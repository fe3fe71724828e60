package main

import (
	"fmt"
	"io"
	"strings"
	"unicode/utf8"

	"github.com/dustin/go-humanize"
)

// cell is a text of a table. Its width is counted without its style.
type cell struct {
	text  string
	style style
	right bool // aligned to the right
}

func text(s string) cell               { return cell{text: oneLine(s)} }
func styled(s string, st style) cell   { return cell{text: oneLine(s), style: st} }
func number(format string, v any) cell { return cell{text: fmt.Sprintf(format, v), right: true} }

// table is rows below a header. An empty cell prints as "-".
type table struct {
	header []string
	rows   [][]cell
	colour bool
	width  int // lines are cut to it; 0: not cut
}

func (t *table) add(cells ...cell) { t.rows = append(t.rows, cells) }

func (t *table) write(w io.Writer) error {
	widths := make([]int, len(t.header))
	for i, h := range t.header {
		widths[i] = len(h)
	}
	for _, row := range t.rows {
		for i := range row {
			if row[i].text == "" && i < len(row)-1 {
				row[i].text = "-"
			}
			widths[i] = max(widths[i], utf8.RuneCountInString(row[i].text))
		}
	}
	head := make([]cell, len(t.header))
	for i, h := range t.header {
		head[i] = cell{text: h, style: dim, right: len(t.rows) > 0 && t.rows[0][i].right}
	}
	for _, row := range append([][]cell{head}, t.rows...) {
		if _, err := fmt.Fprintln(w, t.line(row, widths)); err != nil {
			return err
		}
	}
	return nil
}

func (t *table) line(row []cell, widths []int) string {
	var b strings.Builder
	at := 0
	for i, c := range row {
		s := c.text
		if left := t.width - at; t.width > 0 && i == len(row)-1 && utf8.RuneCountInString(s) > left {
			s = cut(s, max(left, 8))
		}
		pad := strings.Repeat(" ", max(0, widths[i]-utf8.RuneCountInString(s)))
		switch {
		case c.right:
			b.WriteString(pad + c.style.paint(s, t.colour))
		case i == len(row)-1:
			b.WriteString(c.style.paint(s, t.colour))
		default:
			b.WriteString(c.style.paint(s, t.colour) + pad)
		}
		if i < len(row)-1 {
			b.WriteString("  ")
		}
		at += widths[i] + 2
	}
	return strings.TrimRight(b.String(), " ")
}

// cut shortens a text to n characters and marks that it did.
func cut(s string, n int) string {
	r := []rune(s)
	if len(r) <= n {
		return s
	}
	return string(r[:max(0, n-3)]) + "..."
}

// size prints bytes in powers of 1024.
func size(n int64) string {
	if n < 0 {
		return "-" + size(-n)
	}
	return humanize.IBytes(uint64(n))
}

// plural counts things whose name takes an s.
func plural(n int, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return fmt.Sprintf("%d %ss", n, thing)
}
