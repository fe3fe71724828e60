package machine

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
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

// TestWayGoesOn: a way that was kept goes on with the agent that starts, also in the
// middle of a step, and although the head node knows that the dataset is there.
func TestWayGoesOn(t *testing.T) {
	zero := time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC)
	at := func(s float64) time.Time { return zero.Add(time.Duration(s * float64(time.Second))) }
	dir := filepath.Join(t.TempDir(), "a")
	in := Wanted{Spec: specOf("a")}
	var w way
	again := func(s float64) {
		t.Helper()
		if err := w.keep(dir); err != nil {
			t.Fatal(err)
		}
		w = readWay(dir, at(s))
	}
	w.wait(in, "image", at(0))
	again(1)
	w.wait(in, "", at(2))
	w.begins(in, stepClone{}, at(2))
	again(3)
	w.did(in, stepClone{}, at(3), time.Time{}, at(4), nil)
	made := specOf("a")
	made.Made = true
	in.Spec = made
	w.did(in, stepKeep{}, at(4), time.Time{}, at(5), nil)
	w.wait(in, "NIC", at(5))
	w.wait(in, "", at(6))
	w.begins(in, stepStart{}, at(6))
	again(9)
	w.started(at(7), at(8))
	var got []string
	for _, s := range w.end() {
		got = append(got, strings.TrimSpace(fmt.Sprintf("%s %g-%g %s", s.Name, s.Start.Sub(zero).Seconds(), s.End().Sub(zero).Seconds(), s.Fault)))
	}
	want := "fetch image 0-2\nclone 2-3 " + sentence(errAgentEnded) + "\nclone 3-4\nkeep spec 4-5\nwait for NICs 5-6\nstart unit 6-7\nstart zone 7-8"
	if text := strings.Join(got, "\n"); text != want {
		t.Errorf("told\n%s\nwant\n%s", text, want)
	}
	if err := os.WriteFile(filepath.Join(dir, wayFile), []byte(`{"steps":[{`), 0o600); err != nil {
		t.Fatal(err)
	}
	if w := readWay(dir, at(9)); w.begun() {
		t.Errorf("of a file that was cut is read %+v", w)
	}
	for range 2 {
		if err := forgetWay(dir); err != nil {
			t.Error(err)
		}
	}
	if _, err := os.Stat(dir); err == nil {
		t.Error("its folder is left")
	}
}

// TestWayIsToldByAnother: an agent that starts tells of a create that the one before it
// began, until somebody keeps that.
func TestWayIsToldByAnother(t *testing.T) {
	s := newServer(t)
	w := Wanted{Spec: specOf("a")}
	told := func() string {
		t.Helper()
		st, _, err := s.m.Set(t.Context(), "a", w)
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, step := range st.Steps {
			names = append(names, step.Name)
		}
		return strings.Join(names, ", ")
	}
	s.m.Ready = func(string) bool { return false }
	if got := told(); got != "" {
		t.Errorf("before it is there: %s", got)
	}
	for range 2 {
		s.restart()
		if got := told(); got != "clone, keep spec, wait for NICs, start unit" {
			t.Errorf("told %s", got)
		}
	}
	s.m.Told("a")
	s.restart()
	if got := told(); got != "" {
		t.Errorf("told again: %s", got)
	}
}
