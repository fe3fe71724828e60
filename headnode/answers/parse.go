package answers

import (
	"errors"
	"fmt"
	"io"
	"sort"
	"strings"

	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"
)

// maxFile is the largest answers file that is read, in bytes.
const maxFile = 64 << 10

// raw is one key of the file as it was written.
type raw struct {
	line int
	kind unstable.Kind
	text string
	list []raw
}

// file is the whole file, by dotted key, before it is understood.
type file struct {
	values map[string]raw
	tables map[string]int // line each table was opened at
	faults []Fault
}

// known lists every key there is; true when it must be there.
func known() map[string]bool {
	return map[string]bool{
		"datacenter":      true,
		"dns_domain":      false,
		"admin.interface": true,
		"admin.address":   true,
		"admin.range":     true,
		"admin.gateway":   false,
		"admin.dns":       false,
		"admin.ntp":       false,
		"admin.lease":     false,
		"admin.clients":   false,
	}
}

// Parse reads an answers file. Whatever is wrong with it is in one *Faults;
// name is what messages call the file.
func Parse(r io.Reader, name string) (Answers, error) {
	data, err := io.ReadAll(io.LimitReader(r, maxFile+1))
	if err != nil {
		return Answers{}, fmt.Errorf("read answers: %w", err)
	}
	if len(data) > maxFile {
		return Answers{}, &Faults{File: name, List: []Fault{{Line: 1, Text: fmt.Sprintf("the file is larger than %d bytes; an answers file is a few lines of TOML", maxFile)}}}
	}
	var any map[string]any
	syntax := toml.Unmarshal(data, &any)
	f := scan(data)
	a := f.understand()
	if syntax != nil {
		f.syntax(syntax)
	}
	if len(f.faults) == 0 {
		return a, nil
	}
	sort.SliceStable(f.faults, func(i, j int) bool {
		li, lj := f.faults[i].Line, f.faults[j].Line
		if (li == 0) != (lj == 0) {
			return lj == 0
		}
		return li < lj
	})
	return Answers{}, &Faults{File: name, List: f.faults}
}

// syntax adds what the TOML decoder itself found, unless a fault of that line
// says it already. Keys that only seem to be missing because the file could not
// be read to its end are not reported.
func (f *file) syntax(err error) {
	line := 1
	text := err.Error()
	var de *toml.DecodeError
	if errors.As(err, &de) {
		line, _ = de.Position()
		text = strings.TrimPrefix(de.Error(), "toml: ")
	}
	kept := f.faults[:0]
	for _, x := range f.faults {
		if x.Line == line && strings.HasPrefix(x.Text, "given twice") {
			f.faults = append(kept, f.faults[len(kept):]...)
			return
		}
		if x.Line != 0 {
			kept = append(kept, x)
		}
	}
	f.faults = append(kept, Fault{Line: line, Text: "not TOML: " + text})
}

// scan reads as much of the file as is TOML, with the line of every key.
func scan(data []byte) *file {
	f := &file{values: map[string]raw{}, tables: map[string]int{}}
	var p unstable.Parser
	p.Reset(data)
	prefix := ""
	for p.NextExpression() {
		e := p.Expression()
		switch e.Kind {
		case unstable.Table, unstable.ArrayTable:
			key, line := keyOf(&p, e)
			prefix = key + "."
			if e.Kind == unstable.ArrayTable {
				f.fault(line, key, "is a list of tables; write [%s] once", key)
				continue
			}
			if first, ok := f.tables[key]; ok {
				f.fault(line, key, "given twice; it is already in line %d", first)
				continue
			}
			f.tables[key] = line
		case unstable.KeyValue:
			f.keyValue(&p, e, prefix)
		}
	}
	return f
}

// keyValue takes one "key = value" line, or one of an inline table.
func (f *file) keyValue(p *unstable.Parser, e *unstable.Node, prefix string) {
	key, line := keyOf(p, e)
	key = prefix + key
	v := e.Value()
	if v.Kind == unstable.InlineTable {
		f.tables[key] = line
		it := v.Children()
		for it.Next() {
			f.keyValue(p, it.Node(), key+".")
		}
		return
	}
	if first, ok := f.values[key]; ok {
		f.fault(line, key, "given twice; it is already in line %d", first.line)
		return
	}
	f.values[key] = value(v, line)
}

func value(v *unstable.Node, line int) raw {
	r := raw{line: line, kind: v.Kind, text: string(v.Data)}
	if v.Kind == unstable.Array {
		it := v.Children()
		for it.Next() {
			if it.Node().Kind == unstable.Comment {
				continue
			}
			r.list = append(r.list, value(it.Node(), line))
		}
	}
	return r
}

// keyOf gives the dotted key of a table or key/value and its line.
func keyOf(p *unstable.Parser, e *unstable.Node) (string, int) {
	var parts []string
	line := 0
	it := e.Key()
	for it.Next() {
		n := it.Node()
		if line == 0 {
			line = p.Shape(n.Raw).Start.Line
		}
		parts = append(parts, string(n.Data))
	}
	return strings.Join(parts, "."), line
}

func (f *file) fault(line int, key, format string, args ...any) {
	f.faults = append(f.faults, Fault{Line: line, Key: key, Text: fmt.Sprintf(format, args...)})
}
