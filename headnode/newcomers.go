package headnode

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"nereid/api"
	"nereid/headnode/boots"
	"nereid/headnode/inventory"
	"nereid/headnode/store"
)

// afterServers begins the marks of pages behind the servers: the MACs of machines
// that have not enrolled. It sorts behind every UUID.
const afterServers = "~"

// servers gives a page of servers, and behind the last of them the machines that
// spoke lately and have not enrolled.
func (s *Server) servers(tx store.Tx, after string, limit int) ([]api.Server, string, error) {
	if limit == 0 {
		limit = 200
	}
	items := []api.Server{}
	mac, behind := strings.CutPrefix(after, afterServers)
	if !behind {
		recs, next, err := inventory.List(tx, after, limit)
		if err != nil {
			return nil, "", err
		}
		if items, err = s.views(tx, recs); err != nil {
			return nil, "", err
		}
		if next != "" {
			return items, next, nil
		}
	}
	news, _, err := s.newcomers(tx)
	if err != nil {
		return nil, "", err
	}
	for _, b := range news {
		if b.MAC <= mac {
			continue
		}
		if len(items) == limit {
			if mac == "" { // none of them is on this page
				return items, afterServers, nil
			}
			return items, afterServers + mac, nil
		}
		items, mac = append(items, newcomer(b)), b.MAC
	}
	return items, "", nil
}

// newcomers are the latest boots of machines whose MAC belongs to no server.
func (s *Server) newcomers(tx store.Tx) (list []api.Boot, more int, err error) {
	list, more, err = s.pending.Strangers(tx, s.now())
	if err != nil {
		return nil, 0, err
	}
	macs := make([]string, len(list))
	for i, b := range list {
		macs[i] = b.MAC
	}
	news, err := inventory.WithoutOwner(tx, macs)
	if err != nil {
		return nil, 0, err
	}
	list = slices.DeleteFunc(list, func(b api.Boot) bool { return !slices.Contains(news, b.MAC) })
	return list, more, nil
}

// findNewcomer finds a machine that has not enrolled by its MAC.
func (s *Server) findNewcomer(tx store.Tx, id string) (api.Server, bool, error) {
	mac, ok := inventory.ParseMAC(id)
	if !ok {
		return api.Server{}, false, nil
	}
	if _, found, err := inventory.OwnerOf(tx, mac); err != nil || found {
		return api.Server{}, false, err
	}
	bs, err := s.pending.ByMAC(tx, mac, 1)
	if err != nil || len(bs) == 0 {
		return api.Server{}, false, err
	}
	return newcomer(bs[0]), true, nil
}

// newcomer is what is shown of a machine that has not enrolled.
func newcomer(b api.Boot) api.Server {
	seen := b.Started
	for _, e := range b.Events {
		if e.Time.After(seen) {
			seen = e.Time
		}
	}
	return api.Server{
		Hostname: strings.ReplaceAll(b.MAC, ":", "-"), State: api.StateNew, StateReason: boots.Standing(b),
		MACs: []string{b.MAC}, Address: b.Address, Created: b.Started, LastSeen: &seen,
		BootID: b.ID, Platform: api.PlatformChoice{Next: b.Platform, Trial: b.Trial},
	}
}

// notEnrolled refuses what is asked of a machine that is listed, and is no server yet.
func (s *Server) notEnrolled(tx store.Tx, id string) error {
	sv, found, err := s.findNewcomer(tx, id)
	if err != nil || !found {
		return err
	}
	return refuse(http.StatusConflict, api.CodeConflict, "see where it stands with: nereid server boot-log "+sv.MACs[0],
		"machine %s has asked for an address and has not enrolled yet", sv.MACs[0])
}

// newcomersAlert says how many machines are not listed, for there are too many.
func (s *Server) newcomersAlert(tx store.Tx) (string, error) {
	_, more, err := s.pending.Strangers(tx, s.now())
	if err != nil || more == 0 {
		return "", err
	}
	return fmt.Sprintf("%s asked for an address within a day beside those that \"nereid server list\" shows, and have not enrolled; "+
		"so many MAC addresses are likely to be invented, so look for who sends them.", api.Plural(more, "machine")), nil
}

// newcomerNews has watchers told that a machine which has not enrolled was heard.
func (s *Server) newcomerNews(b api.Boot) {
	select {
	case s.news <- api.Event{Kind: "boot", Name: b.ID}:
	default: // they are about to be told to look
	}
}

// tellNews tells watchers of newcomers, at most once a second, for their MACs may be
// invented, until ctx ends.
func (s *Server) tellNews(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case ev := <-s.news:
			s.events.Publish(ev)
		}
		t := time.NewTimer(time.Second)
		select {
		case <-ctx.Done():
		case <-t.C:
		}
		t.Stop()
	}
}

// writeBoots writes what was noted of boots, half a second later and all together,
// until ctx ends; what is left then is written too.
func (s *Server) writeBoots(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return s.flushBoots(context.WithoutCancel(ctx))
		case <-s.pending.Dirty():
		}
		t := time.NewTimer(noteDelay)
		select {
		case <-ctx.Done():
		case <-t.C:
		}
		t.Stop()
		if err := s.flushBoots(context.WithoutCancel(ctx)); err != nil {
			s.log.Error("write boot events", "err", err)
		}
	}
}

// noteDelay is how long an event of a boot may wait to be written with others.
const noteDelay = 500 * time.Millisecond

func (s *Server) flushBoots(ctx context.Context) error {
	for more := true; more; {
		var ids []string
		err := s.store.Update(store.Behind(ctx), func(tx store.Tx) (err error) { // nobody waits for it
			ids, more, err = s.pending.Flush(tx)
			return err
		})
		if err != nil {
			return fmt.Errorf("write boot events: %w", err)
		}
		s.pending.Written(ids...)
	}
	return nil
}
