package main

import (
	"io"
	"strings"
	"testing"

	"nereid/integration/hints"
)

// prose are texts in which a sentence begins with the program's name.
var prose = map[string]bool{
	"nereid shows": true, "nereid does": true, "nereid looks": true,
	"nereid in": true, "nereid platform stage": true, // a directory, and a cache key
}

// TestHints tries every command that a text of any program tells people to type:
// it is there, with its flags, and takes as many arguments.
func TestHints(t *testing.T) {
	found, err := hints.Find("nereid", "../../api", "../../headnode", "../../bootserver", "../../images", "../../agent", "../../platform", "../../cmd", "../../integration/demo")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, h := range found {
		if prose[strings.Join(h.Words[:2], " ")] || len(h.Words) > 2 && prose[strings.Join(h.Words[:3], " ")] {
			continue
		}
		n++
		if err := hints.Try(newApp(strings.NewReader(""), io.Discard, io.Discard).rootCommand(), h.Words); err != nil {
			t.Errorf("%s: %s: %v", h.At, strings.Join(h.Words, " "), err)
		}
	}
	if n < 100 {
		t.Errorf("only %d hints were found", n)
	}
}

// TestHintsFinds holds the reader of hints to what it must see, and refuse.
func TestHintsFinds(t *testing.T) {
	for command, fine := range map[string]bool{
		"nereid server list": true, "nereid server get cn0": true, "nereid server list --state held": true, "nereid server": true,
		"nereid bond update cn0 bond0": false, "nereid fabric list": false, "nereid server list --colour": false, "nereid servers list": false,
		"nereid server get a b": false, "nereid server approve --help": true,
		"nereid X list": true, "nereid X frobnicate": false, "nereid server X cn0": true, "nereid server X --colour": false, "nereid X X cn0 bond0": true, "nereid X X --colour": false,
	} {
		err := hints.Try(newApp(nil, io.Discard, io.Discard).rootCommand(), strings.Fields(command))
		if (err == nil) != fine {
			t.Errorf("%s: %v, want fine %v", command, err, fine)
		}
	}
}
