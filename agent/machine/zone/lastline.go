package zone

import (
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"unicode"
)

// LastLine is the end of what a zone printed on its console, at most 200 characters that
// can be shown; empty: nothing is known of it. An init that cannot be executed says so
// there.
func LastLine(uuid string) string {
	f, err := os.Open(filepath.Join(Consoles, Logs, Log(uuid)))
	if err != nil {
		return ""
	}
	defer f.Close()
	const tail = 1000
	if st, err := f.Stat(); err == nil && st.Size() > tail {
		_, _ = f.Seek(-tail, io.SeekEnd) // else it is read from its beginning
	}
	text, err := io.ReadAll(io.LimitReader(f, tail))
	if err != nil {
		return ""
	}
	return lastLine(string(text))
}

func lastLine(text string) string {
	lines := strings.FieldsFunc(text, func(r rune) bool { return r == '\n' || r == '\r' })
	for _, line := range slices.Backward(lines) {
		shown := strings.TrimSpace(strings.Map(func(r rune) rune {
			if unicode.IsPrint(r) && r != unicode.ReplacementChar {
				return r
			}
			return -1
		}, line))
		if shown == "" {
			continue
		}
		runes := []rune(shown)
		return string(runes[max(0, len(runes)-200):])
	}
	return ""
}
