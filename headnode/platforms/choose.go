package platforms

import (
	"fmt"
	"slices"
	"time"

	"nereid/api"
)

// The trial of a platform on a server ends without a first sync after so many
// boots, or so long after the first of them.
const (
	MaxAttempts = 3
	TrialTime   = 10 * time.Minute
)

// State is what is known of a server's platforms. The zero value is a server
// nothing is known of.
type State struct {
	Assigned string    `json:"assigned,omitempty"` // empty: the default
	Running  string    `json:"running,omitempty"`  // of the last first sync
	Previous string    `json:"previous,omitempty"` // last that reached a first sync: known good
	Good     time.Time `json:"good,omitzero"`      // when it first did, before another one

	Choice string `json:"choice,omitempty"` // the operator's choice that Trial and Failed belong to
	Trial  Trial  `json:"trial,omitzero"`

	Failed string `json:"failed,omitempty"` // platform that failed its trial
	Why    string `json:"why,omitempty"`    // how it failed

	Booting   string    `json:"booting,omitempty"` // last one handed out
	BootingAt time.Time `json:"booting_at,omitzero"`
}

// Trial counts the boots of a platform that has not reached a first sync yet.
type Trial struct {
	Stamp    string    `json:"stamp,omitempty"`
	Attempts int       `json:"attempts,omitempty"`
	Since    time.Time `json:"since,omitzero"`  // first attempt
	Boots    []string  `json:"boots,omitempty"` // ids of the latest attempts
}

// Catalogue is what Choose has to know of the registered platforms.
type Catalogue struct {
	Default    string
	DefaultGen int             // counts how often a default was set
	Complete   map[string]bool // by stamp; absent: not registered
}

// Decision is what a server boots next, and why.
type Decision struct {
	Next   string // stamp; empty: nothing can be booted, and Reason says what to do
	Trial  bool   // Next has not reached a first sync on this server
	Reason string // one sentence
	State  State  // the state after the decision; HandOut writes it
}

// Choice is the decision as the API shows it.
func (d Decision) Choice() api.PlatformChoice {
	c := api.PlatformChoice{Assigned: d.State.Assigned, Next: d.Next, Running: d.State.Running, Previous: d.State.Previous,
		Trial: d.Trial, Failed: d.State.Failed, Reason: d.Reason}
	if d.Trial {
		c.Attempts = d.State.Trial.Attempts
	}
	return c
}

// Choose decides which platform a server boots. boot is the boot that asks, or
// empty: one that was given the trial platform as its last attempt may ask again.
func Choose(now time.Time, s State, cat Catalogue, boot string) Decision {
	target, how, choice := s.Assigned, "assigned to this server", "assigned "+s.Assigned
	if target == "" {
		target, how, choice = cat.Default, "the default", fmt.Sprintf("default %s %d", cat.Default, cat.DefaultGen)
	}
	if s.Choice != choice {
		s.Choice, s.Trial, s.Failed, s.Why = choice, Trial{}, "", ""
	}
	fallback := s.Previous != "" && s.Previous != target && cat.Complete[s.Previous]
	if reason := unusable(target, how, cat); reason != "" {
		if fallback {
			return Decision{Next: s.Previous, Reason: reason + "; this is the last platform that reached a first sync here", State: s}
		}
		return Decision{Reason: reason + ", and this server has no earlier one; " + remedy(target, s.Assigned), State: s}
	}
	if target == s.Previous {
		s.Trial, s.Failed, s.Why = Trial{}, "", ""
		return Decision{Next: target, Reason: fmt.Sprintf("%s is %s, and reached a first sync here before", target, how), State: s}
	}
	if s.Trial.Stamp != target {
		s.Trial = Trial{Stamp: target}
	}
	failed := s.Why
	if s.Failed != target {
		failed = s.Trial.failed(now, boot)
	}
	switch {
	case failed == "":
		reason := fmt.Sprintf("%s is %s and on trial until its first sync here", target, how)
		if s.Trial.Attempts > 0 {
			reason += fmt.Sprintf("; boots so far: %d of %d", s.Trial.Attempts, MaxAttempts)
		}
		return Decision{Next: target, Trial: true, Reason: reason, State: s}
	case fallback:
		s.Failed, s.Why = target, failed
		return Decision{Next: s.Previous, Reason: failed + "; this is the last platform that did, until another is assigned", State: s}
	default:
		return Decision{Next: target, Trial: true, Reason: failed + "; it is tried again, as this server has no earlier platform to go back to", State: s}
	}
}

// unusable says why a platform cannot be booted, or nothing.
func unusable(target, how string, cat Catalogue) string {
	complete, known := cat.Complete[target]
	switch {
	case target == "":
		return "no platform is assigned to this server, and there is no default"
	case !known:
		return fmt.Sprintf("%s is %s, but not registered any more", target, how)
	case !complete:
		return fmt.Sprintf("%s is %s, but incomplete: files of it are missing or damaged", target, how)
	}
	return ""
}

// remedy says what to do about a platform that cannot be booted.
func remedy(target, assigned string) string {
	switch {
	case target == "":
		return "import one (nereid platform import) and make it the default (nereid platform default)"
	case assigned != "":
		return "import it again, or assign another one (nereid platform assign)"
	}
	return "import it again, or make another one the default (nereid platform default)"
}

// failed says how the trial failed, or nothing while it goes on.
func (t Trial) failed(now time.Time, boot string) string {
	switch {
	case t.Attempts == 0:
		return ""
	case t.Attempts > MaxAttempts, t.Attempts == MaxAttempts && !slices.Contains(t.Boots, boot):
		return fmt.Sprintf("%s did not reach a first sync in %s", t.Stamp, api.Plural(t.Attempts, "boot"))
	case now.Sub(t.Since) >= TrialTime:
		return fmt.Sprintf("%s did not reach a first sync within %v of its first boot here", t.Stamp, TrialTime)
	}
	return ""
}

// handedOut notes that a boot got the platform that was decided on.
func (d Decision) handedOut(boot string, now time.Time) State {
	s := d.State
	if d.Next == "" {
		return s
	}
	s.Booting, s.BootingAt = d.Next, now
	if d.Trial && !slices.Contains(s.Trial.Boots, boot) {
		if s.Trial.Attempts == 0 {
			s.Trial.Since = now
		}
		s.Trial.Attempts++
		s.Trial.Boots = append(slices.Clone(s.Trial.Boots), boot)
		if n := len(s.Trial.Boots); n > MaxAttempts {
			s.Trial.Boots = s.Trial.Boots[n-MaxAttempts:]
		}
	}
	return s
}

// synced notes a first sync: the platform is known good on this server.
func (s State) synced(stamp string, now time.Time) State {
	if s.Previous != stamp {
		s.Good = now
	}
	s.Running, s.Previous = stamp, stamp
	if s.Trial.Stamp == stamp {
		s.Trial = Trial{}
	}
	if s.Failed == stamp {
		s.Failed, s.Why = "", ""
	}
	if s.Booting == stamp {
		s.Booting, s.BootingAt = "", time.Time{}
	}
	return s
}
