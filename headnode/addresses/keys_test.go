package addresses

import (
	"fmt"
	"net/netip"
	"path/filepath"
	"testing"
	"time"

	"nereid/headnode/store"
)

func FuzzKeys(f *testing.F) {
	f.Add(ipPrefix+"0a000064", uint32(1), int64(1))
	f.Add(expiryPrefix+"0000000065000000/0a000064", uint32(0xffffffff), int64(1<<40))
	f.Fuzz(func(t *testing.T, key string, n uint32, s int64) {
		parseIPKey(key)     // no panic
		parseExpiryKey(key) // no panic
		a := address(uint64(n))
		if got, err := parseIPKey(ipKey(a)); err != nil || got != a {
			t.Errorf("%v became %v, %v", a, got, err)
		}
		at := time.Unix(max(0, s), 0)
		if when, got, err := parseExpiryKey(expiryKey(at, a)); err != nil || got != a || !when.Equal(at) {
			t.Errorf("%v %v became %v %v, %v", at, a, when, got, err)
		}
	})
}

// BenchmarkOfferLargeRange is a newcomer's DISCOVER with 60,000 leases of a /16.
func BenchmarkOfferLargeRange(b *testing.B) {
	s, err := store.OpenBolt(b.Context(), filepath.Join(b.TempDir(), "db"), store.BoltOptions{})
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	w := &world{}
	n := Network{Registry: claims{w}, Static: claims{w}, Own: netip.MustParsePrefix("10.0.0.1/16"), First: netip.MustParseAddr("10.0.1.0"), Last: netip.MustParseAddr("10.0.255.254"), Lease: time.Hour}
	w.n = n
	const leases = 60000
	for at := 0; at < leases; at += 5000 {
		err := s.Update(b.Context(), func(tx store.Tx) error {
			for i := at; i < at+5000; i++ {
				m := fmt.Sprintf("02:00:00:%02x:%02x:%02x", i>>16, i>>8&255, i&255)
				if _, err := Commit(tx, n, m, address(number(n.First)+uint64(i)), "", t0); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			b.Fatal(err)
		}
	}
	o := NewOffers(0)
	for name, m := range map[string]string{"newcomer": "", "known": "02:00:00:00:11:11"} {
		b.Run(name, func(b *testing.B) {
			for i := range b.N {
				err := s.View(b.Context(), func(tx store.Tx) error {
					m := m
					if m == "" {
						m = fmt.Sprintf("06:00:00:00:%02x:%02x", i>>8&255, i&255)
					}
					_, err := o.Offer(tx, n, m, netip.Addr{}, t0)
					return err
				})
				if err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// claims is a Registry that keeps who has which address below "claim/".
type claims struct{ w *world }

type claim struct {
	MAC, Server string
	Freed       int64
	Other       bool // not a lease
}

func claimKey(a netip.Addr) string { return "claim/" + a.String() }

func (c claims) Next(tx store.Tx, skip func(netip.Addr) bool) (out netip.Addr, since time.Time, found bool, err error) {
	n, oldest := c.w.n, int64(0)
	for i := number(n.First); i <= number(n.Last); i++ {
		a := address(i)
		if !n.inRange(a) || skip(a) {
			continue
		}
		v, has, err := store.Lookup[claim](tx, claimKey(a))
		switch {
		case err != nil:
			return out, since, false, err
		case !has:
			return a, time.Time{}, true, nil
		case v.Freed != 0 && (!found || v.Freed < oldest):
			out, since, oldest, found = a, time.Unix(0, v.Freed), v.Freed, true
		}
	}
	return out, since, found, nil
}

func (c claims) Free(tx store.Tx, a netip.Addr) (bool, error) {
	v, has, err := store.Lookup[claim](tx, claimKey(a))
	return !has || v.Freed != 0, err
}

func (c claims) Take(tx store.Tx, a netip.Addr, mac, server string) error {
	if v, has, err := store.Lookup[claim](tx, claimKey(a)); err != nil || has && v.Other {
		return fmt.Errorf("%v was another's: %v", a, err)
	}
	return store.Put(tx, claimKey(a), claim{MAC: mac, Server: server})
}

func (c claims) Give(tx store.Tx, a netip.Addr, now time.Time) error {
	if v, has, err := store.Lookup[claim](tx, claimKey(a)); err != nil || !has || v.Freed != 0 {
		return fmt.Errorf("%v is given back and was not taken: %v", a, err)
	} else if v.Other {
		return nil
	}
	return store.Put(tx, claimKey(a), claim{Freed: now.UnixNano()})
}

func (c claims) Others(tx store.Tx) (n int, err error) {
	for e, err := range store.Each[claim](tx, "claim/") {
		if err != nil {
			return 0, err
		}
		if e.Value.Other {
			n++
		}
	}
	return n, nil
}

func (c claims) NIC(tx store.Tx, mac string) (netip.Addr, bool, error) {
	return store.Lookup[netip.Addr](tx, "nic/"+mac)
}
