package machine

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"nereid/api"
)

// TestWay: where the time of a create went is told once; a try that failed is a step too,
// and what happens later is none.
func TestWay(t *testing.T) {
	zero := time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC)
	at := func(s float64) time.Time { return zero.Add(time.Duration(s * float64(time.Second))) }
	said := func(steps []api.InstanceStep) string {
		var out []string
		for _, s := range steps {
			line := fmt.Sprintf("%s %g-%g", s.Name, s.Start.Sub(zero).Seconds(), s.End().Sub(zero).Seconds())
			if s.Fault != "" {
				line += " (" + s.Fault + ")"
			}
			out = append(out, line)
		}
		return strings.Join(out, ", ")
	}
	made := specOf("a")
	made.Made = true
	for _, tt := range []struct {
		what string
		do   func(*way, Wanted)
		want string
	}{
		{"all of it", func(w *way, in Wanted) {
			w.wait(in, "image", at(0))
			w.did(in, stepImage{"i1"}, at(0), time.Time{}, at(0), nil)
			w.wait(in, "image", at(1)) // looked at again
			w.wait(in, "", at(4))
			w.did(in, stepClone{"i1", 1}, at(4), time.Time{}, at(5), nil)
			w.did(in, stepKeep{}, at(5), time.Time{}, at(5.5), nil)
			w.wait(in, "NIC", at(5.5))
			w.wait(in, "", at(6))
			w.did(in, stepFiles{true}, at(6), time.Time{}, at(6), nil)
			w.did(in, stepStart{}, at(6), at(7), at(8), nil)
			w.wait(in, "", at(8))
		}, "fetch image 0-4, clone 4-5, keep spec 5-5.5, wait for NICs 5.5-6, start unit 6-7, start zone 7-8"},
		{"a start that failed before the zone", func(w *way, in Wanted) {
			w.did(in, stepStart{}, at(1), time.Time{}, at(2), errors.New("no NIC"))
			w.did(in, stepStart{}, at(3), at(4), at(5), nil)
		}, "start unit 1-2 (No NIC.), start unit 3-4, start zone 4-5"},
		{"one that exists", func(w *way, _ Wanted) { w.did(Wanted{Spec: made}, stepStart{}, at(1), at(2), at(3), nil) }, ""},
		{"a deletion", func(w *way, _ Wanted) { w.wait(Wanted{Gone: true}, "end", at(1)) }, ""},
	} {
		var w way
		tt.do(&w, Wanted{Spec: specOf("a")})
		if got := said(w.end()); got != tt.want {
			t.Errorf("%s:\n got %s\nwant %s", tt.what, got, tt.want)
		}
		w.did(Wanted{Spec: specOf("a")}, stepStart{}, at(9), at(9), at(9), nil)
		if got := said(w.end()); got != "" {
			t.Errorf("%s: told again: %s", tt.what, got)
		}
	}
	var w way
	for n := range 100 {
		w.did(Wanted{Spec: specOf("a")}, stepClone{}, at(float64(n)), time.Time{}, at(float64(n)), errors.New("no space"))
	}
	if got := w.end(); len(got) != maxWay || got[0].Start != at(100-maxWay) {
		t.Errorf("of 100 failures %d are kept, from %v on", len(got), got[0].Start)
	}
}

// TestWayIsTold: the first status of an instance that is as it was asked for has the
// steps of its create, and no other has.
func TestWayIsTold(t *testing.T) {
	s := newServer(t)
	w := Wanted{Spec: specOf("a")}
	var got []string
	for range 3 {
		st, _, err := s.m.Set(t.Context(), "a", w)
		if err != nil {
			t.Fatal(err)
		}
		for _, step := range st.Steps {
			got = append(got, step.Name)
		}
	}
	if names := strings.Join(got, ", "); names != "clone, keep spec, start unit" {
		t.Errorf("told %s", names)
	}
}
