package network

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"nereid/api"
)

// A spec without a NIC does not remove it, nor what it is connected by; only one that
// names it as gone does.
func TestAbsenceRemovesNoNIC(t *testing.T) {
	for name, spec := range specs() {
		if len(spec.Ports) == 0 {
			continue
		}
		t.Run(name, func(t *testing.T) {
			f := server()
			f.mustApply(t, spec)
			wires := func() (all []string) {
				for _, l := range f.state.Links {
					if l.class() == classPort {
						all = append(all, f.wire(l))
					}
				}
				slices.Sort(all)
				return all
			}
			before := wires()
			n := f.mustApply(t, api.NetworkSpec{}) // of an agent that lost what it knew
			if d := cmp.Diff(before, wires()); d != "" {
				t.Errorf("an empty spec changed how NICs are connected:\n%s", d)
			}
			r, err := n.Report(t.Context())
			if err != nil || len(r.Unexpected) != len(spec.Ports) {
				t.Errorf("report: %v, unexpected %+v, want %d", err, r.Unexpected, len(spec.Ports))
			}

			// One of them is gone, the others stay. A NIC of another instance stays too.
			first := spec.Ports[0]
			other := api.GoneNIC{ID: "other", MAC: spec.Ports[1].MAC, Instance: "of long ago"}
			n = f.mustApply(t, api.NetworkSpec{Gone: []api.GoneNIC{{ID: "first", MAC: strings.ToUpper(first.MAC), Instance: first.Instance}, other}})
			if f.state.Links[PortDevice(first.MAC)] != nil || len(wires()) != len(before)-1 {
				t.Errorf("after one is gone: %v", wires())
			}
			if r, err = n.Report(t.Context()); err != nil || len(r.Unexpected) != len(before)-1 || !slices.Equal(r.Gone, []string{"first", "other"}) {
				t.Errorf("report: %v, unexpected %+v, gone %v", err, r.Unexpected, r.Gone)
			}
		})
	}
}

// wire is a port and all that it is connected by, up to the NICs.
func (f *fake) wire(port *Link) string {
	var lines []string
	var walk func(l *Link)
	walk = func(l *Link) {
		if l == nil || slices.ContainsFunc(lines, func(s string) bool { return strings.HasPrefix(s, l.Name+" ") }) {
			return
		}
		line := l.Name + " in " + l.Master + " on " + l.Parent
		if l.Up {
			line += " up"
		}
		lines = append(lines, line)
		walk(f.state.Links[l.Master])
		walk(f.state.Links[l.Parent])
		if l.class() == classTag || l.class() == classBridge || l.class() == classBond {
			for _, p := range f.state.ports(l.Name) {
				if p.class() != classPort {
					walk(p)
				}
			}
		}
	}
	walk(port)
	return strings.Join(lines, ", ")
}

// What could not be removed is not said to be gone.
func TestGoneOnlyWhenItIs(t *testing.T) {
	f := server()
	spec := specs()["plain"]
	n := f.mustApply(t, spec)
	gone := api.GoneNIC{ID: "x", MAC: spec.Ports[0].MAC, Instance: spec.Ports[0].Instance}
	spec.Ports, spec.Gone = spec.Ports[1:], []api.GoneNIC{gone}
	f.refuse = func(s Step) error {
		if _, is := s.(Disconnect); is {
			return errors.New("busy")
		}
		return nil
	}
	if err := n.Apply(t.Context(), spec); err == nil {
		t.Error("no problem")
	}
	if r, err := n.Report(t.Context()); err != nil || len(r.Gone) > 0 || len(r.Unexpected) > 0 {
		t.Errorf("report: %v, gone %v, unexpected %v", err, r.Gone, r.Unexpected)
	}
	f.refuse = nil
	if err := n.Apply(t.Context(), spec); err != nil {
		t.Error(err)
	}
	if r, err := n.Report(t.Context()); err != nil || !slices.Equal(r.Gone, []string{"x"}) {
		t.Errorf("report: %v, gone %v", err, r.Gone)
	}
}
