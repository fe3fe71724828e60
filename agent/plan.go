package agent

import (
	"fmt"
	"regexp"

	"nereid/api"
)

// stepKind is one kind of step. A kind appears at most once in a plan.
type stepKind string

// The steps, in the order in which they are done.
const (
	stepReset    stepKind = "factory reset" // destroys the named pool
	stepPower    stepKind = "power"         // says so, then reboots or shuts down
	stepHostname stepKind = "hostname"
	stepSetup    stepKind = "setup"     // makes the system pool, or goes on doing so
	stepKey      stepKind = "key"       // the agent's key on the pool
	stepSpec     stepKind = "keep spec" // the last spec on the pool
)

// observed is what a plan starts from.
type observed struct {
	bootID   string
	hostname string
	pools    []api.Pool
	complete string         // id of the system pool's setup, once that is complete; "" when not
	keyKept  bool           // the pool holds this agent's key
	keyOther bool           // the pool holds another one
	specKept string         // specName of the spec on the pool
	taken    *api.PowerSpec // power request of this boot that was taken up already
	refused  string         // id of a factory reset that failed and is not tried again
	why      string         // the sentence that goes with refused
}

// system is the pool marked as the system's, nil without one.
func (o observed) system() *api.Pool {
	for i := range o.pools {
		if o.pools[i].System {
			return &o.pools[i]
		}
	}
	return nil
}

// plan is what has to be done so that the server is as the spec says.
type plan struct {
	steps []stepKind
	power *api.PowerSpec // for reset and power
	// refused holds what is not done, by kind of step: a sentence with what, why
	// and what next.
	refused map[stepKind]string
}

// hostnameRE is a host name of RFC 1123, section 2.1, in lower case, as the
// kernel takes it (64 bytes, sethostname(2)).
var hostnameRE = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*$`)

// makePlan is pure. What the spec does not mention is left alone.
func makePlan(spec api.Spec, o observed) plan {
	p := plan{refused: map[stepKind]string{}}
	if p.planPower(spec.Power, o) {
		// A server that goes down does nothing else: a pool that was just reset is
		// not set up again on the way.
		return p
	}
	if spec.Hostname != "" && spec.Hostname != o.hostname {
		if len(spec.Hostname) > 64 || !hostnameRE.MatchString(spec.Hostname) {
			p.refused[stepHostname] = fmt.Sprintf("The hostname %.80q is not a host name, and was not set; rename the server.", spec.Hostname)
		} else {
			p.steps = append(p.steps, stepHostname)
		}
	}
	sys := o.system()
	if s := spec.Setup; s != nil {
		switch {
		case s.ID == "":
			p.refused[stepSetup] = "The setup that was asked for has no id, and was not begun; ask for it again."
		case o.complete == s.ID:
		case o.complete != "":
			p.refused[stepSetup] = fmt.Sprintf("Setup %s was not begun: the server has its system pool already, made by setup %s; reset the server first.", s.ID, o.complete)
		case sys != nil && sys.SetupID != "" && sys.SetupID != s.ID:
			p.refused[stepSetup] = fmt.Sprintf("Setup %s was not begun: pool %s is of setup %s, which was not completed; reset the server first.", s.ID, sys.Name, sys.SetupID)
		default:
			p.steps = append(p.steps, stepSetup)
		}
	}
	if sys != nil && o.complete != "" {
		if o.keyOther {
			p.refused[stepKey] = fmt.Sprintf("Pool %s holds another key than the one this agent uses, and was left alone; reboot the server.", sys.Name)
		} else if !o.keyKept {
			p.steps = append(p.steps, stepKey)
		}
		if spec.Revision != "" && o.specKept != specName(spec) {
			p.steps = append(p.steps, stepSpec)
		}
	}
	return p
}

// planPower plans a power request; true when the server goes down, or tried to.
func (p *plan) planPower(want *api.PowerSpec, o observed) bool {
	if o.taken != nil {
		p.power = o.taken
		p.steps = []stepKind{stepPower}
		return true
	}
	if want == nil || want.BootID != o.bootID {
		return false
	}
	p.power = want
	if want.Action == "reset" && want.ID == o.refused {
		// Half of a pool may be gone. Nothing is made of the rest before the
		// operator says so.
		p.refused[stepReset] = o.why
		return true
	}
	switch want.Action {
	case "reboot", "shutdown":
		p.steps = []stepKind{stepPower}
	case "reset":
		if s := o.system(); s != nil && s.GUID != want.PoolGUID {
			p.refused[stepReset] = fmt.Sprintf("The factory reset was not done: it is for the pool with GUID %q, and this server's is %s with GUID %s; ask for it again.", want.PoolGUID, s.Name, s.GUID)
			return false
		}
		p.steps = []stepKind{stepReset, stepPower}
	default:
		p.refused[stepPower] = fmt.Sprintf("The power request %.40q is not known to this agent, and was not taken up; its platform is older than the head node.", want.Action)
		return false
	}
	return true
}
