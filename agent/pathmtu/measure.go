package pathmtu

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"time"
)

// Limits of a measurement.
const (
	width    = 32                     // sizes that are tried at once
	wait     = 400 * time.Millisecond // for the answers of a round
	again    = wait / 2               // then what was not answered is sent once more
	leastIP4 = 68                     // RFC 791: what every link carries
	leastIP6 = 1280                   // RFC 8200, section 5
	most     = 65535
)

// socket sends echo requests and hears their answers.
type socket interface {
	// send sends a packet of size bytes, the IP header included. One that the own
	// link does not take is lost, and no error.
	send(size int, seq uint16) error
	// receive waits for an answer to any; os.ErrDeadlineExceeded when there is none.
	receive(until time.Time) (seq uint16, err error)
	Close() error
}

// Measure gives the size of the largest IP packet, with its header, of up to want
// bytes that gets from an address of this system to another and back; 0 when no
// packet does. It takes less than 3 s. Errors: there is no way from or to there, or
// errors.ErrUnsupported.
func Measure(ctx context.Context, from, to netip.Addr, want int) (int, error) {
	least := leastIP4
	if to.Is6() {
		least = leastIP6
	}
	if from.Is4() != to.Is4() || want < least || want > most {
		return 0, fmt.Errorf("measure MTU from %s to %s: want two addresses of a family, and a size of %d to %d bytes, not %d", from, to, least, most, want)
	}
	s, err := open(ctx, from, to)
	if err != nil {
		return 0, fmt.Errorf("measure MTU from %s to %s: %w", from, to, err)
	}
	defer s.Close()
	m := measurer{s: s}
	size, err := m.measure(ctx, least, want)
	if err != nil {
		return 0, fmt.Errorf("measure MTU from %s to %s: %w", from, to, err)
	}
	return size, nil
}

type measurer struct {
	s   socket
	seq uint16
}

func (m *measurer) measure(ctx context.Context, least, want int) (int, error) {
	good := 0
	for try := 0; good == 0; try++ {
		var err error
		if good, err = m.round(ctx, []int{least, want}); err != nil || good == want || try == 2 {
			return good, err
		}
	}
	for bad := want; bad-good > 1; {
		sizes := between(good, bad)
		best, err := m.round(ctx, sizes)
		if err != nil {
			return 0, err
		}
		if i := slices.IndexFunc(sizes, func(n int) bool { return n > best }); i >= 0 {
			bad = sizes[i]
		}
		good = max(good, best)
	}
	return good, nil
}

// between are sizes between two others, both exclusive, evenly spread, smallest
// first.
func between(good, bad int) []int {
	n := min(width, bad-good-1)
	sizes := make([]int, n)
	for i := range sizes {
		sizes[i] = good + (bad-good)*(i+1)/(n+1)
	}
	return sizes
}

// round sends packets of these sizes and gives the largest one that was answered; 0
// when none was.
func (m *measurer) round(ctx context.Context, sizes []int) (int, error) {
	start := time.Now()
	size := map[uint16]int{}
	answered := map[int]bool{}
	for _, until := range []time.Time{start.Add(again), start.Add(wait)} {
		for _, n := range sizes {
			if answered[n] {
				continue
			}
			m.seq++
			size[m.seq] = n
			if err := m.s.send(n, m.seq); err != nil {
				return 0, err
			}
		}
		for len(answered) < len(sizes) {
			if err := ctx.Err(); err != nil {
				return 0, err
			}
			seq, err := m.s.receive(until)
			if errors.Is(err, os.ErrDeadlineExceeded) {
				break
			}
			if err != nil {
				return 0, err
			}
			if n := size[seq]; n > 0 {
				answered[n] = true
			}
		}
	}
	best := 0
	for n := range answered {
		best = max(best, n)
	}
	return best, nil
}
