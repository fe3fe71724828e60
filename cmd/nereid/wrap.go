package main

import (
	"slices"
	"strings"
	"unicode/utf8"
)

// runes counts the characters of a text.
func runes(s string) int { return utf8.RuneCountInString(s) }

// wrap breaks a text at its spaces into lines of at most width characters. A
// command that the text names stays on one line, so that it can be copied, when
// a line has room for it. A word that is wider than a line is not broken.
func wrap(s string, width int) []string {
	lines, line := []string{}, ""
	for _, part := range parts(s) {
		words := []string{part}
		if runes(part) > width {
			words = strings.Split(part, " ")
		}
		for _, w := range words {
			switch {
			case line == "":
				line = w
			case runes(line)+1+runes(w) <= width:
				line += " " + w
			default:
				lines, line = append(lines, line), w
			}
		}
	}
	if line != "" {
		lines = append(lines, line)
	}
	return lines
}

// parts gives the words of a text, with each command in it as one.
func parts(s string) []string {
	out, command := []string{}, false
	for w := range strings.SplitSeq(s, " ") {
		if command && !strings.HasPrefix(w, "(") {
			out[len(out)-1] += " " + w
		} else {
			out = append(out, w)
			bare := strings.TrimLeft(w, `("`)
			command = bare == "nereid" || bare == "nereid-headnode"
		}
		command = command && strings.TrimRight(w, `.,;:)"`) == w
	}
	return out
}

// widest is the width of the widest part of a text, below which wrap breaks it.
func widest(s string) int {
	n := 0
	for _, p := range parts(s) {
		n = max(n, runes(p))
	}
	return n
}

// pack joins items into lines of at most width characters.
func pack(items []string, width int) []string {
	lines := []string{}
	for _, it := range items {
		if n := len(lines); n > 0 && runes(lines[n-1])+2+runes(it) <= width {
			lines[n-1] += "  " + it
			continue
		}
		lines = append(lines, wrap(it, width)...)
	}
	return slices.Clip(lines)
}
