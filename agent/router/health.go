package router

import "time"

// When a gateway server is down, and when it is good again. A death right after
// an answer is seen at the fourth probe after it: 2 s.
const (
	probeEvery  = 500 * time.Millisecond
	missesDown  = 3
	minHold     = 5 * time.Second
	maxHold     = 2 * time.Minute
	steadyAfter = time.Minute
)

// health is what is known of the gateway servers of one router, best first, and
// which is in use. It decides and does nothing.
type health struct {
	via    []viaHealth
	active int
}

type viaHealth struct {
	up     bool
	since  time.Time // up or down
	asked  bool      // the last probe is not answered
	missed int
	hold   time.Duration // how long it must be up before it takes over from a worse one
}

// newHealth begins with the one that the route leads to, which is believed to be
// up; the others must answer first.
func newHealth(n, active int, now time.Time) *health {
	h := &health{via: make([]viaHealth, n), active: active}
	for i := range h.via {
		h.via[i] = viaHealth{since: now, hold: minHold}
	}
	h.via[active].up, h.via[active].since = true, time.Time{} // as far as is known, for long
	return h
}

// probed notes that all are being asked, and that those not answered since the
// last time missed one.
func (h *health) probed(now time.Time) {
	for i := range h.via {
		v := &h.via[i]
		if v.asked {
			v.missed++
		}
		v.asked = true
		if v.up && v.missed >= missesDown {
			// One that comes and goes has to be good for longer each time.
			if now.Sub(v.since) < steadyAfter {
				v.hold = min(2*v.hold, maxHold)
			} else {
				v.hold = minHold
			}
			v.up, v.since = false, now
		}
	}
}

// answered notes an answer.
func (h *health) answered(i int, now time.Time) {
	v := &h.via[i]
	v.asked, v.missed = false, 0
	if !v.up {
		v.up, v.since = true, now
	}
}

// choose says which to use, and whether that is another than before. Without any
// that is up it stays.
func (h *health) choose(now time.Time) (int, bool) {
	old := h.active
	if !h.via[old].up {
		for i, v := range h.via {
			if v.up {
				h.active = i
				break
			}
		}
		return h.active, h.active != old
	}
	for i, v := range h.via[:old] {
		if v.up && now.Sub(v.since) >= v.hold {
			h.active = i
			return i, true
		}
	}
	return old, false
}
