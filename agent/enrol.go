package agent

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"path/filepath"
	"strings"
	"time"

	"nereid/agent/identity"
	"nereid/api"
)

// enrol asks for a certificate once. It returns how long to wait before asking
// again.
func (l *link) enrol(ctx context.Context) time.Duration {
	if l.plain == nil {
		l.plain = newHead(l.base, l.trust, nil, false, l.a.Dial)
		l.plain.date = l.date
	}
	if l.say.current() == "" {
		l.say.say("This server, " + l.name() + ", asks the head node at " + l.base.Host + " to be let in.")
	}
	csr, err := identity.CSR(l.key, l.name())
	if err != nil {
		l.say.say("This server could not make a certificate request: " + err.Error())
		return l.enrolBackoff.next()
	}
	req := api.EnrolRequest{Token: l.a.Boot.Token, BootID: l.a.Boot.BootID, CSR: csr, Sysinfo: shortened(l.inv.info)}
	var resp api.EnrolResponse
	asked := time.Now()
	cctx, cancel := context.WithTimeout(ctx, heldTimeout)
	status, err := l.plain.call(cctx, http.MethodPost, "/v1/enrol", req, &resp, nil)
	cancel()
	if ctx.Err() != nil {
		return 0
	}
	if err != nil {
		return l.enrolFailed(ctx, err)
	}
	if resp.UUID != "" && resp.UUID != l.uuid {
		if err := writeFile(filepath.Join(l.a.Dir, uuidFile), []byte(resp.UUID)); err != nil {
			l.say.say("The head node says which server this is, and that could not be kept: " + err.Error())
			return l.enrolBackoff.next()
		}
		l.say.say("The head node says that this is server " + resp.UUID + ".")
		l.renamed = true
		return 0
	}
	if status == http.StatusAccepted || resp.Certificate == "" {
		l.expired = time.Time{}
		l.say.say(waiting(resp))
		// A head node that does not hold the poll is not asked in a loop.
		if time.Since(asked) < quickAnswer {
			return l.enrolBackoff.next()
		}
		l.enrolBackoff.reset()
		return 0
	}
	if err := l.accept([]byte(resp.Certificate)); err != nil {
		l.say.say("The head node's answer to the enrolment cannot be used, and is asked for again: " + err.Error())
		return l.enrolBackoff.next()
	}
	l.enrolBackoff.reset()
	l.plain.close()
	l.say.say("Enrolled with the head node at " + l.base.Host + ".")
	return 0
}

// shortened leaves disks out of hardware that is too long for an enrolment: they are
// shown to who approves the server, and all of them follow with its first sync.
func shortened(info api.Sysinfo) api.Sysinfo {
	const room = api.MaxEnrol - 16<<10 // for the rest of the request
	for len(info.Disks) > 0 {
		if b, err := json.Marshal(info); err != nil || len(b) <= room {
			break
		}
		info.Disks = info.Disks[:len(info.Disks)/2]
	}
	return info
}

// name is how the server calls itself: by its UUID, or by the MAC it booted from.
func (l *link) name() string { return cmp.Or(l.uuid, l.a.Boot.Network.MAC, "unnamed") }

// accept takes a new certificate into service and keeps it for a restart.
func (l *link) accept(pem []byte) error {
	c, err := identity.ParseCertificate(pem, l.key, l.uuid)
	if err != nil {
		return err
	}
	if now := l.a.Clock.Now(); !c.Valid(now) {
		return fmt.Errorf("the certificate is valid from %s to %s, and it is %s", c.TLS.Leaf.NotBefore.Format(time.RFC3339), c.TLS.Leaf.NotAfter.Format(time.RFC3339), now.Format(time.RFC3339))
	}
	if err := writeFile(filepath.Join(l.a.Dir, certFile), pem); err != nil {
		l.a.Log.Warn("keep certificate; a restarted agent will have to enrol again", "err", err)
	}
	l.enrolled = true
	l.use(c)
	return nil
}

// enrolFailed shows why, and decides when to ask again.
func (l *link) enrolFailed(ctx context.Context, err error) time.Duration {
	if l.contact(ctx, err) {
		return 0
	}
	sentence := l.explain(err)
	var p *api.Problem
	if errors.As(err, &p) {
		switch p.Code {
		case api.CodeTokenExpired:
			sentence += l.rebootForToken(ctx)
		case api.CodeKeyMismatch:
			// The right key may be on a pool that came late.
			l.a.poke()
		}
	}
	l.say.say(sentence)
	// The certificate at hand may be good again, as after a restore.
	l.rejected = false
	return l.enrolBackoff.next()
}

// rebootForToken reboots a server that never came in: its token is too old, as
// after a head node that was away for long, and only a boot brings another. A
// server that did enrol in this boot is never rebooted for it.
func (l *link) rebootForToken(ctx context.Context) string {
	if l.enrolled {
		return ""
	}
	now := time.Now()
	if l.expired.IsZero() {
		l.expired = now.Add(expiredWait + rand.N(expiredWait))
	}
	if now.After(l.expired) {
		l.expired = now.Add(10 * time.Minute)
		if err := l.a.Power.Reboot(ctx, false); err != nil {
			l.a.Log.Error("reboot for a new token", "err", err)
		}
	}
	return " This server never enrolled since it booted, so it reboots by itself within two minutes to get a new token."
}

// renew asks for a new certificate with the old one. Failing is not urgent: half
// of the certificate's life is left.
func (l *link) renew(ctx context.Context) {
	l.renewNext = l.a.Clock.Now().Add(renewRetry)
	csr, err := identity.CSR(l.key, l.uuid)
	if err != nil {
		l.a.Log.Warn("renew certificate", "err", err)
		return
	}
	var resp api.EnrolResponse
	cctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	_, err = l.mutual.call(cctx, http.MethodPost, "/v1/servers/"+l.uuid+"/renew", map[string]string{"csr": csr}, &resp, nil)
	if err == nil {
		err = l.accept([]byte(resp.Certificate))
	}
	if err != nil {
		l.a.Log.Warn("renew certificate", "err", err, "again_in", renewRetry)
		return
	}
	l.a.Log.Info("certificate renewed", "until", l.cert.TLS.Leaf.NotAfter)
}

// waiting says what stands between the server and its certificate.
func waiting(r api.EnrolResponse) string {
	s := "The head node knows this server and has not let it in yet."
	switch r.State {
	case api.StatePending, "":
		s = "This server waits for an operator's approval (nereid server approve)."
	case api.StateRejected:
		s = "An operator rejected this server; nereid server approve lets it in all the same."
	case api.StateHeld:
		s = "The head node holds this server until an operator decides."
	}
	return join(s, r.Reason)
}

// refusal makes a sentence of a problem: what, why, what next. No two codes
// look alike, whatever the head node wrote into the problem.
func refusal(p *api.Problem) string {
	var s string
	switch p.Code {
	case api.CodeNotApproved:
		s = "The head node refused this server: it is not approved; approve it with nereid server approve."
	case api.CodeTokenUsed:
		s = "The head node refused this boot's token: another key has used it already; reboot this server to get a new one, and find out who else boots with its MAC address."
	case api.CodeTokenExpired:
		s = "The head node refused this boot's token: it is too old; reboot this server to get a new one."
	case api.CodeTokenInvalid:
		s = "The head node refused this boot's token: it does not know it; reboot this server to get a new one."
	case api.CodeKeyMismatch:
		s = "The head node knows this server by another key, the one on its pool, or the one it had in RAM before; check that its disks are there, or let an operator accept this key."
	case api.CodeUUIDCollision:
		s = "Another machine has the same SMBIOS UUID as this one; an operator has to decide which is which."
	case api.CodeUnauthorized, api.CodeForbidden:
		s = "The head node does not let this server in."
	case api.CodeNotFound:
		s = "The head node does not know this server any more."
	case api.CodeInvalid:
		s = "The head node cannot make sense of what this server's agent says; it is asked again."
	default:
		s = fmt.Sprintf("The head node cannot answer now (%d); it is asked again.", p.Status)
		if p.Status/100 == 4 {
			s = fmt.Sprintf("The head node refused this server (%d); it is asked again.", p.Status)
		}
	}
	return join(s, p.Error())
}

// join adds the head node's own words in brackets.
func join(s, words string) string {
	words = strings.TrimSpace(words)
	if words == "" {
		return s
	}
	return s + " [" + words + "]"
}
