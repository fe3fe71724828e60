package main

import (
	"fmt"
	"time"
)

// ago prints how long before now a time was, in its one or two largest units.
func (a *app) ago(t time.Time) string {
	return span(a.now().Sub(t)) + " ago"
}

// span prints a duration in its one or two largest units: 12s, 4m10s, 3h5m, 2d4h.
func span(d time.Duration) string {
	d = max(d, 0).Round(time.Second)
	day := 24 * time.Hour
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%ds", d/time.Second)
	case d < time.Hour:
		return two(d, time.Minute, "m", time.Second, "s")
	case d < day:
		return two(d, time.Hour, "h", time.Minute, "m")
	default:
		return two(d, day, "d", time.Hour, "h")
	}
}

func two(d, big time.Duration, b string, small time.Duration, s string) string {
	out := fmt.Sprintf("%d%s", d/big, b)
	if rest := d % big / small; rest > 0 {
		out += fmt.Sprintf("%d%s", rest, s)
	}
	return out
}

// stamp prints a point in time for people, in UTC.
func stamp(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05 UTC") }
