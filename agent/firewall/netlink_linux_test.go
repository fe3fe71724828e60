package firewall

import (
	"bytes"
	"maps"
	"slices"
	"testing"
)

// FuzzDecode reads what the kernel sends: it may not be trusted to be well formed,
// and what was encoded must come out again.
func FuzzDecode(f *testing.F) {
	w := office()
	s, err := parseInput(w.ports, w.fw, officeOptions)
	if err != nil {
		f.Fatal(err)
	}
	r, err := build(s, newNumbers(1), nil, true)
	if err != nil {
		f.Fatal(err)
	}
	for _, set := range r.sets {
		for _, k := range sortedKeys(r.elements[set.name]) {
			for _, e := range set.expand(k, r.elements[set.name][k]) {
				f.Add([]byte(set.encodeElement(nil, e)))
			}
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, a := range parseAttributes(b) {
			for _, set := range r.sets {
				list := []kernelElement{set.decodeElement(a.data)}
				for k, e := range set.collect(list) {
					if text := set.formatElement(k, e); len(text) > 8*len(b)+200 {
						t.Errorf("%d bytes of text for %d", len(text), len(b))
					}
				}
			}
		}
	})
}

// TestElementsRoundTrip: what is sent to the kernel reads back as what it was.
func TestElementsRoundTrip(t *testing.T) {
	w := office()
	w.fw.Sets[1].Members = append(w.fw.Sets[1].Members, "0.0.0.0/1", "255.255.255.0/24", "ffff::/16", "::/3")
	s, err := parseInput(w.ports, w.fw, officeOptions)
	if err != nil {
		t.Fatal(err)
	}
	r, err := build(s, newNumbers(1), nil, true)
	if err != nil {
		t.Fatal(err)
	}
	for _, set := range r.sets {
		var list []kernelElement
		for k, e := range r.elements[set.name] {
			for _, x := range set.expand(k, e) {
				b := set.encodeElement(nil, x)
				list = append(list, set.decodeElement(parseAttributes(b)[0].data))
			}
		}
		if got := set.collect(list); !maps.Equal(got, r.elements[set.name]) {
			t.Errorf("set %s: %v, want %v", set.name, got, r.elements[set.name])
		}
	}
}

func TestAttributes(t *testing.T) {
	a := attributes(nil).text(1, "abc").u32(2, 7).nest(3, func(a attributes) attributes { return a.raw(4, 1, 2, 3) })
	if len(a)%4 != 0 {
		t.Errorf("%d bytes", len(a))
	}
	list := parseAttributes(a)
	if len(list) != 3 || list[0].text() != "abc" || !bytes.Equal(list[1].data, []byte{0, 0, 0, 7}) || list[2].kind != 3 {
		t.Fatalf("%v", list)
	}
	if inner := parseAttributes(list[2].data); len(inner) != 1 || !bytes.Equal(inner[0].data, []byte{1, 2, 3}) {
		t.Errorf("%v", inner)
	}
	for i := range a {
		got := parseAttributes(a[:i])
		if len(got) > 3 || slices.ContainsFunc(got, func(x attribute) bool { return len(x.data) > len(a) }) {
			t.Errorf("of %d bytes: %v", i, got)
		}
	}
}
