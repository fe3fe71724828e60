package pathmtu

import (
	"errors"
	"math/rand/v2"
	"net/netip"
	"os"
	"testing"
	"testing/synctest"
	"time"
)

// wire carries packets of up to mtu bytes; of these it loses some, first.
type wire struct {
	mtu, lose int
	queue     []uint16
	sent      int
	fault     error
}

func (w *wire) send(size int, seq uint16) error {
	w.sent++
	if size > w.mtu {
		return w.fault
	}
	if w.lose > 0 {
		w.lose--
		return w.fault
	}
	w.queue = append(w.queue, seq)
	return w.fault
}

func (w *wire) receive(until time.Time) (uint16, error) {
	if len(w.queue) == 0 {
		time.Sleep(time.Until(until))
		return 0, os.ErrDeadlineExceeded
	}
	seq := w.queue[0]
	w.queue = w.queue[1:]
	return seq, nil
}

func (w *wire) Close() error { return nil }

func TestMeasure(t *testing.T) {
	for _, c := range []struct{ mtu, lose, want int }{
		{9000, 0, 9000}, {8999, 0, 8999}, {1500, 0, 1500}, {1500, 2, 1500}, {68, 0, 68}, {69, 0, 69}, {67, 0, 0}, {4000, 1, 4000},
	} {
		synctest.Test(t, func(t *testing.T) {
			w := &wire{mtu: c.mtu, lose: c.lose}
			m := measurer{s: w}
			start := time.Now()
			got, err := m.measure(t.Context(), leastIP4, 9000)
			if err != nil || got != c.want {
				t.Errorf("MTU %d, %d lost: got %d, %v; want %d", c.mtu, c.lose, got, err, c.want)
			}
			if d := time.Since(start); d > 3*time.Second || w.sent > 4*2*width {
				t.Errorf("MTU %d: took %v and %d packets", c.mtu, d, w.sent)
			}
		})
	}
}

// TestMeasureEvery: any MTU is found exactly.
func TestMeasureEvery(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for range 500 {
			want := leastIP4 + rand.IntN(9000-leastIP4+1)
			m := measurer{s: &wire{mtu: want}}
			if got, err := m.measure(t.Context(), leastIP4, 9000); err != nil || got != want {
				t.Fatalf("MTU %d: %d, %v", want, got, err)
			}
		}
	})
}

func TestMeasureFaults(t *testing.T) {
	fault := errors.New("network is unreachable")
	m := measurer{s: &wire{mtu: 9000, fault: fault}}
	if _, err := m.measure(t.Context(), leastIP4, 9000); !errors.Is(err, fault) {
		t.Errorf("got %v", err)
	}
	four, six := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")
	for _, c := range []struct {
		from, to netip.Addr
		want     int
	}{{four, six, 1500}, {four, four, 20}, {six, six, 1000}, {four, four, 100000}, {netip.Addr{}, four, 1500}} {
		if _, err := Measure(t.Context(), c.from, c.to, c.want); err == nil {
			t.Errorf("from %v to %v, %d bytes: no error", c.from, c.to, c.want)
		}
	}
}
