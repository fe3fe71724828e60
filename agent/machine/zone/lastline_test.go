package zone

import (
	"strings"
	"testing"
)

// TestLastLine: the last line that says something is given, without what a terminal would
// act on, and never much of it.
func TestLastLine(t *testing.T) {
	for text, want := range map[string]string{
		"": "", "\n\r\n": "",
		"booting\r\nnereid: execute /srv/program: permission denied\r\n\r\n": "nereid: execute /srv/program: permission denied",
		"one\ntwo":                       "two",
		"one\n\x1b[31mred\x1b[0m\x00\n":  "[31mred[0m",
		"\xff\xfe half a rune\n":         "half a rune",
		strings.Repeat("ab", 300) + "\n": strings.Repeat("ab", 100),
	} {
		if got := lastLine(text); got != want {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
}
