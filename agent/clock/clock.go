package clock

import (
	"fmt"
	"sync"
	"time"
)

// Threshold is the difference above which the clock is stepped.
const Threshold = 2 * time.Second

// System is the clock that is set.
type System interface {
	Now() time.Time
	Step(by time.Duration) error
	Slew(by time.Duration) error
}

// Clock is a System and what is known of its error. The zero value reads the
// system's clock and sets it.
type Clock struct {
	System System // nil: the operating system's

	mu     sync.Mutex
	offset time.Duration // what could not be set, to be added
}

func (c *Clock) system() System {
	if c.System == nil {
		return OS{}
	}
	return c.System
}

// Now is the best known time, in UTC.
func (c *Clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.system().Now().Add(c.offset).UTC()
}

// Unset is the difference that the system refused to be set by, which Now adds;
// 0 when there is none.
func (c *Clock) Unset() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.offset
}

// Adjust brings the clock to t, a reading of this moment that is good to
// within the given error. It reports the difference there was and whether the
// clock was stepped. A difference within error or below Threshold is left alone,
// but for a precise reading (error below 100 ms), which is slewed to. When the
// system refuses to be set, Now is right and the error says why the system's
// clock is not.
func (c *Clock) Adjust(t time.Time, within time.Duration) (diff time.Duration, stepped bool, err error) {
	return c.Correct(t.Sub(c.system().Now()), within)
}

// Correct is Adjust for a known difference from the system's clock.
func (c *Clock) Correct(diff, within time.Duration) (_ time.Duration, stepped bool, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.system()
	if diff.Abs() <= max(Threshold, within) { // the system's clock is right
		c.offset = 0
		if within < 100*time.Millisecond && diff.Abs() > time.Millisecond {
			if err := s.Slew(diff); err != nil {
				return diff, false, fmt.Errorf("slew clock by %s: %w", diff, err)
			}
		}
		return diff, false, nil
	}
	if rest := diff - c.offset; rest.Abs() <= max(Threshold, within) {
		return rest, false, nil
	}
	if err := s.Step(diff); err != nil {
		c.offset = diff
		return diff, false, fmt.Errorf("step clock by %s: %w", diff.Round(time.Millisecond), err)
	}
	c.offset = 0
	return diff, true, nil
}
