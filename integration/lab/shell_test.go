package lab

import (
	"bufio"
	"strings"
	"testing"
)

// TestAnswer: a line is answered by its own answer, also behind those of lines for which
// nobody waited to the end.
func TestAnswer(t *testing.T) {
	for _, c := range []struct {
		text, out string
		status    int
		fails     bool
	}{
		{text: "B 0 aGVsbG8K\n", out: "hello\n"},
		{text: "A 0 b2xkCg==\nB 3 aGVsbG8K\n", out: "hello\n", status: 3},
		{text: "B 0 \n"},
		{text: "A 0 b2xkCg==\n", fails: true},
		{text: "B x aGVsbG8K\n", fails: true},
		{text: "B 0 ???\n", fails: true},
	} {
		out, status, err := answer(bufio.NewReader(strings.NewReader(c.text)), "B")
		if (err != nil) != c.fails || out != c.out || status != c.status {
			t.Errorf("%q: %q, %d, %v", c.text, out, status, err)
		}
	}
}
