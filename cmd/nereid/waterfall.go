package main

import (
	"fmt"
	"math"
	"strings"
	"unicode/utf8"

	"nereid/api"
)

// eighths are the left parts of a block (U+2588 and following), by width.
const eighths = " ▏▎▍▌▋▊▉█"

// waterfall draws legs as bars below each other on one axis of seconds, at most
// width columns wide.
func waterfall(legs []api.BootLeg, width int, unicode bool) string {
	label, end := 0, 0.0
	for _, l := range legs {
		label = max(label, utf8.RuneCountInString(oneLine(l.Name)))
		end = math.Max(end, l.Start+l.Seconds)
	}
	label = min(label, 28)
	const value = 10 // "  123.45 s"
	room := min(max(width-2-label-2-value, 10), 160)
	if end <= 0 {
		end = 1
	}
	perCell := end / float64(room)

	var b strings.Builder
	fmt.Fprintf(&b, "  %-*s  %s\n", label, "", axis(end, perCell, room))
	for _, l := range legs {
		name := cut(oneLine(l.Name), label)
		pad := strings.Repeat(" ", label-utf8.RuneCountInString(name))
		bar := drawBar(l, perCell, room, unicode)
		fmt.Fprintf(&b, "  %s%s  %s%s%7.2f s\n", name, pad, bar, strings.Repeat(" ", room-utf8.RuneCountInString(bar)), l.Seconds)
	}
	return b.String()
}

// drawBar gives a bar from its leg's start, at least as wide as can be seen.
func drawBar(l api.BootLeg, perCell float64, room int, unicode bool) string {
	from := min(max(int(l.Start/perCell), 0), room-1)
	left := room - from
	if !unicode {
		n := min(max(int(math.Round(l.Seconds/perCell)), 1), left)
		return strings.Repeat(" ", from) + strings.Repeat("#", n)
	}
	parts := []rune(eighths)
	n := min(max(int(math.Round(l.Seconds/perCell*8)), 1), left*8)
	bar := strings.Repeat(string(parts[8]), n/8)
	if n%8 > 0 {
		bar += string(parts[n%8])
	}
	return strings.Repeat(" ", from) + bar
}

// axis labels round numbers of seconds above their columns.
func axis(end, perCell float64, room int) string {
	step := niceStep(end / math.Max(float64(room)/12, 1))
	var b strings.Builder
	for i := 0; ; i++ {
		t := float64(i) * step
		at := int(math.Round(t / perCell))
		label := fmt.Sprintf("%gs", math.Round(t*1000)/1000)
		if at+len(label) > room {
			return strings.TrimRight(b.String(), " ")
		}
		b.WriteString(strings.Repeat(" ", max(0, at-b.Len())) + label)
	}
}

// niceStep is the least of 1, 2, 5 times a power of ten that is not below s.
func niceStep(s float64) float64 {
	p := math.Pow(10, math.Floor(math.Log10(s)))
	for _, m := range []float64{1, 2, 5, 10} {
		if m*p >= s {
			return m * p
		}
	}
	return 10 * p
}
