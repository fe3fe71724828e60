package platforms

import (
	"fmt"
	"reflect"
	"time"

	"nereid/api"
	"nereid/headnode/store"
)

const serverPrefix = "platform/server/"

// load reads the state of a server: its UUID, or a MAC before it is enrolled.
func load(tx store.Tx, server string) (State, error) {
	s, _, err := store.Lookup[State](tx, serverPrefix+server)
	return s, err
}

// save writes a state that changed.
func save(tx store.Tx, server string, old, s State) error {
	if reflect.DeepEqual(old, s) {
		return nil
	}
	return store.Put(tx, serverPrefix+server, s)
}

// catalogue reads of the registered platforms what concerns a server.
func catalogue(tx store.Tx, s State) (Catalogue, error) {
	d, _, err := store.Lookup[defaultRecord](tx, defaultKey)
	if err != nil {
		return Catalogue{}, err
	}
	c := Catalogue{Default: d.Stamp, DefaultGen: d.Gen, Complete: make(map[string]bool)}
	for _, stamp := range []string{s.Assigned, s.Previous, d.Stamp} {
		if stamp == "" {
			continue
		}
		complete, found, err := store.Lookup[bool](tx, completePrefix+stamp)
		if err != nil {
			return Catalogue{}, err
		}
		if found {
			c.Complete[stamp] = complete
		}
	}
	return c, nil
}

// Next decides what a server boots, and writes nothing. server is its UUID, or the
// MAC of a machine not enrolled; boot is the boot that asks, or empty.
func Next(tx store.Tx, server, boot string, now time.Time) (Decision, error) {
	s, err := load(tx, server)
	if err != nil {
		return Decision{}, fmt.Errorf("choose platform: %w", err)
	}
	cat, err := catalogue(tx, s)
	if err != nil {
		return Decision{}, fmt.Errorf("choose platform: %w", err)
	}
	return Choose(now, s, cat, boot), nil
}

// HandOut decides like Next and counts the boot: its script with the platform is
// being handed out. The same boot asking again counts once. The decision's State is
// the one before this boot was counted.
func HandOut(tx store.Tx, server, boot string, now time.Time) (Decision, error) {
	d, err := Next(tx, server, boot, now)
	if err != nil {
		return Decision{}, err
	}
	old, err := load(tx, server)
	if err == nil {
		err = save(tx, server, old, d.handedOut(boot, now))
	}
	if err != nil {
		return Decision{}, fmt.Errorf("hand out platform: %w", err)
	}
	return d, nil
}

// FirstSync notes that a boot with the platform reached its first sync: it is
// known good on this server, and a trial of it is over.
func FirstSync(tx store.Tx, server, stamp string, now time.Time) error {
	if stamp == "" {
		return nil
	}
	s, err := load(tx, server)
	if err == nil {
		err = save(tx, server, s, s.synced(stamp, now))
	}
	if err != nil {
		return fmt.Errorf("note first sync: %w", err)
	}
	return nil
}

// Assign gives a server a platform, or with an empty stamp the default. The
// platform is on trial unless it is the server's known good one; assigning the same
// again begins a new trial. It is an *api.Problem when the platform is not there or
// not complete.
func Assign(tx store.Tx, server, stamp string) error {
	if stamp != "" {
		if err := bootable(tx, stamp); err != nil {
			return err
		}
	}
	s, err := load(tx, server)
	if err == nil {
		old := s
		s.Assigned, s.Choice, s.Trial, s.Failed, s.Why = stamp, "", Trial{}, "", ""
		err = save(tx, server, old, s)
	}
	if err != nil {
		return fmt.Errorf("assign platform: %w", err)
	}
	return nil
}

// bootable refuses a platform that no server could boot.
func bootable(tx store.Tx, stamp string) error {
	complete, found, err := store.Lookup[bool](tx, completePrefix+stamp)
	switch {
	case err != nil:
		return fmt.Errorf("look up platform: %w", err)
	case !found:
		return unknown(stamp)
	case !complete:
		return &api.Problem{Title: "Platform is incomplete", Status: 409, Code: api.CodeConflict,
			Detail: fmt.Sprintf("platform %s is incomplete: files of it are missing or damaged", stamp),
			Next:   "import it again (nereid platform import) and repeat this"}
	}
	return nil
}

// Migrate moves what is known of a machine by its MAC to its server, at enrolment.
// What the server has already stays.
func Migrate(tx store.Tx, mac, uuid string) error {
	err := migrate(tx, mac, uuid)
	if err != nil {
		return fmt.Errorf("migrate platform state: %w", err)
	}
	return nil
}

func migrate(tx store.Tx, mac, uuid string) error {
	from, found, err := store.Lookup[State](tx, serverPrefix+mac)
	if err != nil || !found || mac == uuid {
		return err
	}
	s, known, err := store.Lookup[State](tx, serverPrefix+uuid)
	if err != nil {
		return err
	}
	if !known {
		s = from
	} else if from.BootingAt.After(s.BootingAt) {
		s.Booting, s.BootingAt = from.Booting, from.BootingAt
	}
	if err := store.Put(tx, serverPrefix+uuid, s); err != nil {
		return err
	}
	return tx.Delete(serverPrefix + mac)
}

// Forget removes what is known of a server's platforms.
func Forget(tx store.Tx, server string) error {
	if err := tx.Delete(serverPrefix + server); err != nil {
		return fmt.Errorf("forget platform state: %w", err)
	}
	return nil
}
