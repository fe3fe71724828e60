package api

import (
	"strconv"
	"strings"
)

// Plural counts things: "1 server", "2 addresses", "0 entries".
func Plural(n int, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return strconv.Itoa(n) + " " + Plurals(thing)
}

// Plurals names several of a thing by English's regular rules.
func Plurals(thing string) string {
	last := thing[max(0, len(thing)-1):]
	before := thing[max(0, len(thing)-2):max(0, len(thing)-1)]
	switch {
	case strings.HasSuffix(thing, "s"), strings.HasSuffix(thing, "x"), strings.HasSuffix(thing, "ch"), strings.HasSuffix(thing, "sh"):
		return thing + "es"
	case last == "y" && !strings.ContainsAny(before, "aeiou"):
		return thing[:len(thing)-1] + "ies"
	}
	return thing + "s"
}
