package router

import (
	"context"
	"fmt"
	"maps"
	"strings"
)

// fakeWorld is a kernel that keeps what it is told, refuses what a kernel would,
// and prints itself.
type fakeWorld struct{ *state }

func newFake(bridges ...string) *fakeWorld {
	w := &fakeWorld{&state{Items: map[key]item{}, Bridges: map[string]int{}, Names: map[string]string{}, Foreign: map[string]string{}}}
	for _, b := range bridges {
		w.Bridges[b], w.Names[b] = 1400, b
	}
	return w
}

func (w *fakeWorld) clone() *fakeWorld {
	return &fakeWorld{&state{maps.Clone(w.Items), maps.Clone(w.Bridges), maps.Clone(w.Names), maps.Clone(w.Foreign)}}
}

// Read implements world.
func (w *fakeWorld) Read(context.Context) (*state, error) { return w.clone().state, nil }

// has reports whether an interface is there.
func (w *fakeWorld) has(at, link string) bool {
	if link == "lo" {
		return true
	}
	if at == "" && w.Bridges[link] != 0 {
		return true
	}
	for k, i := range w.Items {
		if v, ok := i.Value.(veth); ok && (k.At == at && k.Link == link || v.Space == at && v.Inner == link) {
			return true
		}
	}
	return false
}

// drop removes what is on an interface.
func (w *fakeWorld) drop(at, link string) {
	maps.DeleteFunc(w.Items, func(k key, i item) bool {
		h, isRoute := i.Value.(hop)
		return k.At == at && (k.Link == link && k.Kind != kindSysctl || isRoute && h.Dev == link)
	})
}

// Do implements world.
func (w *fakeWorld) Do(_ context.Context, s step, rules map[string]string) error {
	have, there := w.Items[s.key]
	if _, space := w.Items[key{Kind: kindSpace, At: s.At}]; s.At != "" && s.Kind != kindSpace && !space {
		if s.op == opRemove {
			return nil
		}
		return fmt.Errorf("namespace %s is not there", s.At)
	}
	if s.op == opRemove {
		delete(w.Items, s.key)
		switch v, isPair := have.Value.(veth); {
		case isPair:
			w.drop(s.At, s.Link)
			w.drop(v.Space, v.Inner)
		case s.Kind == kindSpace:
			for k, i := range maps.Clone(w.Items) {
				if v, ok := i.Value.(veth); ok && v.Space == s.At {
					delete(w.Items, k)
					w.drop(k.At, k.Link)
				}
			}
			maps.DeleteFunc(w.Items, func(k key, _ item) bool { return k.At == s.At })
		}
		return nil
	}
	if there && s.op == opAdd {
		return fmt.Errorf("%v is there", s.key)
	}
	link := s.Link
	if h, ok := s.Value.(hop); ok {
		link = h.Dev
		if _, up := w.Items[key{Kind: kindUp, At: s.At, Link: link}]; !up {
			return fmt.Errorf("%s is down", link)
		}
	}
	switch s.Kind {
	case kindVeth:
		v := s.Value.(veth)
		if w.has(s.At, s.Link) || w.has(v.Space, v.Inner) {
			return fmt.Errorf("an end of %v is there", v)
		}
		if _, space := w.Items[key{Kind: kindSpace, At: v.Space}]; !space {
			return fmt.Errorf("namespace %s is not there", v.Space)
		}
		// One end may be left of a pair whose other end is gone with a namespace.
		w.drop(s.At, s.Link)
		w.drop(v.Space, v.Inner)
	case kindRules:
		if !strings.HasPrefix(rules[s.Value.(string)], "table inet nereid {") {
			return fmt.Errorf("no text of rules %v", s.Value)
		}
	case kindSpace, kindSysctl, kindPolicy, kindRule:
	case kindPort:
		if b := s.Value.(port).Bridge; w.Bridges[b] == 0 {
			return fmt.Errorf("no bridge %s", b)
		}
		fallthrough
	default:
		if !w.has(s.At, link) {
			return fmt.Errorf("no interface %s in %q", link, s.At)
		}
		if _, ruled := w.Items[key{Kind: kindRules, At: s.At}]; s.Kind == kindUp && s.At != "" && !ruled {
			return fmt.Errorf("%s is up before there are rules", link)
		}
	}
	w.Items[s.key] = s.item
	return nil
}
