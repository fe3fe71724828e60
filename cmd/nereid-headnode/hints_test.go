package main

import (
	"io"
	"strings"
	"testing"

	"nereid/integration/hints"
)

// TestHints tries every nereid-headnode command that a text of any program names.
func TestHints(t *testing.T) {
	found, err := hints.Find("nereid-headnode", "../../headnode", "../../bootserver", "../../agent", "../../platform", "../../cmd", "../../integration/demo")
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range found {
		if err := hints.Try(command(strings.NewReader(""), io.Discard), h.Words); err != nil {
			t.Errorf("%s: %s: %v", h.At, strings.Join(h.Words, " "), err)
		}
	}
	if len(found) < 5 {
		t.Errorf("only %d hints were found", len(found))
	}
	root := command(strings.NewReader(""), io.Discard)
	for _, wrong := range []string{"nereid-headnode start", "nereid-headnode run --dir /x", "nereid-headnode init now"} {
		if err := hints.Try(root, strings.Fields(wrong)); err == nil {
			t.Errorf("%s: taken", wrong)
		}
	}
}
