package machine

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"time"

	"nereid/agent/machine/qmp"
	"nereid/agent/machine/vm"
	"nereid/api"
)

// Times of a QEMU's monitor.
const (
	askPause  = 10 * time.Second // between two questions, if nothing is told
	askLimit  = 10 * time.Second // for an answer
	goesOn    = time.Second      // after which a machine that was let go on does, or has stopped again
	dialPause = time.Second      // between two tries to connect
	// hungLimit is after how long without any answer a QEMU is ended, if its machine is to
	// be started again.
	hungLimit = 3 * time.Minute
)

// guestIs is what a machine's QEMU says of its guest.
type guestIs struct {
	paused  string // why it does not go on; empty: it does
	trouble string // why QEMU cannot be asked; empty: it answers
	ended   string // why it ended, when that came from the server
	rests   string // why it may wait for a snapshot that was taken; empty: it does not
}

// sentence says what is not as it should be; empty: nothing.
func (g guestIs) sentence() string {
	if g.trouble != "" {
		return g.trouble
	}
	return cmp.Or(g.paused, g.rests)
}

// monitors are the connections with the QEMUs of the machines that run: one each. They
// are guarded by Machines.mu.
type monitors struct {
	ctx  context.Context        // nil: nobody attends
	at   map[string]bool        // machines, by UUID
	of   map[string]*qmp.Client // those that answer, by UUID of the machine
	work sync.WaitGroup
}

// monitor is the connection with the QEMU of a machine that runs. Several may use it at
// once.
func (m *Machines) monitor(uuid string) (*qmp.Client, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if c := m.monitors.of[uuid]; c != nil {
		return c, nil
	}
	i := m.all[uuid]
	switch {
	case i == nil || i.unit != unitRuns && i.unit != unitStops:
		return nil, errors.New("the instance does not run")
	case i.guestIs.trouble != "":
		return nil, errors.New(i.guestIs.trouble)
	}
	return nil, errors.New("its QEMU is not connected with yet; try again in a moment")
}

// Attend hears what QEMUs tell of their machines, until ctx ends.
func (m *Machines) Attend(ctx context.Context) error {
	m.mu.Lock()
	m.begin()
	m.monitors.ctx, m.monitors.at, m.monitors.of = ctx, map[string]bool{}, map[string]*qmp.Client{}
	var all []string
	for uuid := range m.all {
		all = append(all, uuid)
	}
	m.mu.Unlock()
	for _, uuid := range all {
		m.attend(uuid)
	}
	<-ctx.Done()
	m.mu.Lock()
	m.monitors.ctx = nil
	m.mu.Unlock()
	m.monitors.work.Wait()
	return nil
}

// attend has a machine attended that runs, and is not yet.
func (m *Machines) attend(uuid string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	ctx := m.monitors.ctx
	if ctx == nil || ctx.Err() != nil || m.monitors.at[uuid] || !m.attended(uuid) {
		return
	}
	m.monitors.at[uuid] = true
	m.monitors.work.Go(func() { m.follow(ctx, uuid) })
}

// attended reports whether an instance is a machine that runs, or stops. m.mu is held.
func (m *Machines) attended(uuid string) bool {
	i := m.all[uuid]
	return i != nil && i.kind == api.BrandKVM && (i.unit == unitRuns || i.unit == unitStops)
}

// follow attends one machine for as long as it runs.
func (m *Machines) follow(ctx context.Context, uuid string) {
	var hung time.Time // since when there is no answer; zero: there is one
	for {
		m.mu.Lock()
		if ctx.Err() != nil || !m.attended(uuid) {
			delete(m.monitors.at, uuid)
			m.mu.Unlock()
			return
		}
		m.mu.Unlock()
		dctx, cancel := context.WithTimeout(ctx, askLimit)
		c, err := qmp.Dial(dctx, filepath.Join(vm.RunDir(m.dir(uuid)), vm.Monitor))
		cancel()
		if err == nil {
			m.connected(uuid, c)
			hung, err = m.hear(ctx, uuid, c)
			m.connected(uuid, nil)
			_ = c.Close() // QEMU goes on
		} else if errors.Is(err, context.DeadlineExceeded) && hung.IsZero() {
			hung = time.Now().Add(-askLimit)
		}
		m.trouble(ctx, uuid, err, hung)
		pause := time.NewTimer(dialPause)
		select {
		case <-pause.C:
		case <-ctx.Done():
			pause.Stop()
		}
	}
}

// connected notes the connection with a machine's QEMU; nil: there is none any more.
func (m *Machines) connected(uuid string, c *qmp.Client) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if c == nil {
		delete(m.monitors.of, uuid)
		return
	}
	m.monitors.of[uuid] = c
}

// trouble notes that a machine's QEMU cannot be asked, and ends one that hangs for good.
func (m *Machines) trouble(ctx context.Context, uuid string, err error, hung time.Time) {
	if ctx.Err() != nil || errors.Is(err, qmp.ErrClosed) { // it ended; its unit tells
		return
	}
	text := "Its QEMU cannot be reached at its monitor; it runs, and nothing else is known of it. Reboot it to mend that."
	if !hung.IsZero() {
		text = "Its QEMU has not answered since " + hung.UTC().Format(time.RFC3339) + "."
	}
	m.say(uuid, func(g *guestIs) { g.trouble = text })
	kept := m.Kept(uuid)
	if hung.IsZero() || time.Since(hung) < hungLimit || kept == nil || kept.Restart == api.RestartNo {
		return
	}
	m.log().Warn("a machine's QEMU hangs, and is ended", "uuid", uuid, "since", hung)
	kctx, cancel := context.WithTimeout(ctx, askLimit)
	defer cancel()
	if err := m.Units.Signal(kctx, machines().unit(uuid), "SIGKILL"); err != nil {
		m.log().Error("end a machine's QEMU that hangs", "uuid", uuid, "err", err)
	}
}

// say changes what is known of a machine's guest, and tells when that is news.
func (m *Machines) say(uuid string, f func(*guestIs)) {
	m.mu.Lock()
	i := m.all[uuid]
	if i == nil || !m.attended(uuid) {
		m.mu.Unlock()
		return
	}
	was := i.guestIs
	f(&i.guestIs)
	news := was != i.guestIs
	m.mu.Unlock()
	if news {
		m.changed(uuid)
	}
}

// hear hears one QEMU until it ends, or does not answer: since when is the result.
func (m *Machines) hear(ctx context.Context, uuid string, c *qmp.Client) (hung time.Time, err error) {
	ask := time.NewTimer(0)
	defer ask.Stop()
	let := false // it is time to let a machine go on that was paused
	look := true // what the machine has may be another
	conn := m.hotBegin(uuid, vm.QEMU{Monitor: c})
	defer m.hotEnd(uuid, conn)
	for {
		select {
		case e, open := <-c.Events():
			if !open {
				return time.Time{}, c.Err()
			}
			look = look || e.Name == "DEVICE_DELETED" || e.Missed > 0
			if wait, is := m.heard(uuid, e); is {
				ask.Reset(wait)
				let = false
			}
		case <-ask.C:
			m.monitors.work.Go(func() { m.goOn(ctx, uuid) })
			begun := time.Now()
			actx, cancel := context.WithTimeout(ctx, askLimit)
			var again time.Duration
			if look {
				err = m.see(actx, uuid, conn)
			}
			if err == nil {
				again, err = m.ask(actx, uuid, c, let)
			}
			cancel()
			if err != nil {
				if errors.Is(err, context.DeadlineExceeded) {
					return begun, err
				}
				return time.Time{}, err
			}
			ask.Reset(again)
			let, look = true, false
		case <-ctx.Done():
			return time.Time{}, ctx.Err()
		}
	}
}

// heard takes in what a QEMU told, and says when it is to be asked for more.
func (m *Machines) heard(uuid string, e qmp.Event) (ask time.Duration, is bool) {
	switch e.Name {
	case "STOP", "BLOCK_IO_ERROR", "GUEST_PANICKED", "DEVICE_DELETED":
		return 0, true
	case "RESUME":
		return goesOn, true
	case "RESET":
		if because(e).Guest { // a reboot from inside
			m.mu.Lock()
			i := m.all[uuid]
			if i != nil && i.unit == unitRuns {
				i.since = time.Now()
			}
			m.mu.Unlock()
			m.changed(uuid)
		}
	case "SHUTDOWN":
		if b := because(e); !b.Guest && (b.Reason == "host-signal" || b.Reason == "host-qmp-quit" || b.Reason == "host-error") {
			m.mu.Lock()
			if i := m.all[uuid]; i != nil && i.unit == unitRuns { // nobody told it to
				i.guestIs.ended = b.Reason
			}
			m.mu.Unlock()
		}
	}
	return 0, e.Missed > 0
}

// cause is the data of SHUTDOWN and RESET (qapi/run-state.json).
type cause struct {
	Guest  bool   `json:"guest"`
	Reason string `json:"reason"`
}

func because(e qmp.Event) (c cause) {
	_ = json.Unmarshal(e.Data, &c) // what is not understood is no cause that counts
	return c
}

// ask asks a QEMU how its machine is, and lets one go on that was paused for its disk's
// sake: there may be room again. again is when to ask next.
func (m *Machines) ask(ctx context.Context, uuid string, c *qmp.Client, let bool) (again time.Duration, err error) {
	var is struct{ Status string }
	if err := c.Call(ctx, "query-status", nil, &is); err != nil {
		return 0, err
	}
	paused := ""
	switch is.Status {
	case "running", "shutdown", "prelaunch", "inmigrate":
	case "io-error":
		if paused, err = m.disk(ctx, c); err != nil {
			return 0, err
		}
	case "paused":
		paused = "Paused: somebody told its QEMU to, at its monitor."
	case "guest-panicked":
		paused = "Paused: its guest's kernel panicked; reboot it when it was looked at."
	case "internal-error":
		paused = "Paused: its QEMU, or KVM, met a fault; reboot it."
	default:
		paused = "Paused: its QEMU says that it is in another state than it should be."
	}
	m.say(uuid, func(g *guestIs) { g.paused, g.trouble = paused, "" })
	if is.Status == "io-error" && let {
		var refused *qmp.Error
		if err := c.Call(ctx, "cont", nil, nil); err != nil && !errors.As(err, &refused) {
			return 0, err
		}
	}
	return askPause, nil
}

// disk says why a machine's disk made it pause.
func (m *Machines) disk(ctx context.Context, c *qmp.Client) (string, error) {
	var all []struct {
		Status   string `json:"io-status"`
		Inserted struct {
			Node string `json:"node-name"`
		} `json:"inserted"`
	}
	if err := c.Call(ctx, "query-block", nil, &all); err != nil {
		return "", err
	}
	name := "a disk"
	for _, d := range all {
		if _, ok := numbered(d.Inserted.Node, "disk"); ok && d.Status != "" && d.Status != "ok" {
			name = d.Inserted.Node
		}
		if d.Status == "nospace" {
			return "Paused: pool full. It goes on by itself when there is room.", nil
		}
	}
	return "Paused: " + name + " could not be written; the instance's quota or the pool may be full, or the pool may fail. It goes on by itself when that is mended.", nil
}

// NMI sends the guest of a machine that runs an interrupt that it cannot ignore: many
// kernels then write a dump, or panic.
func (m *Machines) NMI(ctx context.Context, uuid string) error {
	c, err := m.monitor(uuid)
	if err == nil {
		ctx, cancel := context.WithTimeout(ctx, askLimit)
		defer cancel()
		err = c.Call(ctx, "inject-nmi", nil, nil)
	}
	if err != nil {
		return fmt.Errorf("send an NMI: %w", err)
	}
	return nil
}
