package boots

import (
	"fmt"
	"time"

	"nereid/api"
)

// The rule for boot loops: so many boots in a row may fail before the next is
// held back, first for LoopDelay, then twice as long each time up to LoopDelayMax.
const (
	LoopFree     = 3
	LoopDelay    = 15 * time.Second
	LoopDelayMax = 10 * time.Minute

	// loopGap is a silence that ends a row: who tries again after it, say after a
	// repair, starts from nothing.
	loopGap = time.Hour
)

// Hold says whether a boot is held back as part of a boot loop.
type Hold struct {
	Held     bool
	Until    time.Time
	RetryIn  int    // whole seconds from now to Until, at least 1; 0 when not held
	Failures int    // boots in a row without a first sync before this one
	Reason   string // one sentence; empty without failures
}

// Loop decides whether the current boot is held back. earlier are the same
// machine's other boots, newest first (the current one among them is passed over).
// A boot failed when it was handed a platform and has no first sync. A boot that
// got its platform once is not held any more.
func Loop(current api.Boot, earlier []api.Boot, now time.Time) Hold {
	h := Hold{}
	var last api.Boot
	next := current.Started
	for _, b := range earlier {
		if b.ID == current.ID {
			continue
		}
		if b.Done != nil || next.Sub(lastEvent(b)) > loopGap {
			break
		}
		next = b.Started
		if b.Platform == "" {
			continue // refused, or never got as far
		}
		if h.Failures == 0 {
			last = b
		}
		h.Failures++
	}
	if h.Failures == 0 {
		return h
	}
	h.Reason = fmt.Sprintf("%s in a row did not reach a first sync; the last one got as far as %s", api.Plural(h.Failures, "boot"), furthest(last))
	if h.Failures < LoopFree || current.Platform != "" || current.Done != nil {
		return h
	}
	delay := LoopDelayMax
	if n := h.Failures - LoopFree; n < 10 {
		delay = min(delay, LoopDelay<<n)
	}
	h.Until = current.Started.Add(delay)
	if left := h.Until.Sub(now); left > 0 {
		h.Held = true
		h.RetryIn = int((left + time.Second - 1) / time.Second)
		h.Reason += fmt.Sprintf("; this one is held back for %v", delay)
	}
	return h
}

// furthest names the last stage of a boot, and what the machine said of a failure.
func furthest(b api.Boot) string {
	stage, said := api.BootStage("nothing"), ""
	for _, ev := range b.Events {
		switch ev.Stage {
		case api.StageFailed:
			said = ev.Detail
		case api.StageRefused:
		default:
			stage, said = ev.Stage, ""
		}
	}
	if said != "" {
		return fmt.Sprintf("%q and said: %s", stage, said)
	}
	return fmt.Sprintf("%q", stage)
}
