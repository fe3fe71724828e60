package stub

import (
	"bufio"
	"io"
	"path"
	"strings"
)

// aliasPrefix is how much of a pattern is an index: "pci:v00008086d" names the
// vendor, so that one device is compared with one vendor's patterns.
const aliasPrefix = len("pci:v00008086d")

// aliases is modules.alias: which modules drive which devices.
type aliases struct {
	indexed map[string][]alias // by the first aliasPrefix bytes, all literal
	rest    []alias
}

type alias struct{ pattern, module string }

// parseAliases reads modules.alias(5): "alias PATTERN MODULE".
func parseAliases(r io.Reader) (*aliases, error) {
	a := &aliases{indexed: map[string][]alias{}}
	sc := bufio.NewScanner(r)
	for sc.Scan() {
		f := strings.Fields(sc.Text())
		if len(f) != 3 || f[0] != "alias" {
			continue
		}
		e := alias{pattern: f[1], module: moduleName(f[2])}
		literal := strings.IndexAny(e.pattern, `*?[\`)
		if literal < 0 {
			literal = len(e.pattern)
		}
		if literal >= aliasPrefix {
			key := e.pattern[:aliasPrefix]
			a.indexed[key] = append(a.indexed[key], e)
		} else {
			a.rest = append(a.rest, e)
		}
	}
	return a, sc.Err()
}

// match returns the modules for a device's modalias, in the file's order, each once.
func (a *aliases) match(modalias string) []string {
	var mods []string
	seen := map[string]bool{}
	try := func(list []alias) {
		for _, e := range list {
			if !seen[e.module] && glob(e.pattern, modalias) {
				seen[e.module] = true
				mods = append(mods, e.module)
			}
		}
	}
	if len(modalias) >= aliasPrefix {
		try(a.indexed[modalias[:aliasPrefix]])
	}
	try(a.rest)
	return mods
}

// glob is fnmatch(3) without flags, as modprobe uses it: * and ? match a slash
// too, [..] is a set of bytes.
func glob(pattern, s string) bool {
	star, mark := -1, 0
	p, i := 0, 0
	for i < len(s) {
		if p < len(pattern) && pattern[p] == '*' {
			star, mark = p, i
			p++
			continue
		}
		if next, ok := globByte(pattern, p, s[i]); ok {
			p, i = next, i+1
			continue
		}
		if star < 0 {
			return false
		}
		mark++
		p, i = star+1, mark
	}
	for p < len(pattern) && pattern[p] == '*' {
		p++
	}
	return p == len(pattern)
}

// globByte matches one byte with the element of pattern at p and returns where
// the next element begins.
func globByte(pattern string, p int, c byte) (next int, ok bool) {
	if p >= len(pattern) {
		return p, false
	}
	switch pattern[p] {
	case '?':
		return p + 1, true
	case '\\':
		if p+1 < len(pattern) {
			return p + 2, pattern[p+1] == c
		}
	case '[':
		q, not := p+1, false
		if q < len(pattern) && (pattern[q] == '!' || pattern[q] == '^') {
			q, not = q+1, true
		}
		in := false
		for first := true; q < len(pattern) && (pattern[q] != ']' || first); first = false {
			if q+2 < len(pattern) && pattern[q+1] == '-' && pattern[q+2] != ']' {
				in = in || pattern[q] <= c && c <= pattern[q+2]
				q += 3
			} else {
				in = in || pattern[q] == c
				q++
			}
		}
		if q < len(pattern) {
			return q + 1, in != not
		}
	}
	return p + 1, pattern[p] == c
}

// moduleName is a module's name as the kernel writes it: no directory, no
// suffix, underscores for dashes.
func moduleName(p string) string {
	b := path.Base(p)
	if i := strings.Index(b, ".ko"); i > 0 {
		b = b[:i]
	}
	return strings.ReplaceAll(b, "-", "_")
}
