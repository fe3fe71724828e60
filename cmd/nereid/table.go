package main

import (
	"fmt"
	"io"
	"slices"
	"strings"

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

// belowIndent is how far what goes below a row is from the row's beginning.
const belowIndent = 4

// table is rows below a header. An empty cell prints as "-".
//
// On a terminal no line is wider than it, and nothing is cut: sentences wrap, and
// what has no room beside the others goes below its row.
type table struct {
	header []string
	rows   [][]cell
	colour bool
	width  int      // of the terminal; 0: lines may have any length
	prose  bool     // the last column holds sentences
	spare  []string // columns that are left out first where there is no room for all
	more   string   // the command or flag that shows columns that were left out
}

// table makes one for standard output.
func (a *app) table(header ...string) *table {
	return &table{header: header, colour: a.escapes(a.stdout), width: a.fit()}
}

func (t *table) add(cells ...cell) { t.rows = append(t.rows, cells) }

// layout says where each column of a table goes.
type layout struct {
	widths []int
	across []int    // columns side by side
	below  []int    // columns that go below their row
	out    []string // columns that are left out
	hang   int      // width at which the last column wraps; 0: it does not
}

func (t *table) write(w io.Writer) error {
	l := t.layout()
	head := make([]cell, len(t.header))
	for i, h := range t.header {
		head[i] = cell{text: h, style: dim, right: len(t.rows) > 0 && t.rows[0][i].right}
	}
	var b strings.Builder
	t.line(&b, head, l)
	for _, row := range t.rows {
		t.line(&b, row, l)
		t.below(&b, row, l)
	}
	if len(l.out) > 0 {
		for _, s := range wrap(fmt.Sprintf("(no room for %s; %s shows all)", strings.Join(l.out, ", "), t.more), t.width) {
			b.WriteString(dim.paint(s, t.colour) + "\n")
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// layout decides where the columns go. Sentences give way first, as they can be
// read below their row; then the columns that are spare; then the widest ones,
// but never the first, by which a row is known.
func (t *table) layout() layout {
	l := layout{widths: make([]int, len(t.header))}
	last := len(t.header) - 1
	part := 0 // of the last column
	for i, h := range t.header {
		l.widths[i] = runes(h)
		l.across = append(l.across, i)
	}
	for _, row := range t.rows {
		for i := range row {
			if row[i].text == "" && i < last {
				row[i].text = "-"
			}
			l.widths[i] = max(l.widths[i], runes(row[i].text))
		}
		part = max(part, widest(row[last].text))
	}
	if t.width <= 0 || l.total() <= t.width {
		return l
	}
	if t.prose {
		room := t.width - l.total() + l.widths[last]
		if room >= max(part, minProse) {
			l.hang = room
			return l
		}
		l.move(last)
	}
	for _, name := range t.spare {
		if i := slices.Index(t.header, name); l.total() > t.width && i >= 0 {
			l.drop(i)
			if t.filled(i) {
				l.out = append(l.out, name)
			}
		}
	}
	for l.total() > t.width && len(l.across) > 1 {
		l.move(l.gives(l.total() - t.width))
	}
	return l
}

// gives chooses the column that goes below its row: the last one that makes the
// room that is missing, or else the widest. The first stays: it names the row.
func (l *layout) gives(missing int) int {
	best := l.across[1]
	for _, i := range l.across[1:] {
		if min(l.widths[i]+2, missing) >= min(l.widths[best]+2, missing) {
			best = i
		}
	}
	return best
}

// minProse is the least width at which sentences wrap in a column of their own.
const minProse = 24

func (l *layout) total() int {
	n := 2 * (len(l.across) - 1)
	for _, i := range l.across {
		n += l.widths[i]
	}
	return n
}

func (l *layout) drop(i int) {
	l.across = slices.DeleteFunc(l.across, func(j int) bool { return i == j })
}

func (l *layout) move(i int) {
	l.drop(i)
	l.below = append(l.below, i)
	slices.Sort(l.below)
}

// filled reports whether a column says anything.
func (t *table) filled(i int) bool {
	return slices.ContainsFunc(t.rows, func(row []cell) bool { return row[i].text != "-" && row[i].text != "" })
}

// line writes what stands side by side.
func (t *table) line(b *strings.Builder, row []cell, l layout) {
	var line strings.Builder
	at := 0
	for n, i := range l.across {
		c, end := row[i], n == len(l.across)-1
		texts := []string{c.text}
		if end && l.hang > 0 && c.text != "" {
			texts = wrap(c.text, l.hang)
		}
		pad := strings.Repeat(" ", max(0, l.widths[i]-runes(texts[0])))
		switch {
		case c.right:
			line.WriteString(pad + c.style.paint(texts[0], t.colour))
		case end:
			line.WriteString(c.style.paint(strings.Join(texts, "\n"+strings.Repeat(" ", at)), t.colour))
		default:
			line.WriteString(c.style.paint(texts[0], t.colour) + pad)
		}
		if !end {
			line.WriteString("  ")
		}
		at += l.widths[i] + 2
	}
	b.WriteString(strings.TrimRight(line.String(), " ") + "\n")
}

// below writes what goes below a row: values with the names of their columns, and
// sentences without.
func (t *table) below(b *strings.Builder, row []cell, l layout) {
	room := t.width - belowIndent
	indent := strings.Repeat(" ", belowIndent)
	var named []string
	for _, i := range l.below {
		if c := row[i]; c.text != "-" && c.text != "" && !(t.prose && i == len(row)-1) {
			named = append(named, strings.ToLower(t.header[i])+" "+c.text)
		}
	}
	for _, s := range pack(named, room) {
		b.WriteString(indent + s + "\n")
	}
	if last := len(row) - 1; t.prose && slices.Contains(l.below, last) {
		for _, s := range wrap(row[last].text, room) {
			b.WriteString(indent + row[last].style.paint(s, t.colour) + "\n")
		}
	}
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
