package agent

import (
	"context"
	"crypto/ecdsa"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"path/filepath"
	"time"

	"nereid/agent/identity"
	"nereid/api"
)

// Times of the conversation with the head node.
const (
	callTimeout = 15 * time.Second              // anything that is not held
	heldTimeout = api.SyncHold + 15*time.Second // a long poll
	linkLimit   = heldTimeout + 2*callTimeout   // one turn of the syncer, for the watchdog
	renewRetry  = 5 * time.Minute               // after a renewal that did not work
	quickAnswer = time.Second                   // a poll that says nothing should take longer
	minSyncGap  = 100 * time.Millisecond        // gathers changes that come in a burst
	dateError   = 1500 * time.Millisecond       // a Date has whole seconds and has travelled
	expiredWait = time.Minute                   // before a reboot for a new token, and as much again at random
)

// link is the syncer: the one goroutine that talks to the head node.
type link struct {
	a        *Agent
	board    *board
	box      mailbox
	net      *networker
	sessions *sessions
	say      *announcer
	trust    identity.Trust
	base     *url.URL
	uuid     string

	key      *ecdsa.PrivateKey
	cert     *identity.Certificate
	rejected bool  // the head node does not accept cert
	plain    *head // without certificate
	mutual   *head // with cert

	inv       inventory
	seen      string
	spec      api.Spec         // that was handed over last; its Network has the ports, and what is kept
	stored    string           // specName of what the reconciler was handed to keep
	wanted    *api.NetworkSpec // that the head node sent last; nil: none
	wantInv   bool
	partial   bool      // there is more to be asked for at once
	stale     bool      // ports or rules came that are not in spec yet
	renamed   bool      // the head node named another UUID
	enrolled  bool      // this boot got a certificate
	first     bool      // this boot's first sync was sent
	lastSync  time.Time // started
	told      string    // what the service manager was told
	lastGood  time.Time // answered, by the agent's clock
	renewNext time.Time
	states    string            // poolStates at the last sync
	expired   time.Time         // when to reboot for a new token
	probed    []api.ProbeResult // for the next sync
	parts     parts

	enrolBackoff, syncBackoff backoff
}

// errRenamed ends the agent, which is started again as the server that the head
// node says it is.
var errRenamed = errors.New("the head node named this server by another UUID")

// run talks until ctx ends, or the head node names the server by another UUID. It
// never gives up.
func (l *link) run(ctx context.Context) error {
	l.enrolBackoff = backoff{min: 500 * time.Millisecond, max: 30 * time.Second}
	l.syncBackoff = backoff{min: 500 * time.Millisecond, max: 10 * time.Second}
	defer func() {
		l.plain.close()
		l.mutual.close()
	}()
	for ctx.Err() == nil {
		done := l.a.health.busy("syncer", linkLimit)
		wait := l.turn(ctx)
		done()
		l.a.writeStatus(l)
		if l.renamed {
			return errRenamed
		}
		if wait > 0 && !pause(ctx, wait) {
			break
		}
	}
	return nil
}

// turn does one thing: enrols or syncs. It returns how long to wait before the
// next one.
func (l *link) turn(ctx context.Context) time.Duration {
	if k := l.a.key.Load(); k != l.key { // the pool came late and has another one
		l.key, l.cert = k, nil
	}
	if l.inv.digest == "" {
		return l.identify(ctx)
	}
	now := l.a.Clock.Now()
	if l.cert.Valid(now) && !l.rejected {
		if now.After(l.cert.RenewAt()) && now.After(l.renewNext) {
			l.renew(ctx)
		}
		return l.sync(ctx)
	}
	return l.enrol(ctx)
}

// identify waits for the hardware, and takes up the certificate that an agent of
// this boot left.
func (l *link) identify(ctx context.Context) time.Duration {
	inv, err := l.a.hardware.get()
	if inv.digest == "" {
		if err != nil {
			l.say.say("This server's hardware could not be read, so it cannot say who it is: " + err.Error())
		}
		t := time.NewTimer(callTimeout)
		defer t.Stop()
		select {
		case <-l.a.hardware.news:
		case <-t.C:
		case <-ctx.Done():
		}
		return 0
	}
	l.enrolBackoff.reset()
	l.inv = inv
	data, err := readFile(filepath.Join(l.a.Dir, certFile))
	if err != nil {
		return 0 // there is none yet
	}
	l.enrolled = true
	c, err := identity.ParseCertificate(data, l.key, l.uuid)
	if err != nil {
		l.a.Log.Info("certificate of the run directory is not used", "err", err)
		return 0
	}
	l.use(c)
	return 0
}

// use takes a certificate into service.
func (l *link) use(c *identity.Certificate) {
	l.mutual.close()
	l.cert, l.rejected = c, false
	l.mutual = newHead(l.base, l.trust, c, false, l.a.Dial)
	l.mutual.date = l.date
	l.a.cert.Store(c)
}

// date sets the clock by an answer's Date, unless a time server was heard.
func (l *link) date(d time.Time) {
	if l.a.ntpHeard() {
		return
	}
	l.a.adjust(d.Add(500*time.Millisecond), dateError, "head node")
}

// contact looks at a failed call: is it the clock? Then it asks the head node
// for the time, over a connection that is good for nothing else.
func (l *link) contact(ctx context.Context, err error) (fixed bool) {
	if !identity.WrongTime(err) {
		return false
	}
	h := newHead(l.base, l.trust, nil, true, l.a.Dial)
	defer h.close()
	var date time.Time
	h.date = func(d time.Time) { date = d }
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	_, cerr := h.call(ctx, http.MethodGet, "/v1", nil, nil, nil)
	var p *api.Problem
	if date.IsZero() || (cerr != nil && !errors.As(cerr, &p)) {
		l.a.Log.Info("ask head node for the time", "err", cerr)
		return false
	}
	if date.Before(l.a.Boot.Time.Add(-5 * time.Minute)) {
		l.a.Log.Warn("the head node says it is earlier than its own boot file; not believed", "date", date, "boot_file", l.a.Boot.Time)
		return false
	}
	diff := date.Sub(l.a.Clock.Now())
	l.a.adjust(date, dateError, "head node, first contact")
	return diff.Abs() > dateError
}

// explain makes a sentence of a call that did not work.
func (l *link) explain(err error) string {
	host := l.base.Host
	var p *api.Problem
	switch {
	case errors.As(err, &p):
		return refusal(p)
	case errors.Is(err, identity.ErrWrongCA):
		return fmt.Sprintf("The head node at %s is not the one this boot was told to trust (another CA), and nothing was sent to it; reboot this server, and if that does not help, find out who answers at that address.", host)
	case identity.WrongTime(err):
		return fmt.Sprintf("The certificate of the head node at %s is not valid at %s, this server's time; check the head node's clock and certificate.", host, l.a.Clock.Now().Format(time.RFC3339))
	}
	return fmt.Sprintf("The head node at %s does not answer; it is tried again: %v.", host, err)
}
