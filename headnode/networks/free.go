package networks

import (
	"errors"
	"fmt"
	"net/netip"

	"nereid/headnode/store"
)

// span is a run of free addresses, both ends included.
type span struct{ first, last netip.Addr }

// spans ranges over the free spans of a network whose last address is at or behind
// from (not valid: all), in order, until fn says false. fn may write.
func spans(tx store.Tx, network string, from netip.Addr, fn func(span) (bool, error)) error {
	prefix, after := freePrefix+network+"/", ""
	if from.IsValid() {
		if p := from.Prev(); p.IsValid() {
			after = freeKey(network, p)
		}
	}
	for it, err := range tx.Scan(prefix, after) {
		if err != nil {
			return err
		}
		var s span
		if s.last, err = addrOf(it.Key[len(prefix):]); err != nil {
			return err
		}
		if s.first, err = addrOf(string(it.Value)); err != nil {
			return fmt.Errorf("read %q: %w", it.Key, err)
		}
		if more, err := fn(s); err != nil || !more {
			return err
		}
	}
	return nil
}

func putSpan(tx store.Tx, network string, s span) error {
	return tx.Put(freeKey(network, s.last), []byte(hexOf(s.first)))
}

// cutFree takes the addresses first to last out of the free spans, as far as they
// are in them.
func cutFree(tx store.Tx, network string, first, last netip.Addr) error {
	return spans(tx, network, first, func(s span) (bool, error) {
		if last.Less(s.first) {
			return false, nil
		}
		if last.Less(s.last) {
			if err := putSpan(tx, network, span{last.Next(), s.last}); err != nil {
				return false, err
			}
		} else if err := tx.Delete(freeKey(network, s.last)); err != nil {
			return false, err
		}
		if s.first.Less(first) {
			return true, putSpan(tx, network, span{s.first, first.Prev()})
		}
		return true, nil
	})
}

// joinFree adds a span, none of whose addresses is in a free span, and joins it
// with its neighbours.
func joinFree(tx store.Tx, network string, s span) error {
	if before := s.first.Prev(); before.IsValid() {
		left, found, err := leftOf(tx, network, before)
		if err != nil {
			return err
		}
		if found {
			if err := tx.Delete(freeKey(network, before)); err != nil {
				return err
			}
			s.first = left
		}
	}
	if behind := s.last.Next(); behind.IsValid() {
		err := spans(tx, network, behind, func(right span) (bool, error) {
			if right.first == behind {
				s.last = right.last
			}
			return false, nil
		})
		if err != nil {
			return err
		}
	}
	return putSpan(tx, network, s)
}

// leftOf gives the first address of the span that ends with last.
func leftOf(tx store.Tx, network string, last netip.Addr) (netip.Addr, bool, error) {
	b, err := tx.Get(freeKey(network, last))
	if errors.Is(err, store.ErrNotFound) {
		return netip.Addr{}, false, nil
	}
	if err != nil {
		return netip.Addr{}, false, err
	}
	a, err := addrOf(string(b))
	return a, true, err
}

// addFree adds the addresses first to last that have no record and are not held to
// the free spans. None of them is in one now. It reads every record among them.
func addFree(tx store.Tx, n network, first, last netip.Addr) error {
	from := first // lowest address not looked at; not valid: none is left
	upTo := func(end netip.Addr) error {
		if !from.IsValid() || end.Less(from) {
			return nil
		}
		return joinUnheld(tx, n, span{from, end})
	}
	prefix, after := ipPrefix+n.UUID+"/", ""
	if p := first.Prev(); p.IsValid() {
		after = ipKey(n.UUID, p)
	}
	for it, err := range tx.Scan(prefix, after) {
		if err != nil {
			return err
		}
		a, err := addrOf(it.Key[len(prefix):])
		if err != nil {
			return err
		}
		if last.Less(a) {
			break
		}
		if p := a.Prev(); p.IsValid() {
			if err := upTo(p); err != nil {
				return err
			}
		}
		from = a.Next()
	}
	return upTo(last)
}

// joinUnheld adds a span without the addresses the network holds.
func joinUnheld(tx store.Tx, n network, s span) error {
	held := make([]netip.Addr, 0, len(n.held))
	for _, h := range n.held {
		if between(s.first, h, s.last) {
			held = append(held, h)
		}
	}
	for _, part := range without(s, held) {
		if err := joinFree(tx, n.UUID, part); err != nil {
			return err
		}
	}
	return nil
}

// without is a span in the parts that are left when addresses of it are taken out.
func without(s span, out []netip.Addr) []span {
	parts := []span{s}
	for _, a := range out {
		var next []span
		for _, p := range parts {
			if !between(p.first, a, p.last) {
				next = append(next, p)
				continue
			}
			if p.first.Less(a) {
				next = append(next, span{p.first, a.Prev()})
			}
			if a.Less(p.last) {
				next = append(next, span{a.Next(), p.last})
			}
		}
		parts = next
	}
	return parts
}
