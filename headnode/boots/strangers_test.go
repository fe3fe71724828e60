package boots

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"nereid/api"
	"nereid/headnode/store"
	"nereid/headnode/store/storetest"
)

func invented(i int) string {
	return fmt.Sprintf("0a:%02x:%02x:%02x:00:00", i>>16&255, i>>8&255, i&255)
}

// boots lets a machine go through stages, and writes what is written of it.
func (w *world) boots(mac string, known bool, now time.Time, stages ...api.BootStage) string {
	w.Helper()
	var id string
	do := w.update
	if len(stages) == 0 {
		do = w.view // an Update runs twice here, so the machine would ask twice
	}
	do(func(tx store.Tx) error {
		r := firmware
		r.MAC, r.UUID = mac, ""
		b, _, err := w.p.Begin(tx, r, known, now)
		for _, s := range stages {
			if err == nil {
				_, err = w.p.Record(tx, b.ID, api.BootEvent{Stage: s}, now, nil)
			}
		}
		id = b.ID
		return err
	})
	if len(stages) > 0 {
		w.p.Written(id)
	}
	return id
}

func (w *world) kept(ids ...string) (n int) {
	w.Helper()
	w.view(func(tx store.Tx) error {
		for _, id := range ids {
			if _, err := w.p.Get(tx, id); err == nil {
				n++
			}
		}
		return nil
	})
	return n
}

// TestStrangersPushNobodyOut: the boots of known servers, and of newcomers that got
// further, outlive a flood of invented MACs, on disk and in memory.
func TestStrangersPushNobodyOut(t *testing.T) {
	w := newWorld(t)
	const ofRank, slack = 400, 64
	w.p = NewPending(256)
	w.p.ofRank, w.p.slack = ofRank, slack
	var dropped []string
	w.p.Dropped = func(_ store.Tx, b api.Boot, last bool) error {
		if last {
			dropped = append(dropped, b.MAC)
		}
		return nil
	}
	var known []string
	for i := range 10 {
		known = append(known, w.boots(mac1, true, at(float64(i)*3600), api.StageAck, api.StageFirstSync))
	}
	now := at(100_000)
	asking := w.boots(mac1, true, now) // only in memory
	far := w.boots("52:54:00:00:00:02", false, now, api.StageAck, api.StageIPXEAck, api.StageScript)
	hanging := w.boots("52:54:00:00:00:03", false, now)
	w.boots("52:54:00:00:00:03", false, now.Add(4*time.Second))
	for i := range 3 * ofRank {
		w.boots(invented(i), false, now.Add(time.Duration(i)*time.Millisecond), api.StageAck)
		w.boots(invented(1<<20+i), false, now.Add(time.Duration(i)*time.Millisecond))
	}
	if n := w.kept(append(known, asking, far, hanging)...); n != 13 {
		t.Errorf("%d of 13 boots are left", n)
	}
	w.view(func(tx store.Tx) error {
		n := 0
		for range tx.Scan(strangerPrefix, "") {
			n++
		}
		if n > ofRank+slack+1 {
			t.Errorf("%d records of strangers", n)
		}
		list, more, err := w.p.Strangers(tx, now.Add(time.Minute))
		if len(list) != maxListed || more < 1 || more > 256+slack {
			t.Errorf("%d strangers are listed, %d more", len(list), more)
		}
		for _, mac := range []string{"52:54:00:00:00:02", "52:54:00:00:00:03"} {
			if !slices.ContainsFunc(list, func(b api.Boot) bool { return b.MAC == mac }) {
				t.Errorf("%s is not listed", mac)
			}
		}
		return err
	})
	if len(dropped) < 2*ofRank || !strings.HasPrefix(dropped[0], "0a:") {
		t.Errorf("%d MACs were dropped", len(dropped))
	}
	if n := len(w.p.byID); n > 256+64+64+2 || len(w.p.mac) > n {
		t.Errorf("%d boots in memory", n)
	}
}

// TestNewcomersOfOneStorm: a thousand newcomers are powered on at once, and not one
// has to begin anew because the others came further.
func TestNewcomersOfOneStorm(t *testing.T) {
	w := newWorld(t)
	ids := make([]string, 1000)
	for _, stages := range [][]api.BootStage{{api.StageAck}, {api.StageIPXEAck}, {api.StageScript}, {api.StageConfig}} {
		w.update(func(tx store.Tx) error { // together, as a busy head node commits
			for i := range ids {
				r := firmware
				r.MAC, r.UUID = invented(i), ""
				b, _, err := w.p.Begin(tx, r, false, at(1))
				for _, s := range stages {
					if err == nil {
						_, err = w.p.Record(tx, b.ID, api.BootEvent{Stage: s}, at(1), nil)
					}
				}
				if err != nil {
					return err
				}
				ids[i] = b.ID
			}
			return nil
		})
		for _, id := range ids {
			w.p.Written(id)
		}
		if n := w.kept(ids...); n != len(ids) {
			t.Fatalf("at %s %d of %d boots are left", stages, n, len(ids))
		}
	}
}

// TestStrangersPerMAC: one MAC keeps ten boots, a server's twenty.
func TestStrangersPerMAC(t *testing.T) {
	w := newWorld(t)
	for i := range 30 {
		w.boots(mac1, false, at(float64(i)*3600), api.StageAck, api.StageScript)
	}
	count := func() (n int) {
		w.view(func(tx store.Tx) error { bs, err := ByMAC(tx, mac1, 0); n = len(bs); return err })
		return n
	}
	if n := count(); n != MaxPerStranger {
		t.Errorf("%d boots of a stranger", n)
	}
	w.update(func(tx store.Tx) error { return w.p.Adopt(tx, mac1) })
	for i := range 30 {
		w.boots(mac1, true, at(float64(100+i)*3600), api.StageAck, api.StageScript)
	}
	if n := count(); n != MaxPerMAC {
		t.Errorf("%d boots of a server", n)
	}
	w.view(func(tx store.Tx) error {
		for it := range tx.Scan(strangerPrefix, "") {
			t.Errorf("still a stranger's: %s", it.Key)
		}
		if list, _, err := w.p.Strangers(tx, at(130*3600)); len(list) != 0 || err != nil {
			t.Errorf("strangers: %v %v", list, err)
		}
		return nil
	})
}

// TestNote: what is noted is read at once, folded, and written by Flush; what is noted
// while Flush writes is not lost.
func TestNote(t *testing.T) {
	w := newWorld(t)
	note := func(id string, stage api.BootStage, s float64) {
		t.Helper()
		w.view(func(tx store.Tx) error { return w.p.Note(tx, id, api.BootEvent{Stage: stage}, at(s)) })
	}
	written := func(id string) (b api.Boot) {
		w.view(func(tx store.Tx) error { r, err := read(tx, id); b = r.Boot; return err })
		return b
	}
	id := w.boots(mac1, false, at(0), api.StageAck)
	for i := range 50 {
		note(id, api.StageFailed, 1+float64(i))
	}
	<-w.p.Dirty()
	if got := stages(w.get(id)); got != "discover ack failedx50" {
		t.Errorf("read %q", got)
	}
	if got := stages(written(id)); got != "discover ack" {
		t.Errorf("written at once: %q", got)
	}
	var ids []string
	w.update(func(tx store.Tx) (err error) { ids, _, err = w.p.Flush(tx); return err })
	note(id, api.StageStub, 100)
	w.p.Written(ids...)
	if got := stages(written(id)); got != "discover ack failedx50" {
		t.Errorf("flushed %q", got)
	}
	if got := stages(w.get(id)); got != "discover ack failedx50 stub" {
		t.Errorf("read %q", got)
	}
	<-w.p.Dirty()
	w.update(func(tx store.Tx) (err error) { ids, _, err = w.p.Flush(tx); return err })
	w.p.Written(ids...)
	if got := stages(written(id)); got != "discover ack failedx50 stub" || len(w.p.byID) != 0 || len(w.p.dirty) != 0 {
		t.Errorf("flushed %q, in memory %v", got, w.p.byID)
	}
	err := w.s.View(t.Context(), func(tx store.Tx) error {
		return w.p.Note(tx, "nosuchboot", api.BootEvent{Stage: api.StageStub}, at(1))
	})
	if err == nil || len(w.p.byID) != 0 {
		t.Errorf("a boot that never was: %v", err)
	}
}

// TestUpgrade: of boots that were written before, those of no server become strangers'.
func TestUpgrade(t *testing.T) {
	w := newWorld(t)
	for i := range 3 {
		w.boots(fmt.Sprintf("52:54:00:00:00:%02x", i), true, at(float64(i)), api.StageAck)
	}
	upgrade := func() {
		w.update(func(tx store.Tx) error {
			return Upgrade(tx, func(mac string) (bool, error) { return strings.HasSuffix(mac, ":01"), nil })
		})
	}
	strangers := func() (n int) {
		w.view(func(tx store.Tx) error {
			list, _, err := w.p.Strangers(tx, at(10))
			n = len(list)
			return err
		})
		return n
	}
	if upgrade(); strangers() != 0 {
		t.Error("a store that needs no upgrade was changed")
	}
	w.update(func(tx store.Tx) error { return store.Put(tx, "boot/count", 3) })
	if upgrade(); strangers() != 2 {
		t.Errorf("%d strangers", strangers())
	}
	w.view(func(tx store.Tx) error {
		if has, err := store.Has(tx, "boot/count"); has || err != nil {
			t.Errorf("the count is left: %v", err)
		}
		if bs, err := Since(tx, at(0)); len(bs) != 3 || err != nil {
			t.Errorf("boots since: %v %v", bs, err)
		}
		return nil
	})
}

// TestUpgradeLists: the keys with which a version before listed the boots of a MAC become
// its list, once.
func TestUpgradeLists(t *testing.T) {
	w := newWorld(t)
	var want []string
	for i := range 5 {
		want = slices.Insert(want, 0, w.boots(mac1, true, at(float64(i)*3600), api.StageAck))
	}
	w.boots("52:54:00:00:00:02", true, at(1), api.StageAck)
	w.update(func(tx store.Tx) error {
		for _, mac := range []string{mac1, "52:54:00:00:00:02"} {
			entries, err := ofMAC(tx, mac)
			if err != nil {
				return err
			}
			for _, e := range entries {
				if err := tx.Put("boot/mac/"+mac+"/"+e, nil); err != nil {
					return err
				}
			}
			if err := tx.Delete(macsPrefix + mac); err != nil {
				return err
			}
		}
		return nil
	})
	for range 2 {
		w.update(func(tx store.Tx) error {
			return Upgrade(tx, func(string) (bool, error) { return true, nil })
		})
		w.view(func(tx store.Tx) error {
			var got []string
			bs, err := ByMAC(tx, mac1, 0)
			for _, b := range bs {
				got = append(got, b.ID)
			}
			other, oerr := ByMAC(tx, "52:54:00:00:00:02", 0)
			if err != nil || oerr != nil || !slices.Equal(got, want) || len(other) != 1 {
				t.Errorf("boots %q and %d, want %q; %v %v", got, len(other), want, err, oerr)
			}
			if left, err := store.HasBelow(tx, "boot/mac/"); left || err != nil {
				t.Errorf("a key of before is left: %v", err)
			}
			return nil
		})
	}
}

func TestStanding(t *testing.T) {
	ev := func(stage api.BootStage, n int, detail string) api.BootEvent {
		return api.BootEvent{Stage: stage, Count: n, Detail: detail}
	}
	for _, c := range []struct {
		events []api.BootEvent
		want   string
	}{
		{nil, "nothing is known"},
		{[]api.BootEvent{ev(api.StageDiscover, 12, "")}, "firmware: DISCOVER answered 12 times, no REQUEST; "},
		{[]api.BootEvent{ev(api.StageDiscover, 0, "")}, "firmware: DISCOVER answered once, no REQUEST; "},
		{[]api.BootEvent{ev(api.StageDiscover, 2, ""), ev(api.StageRefused, 2, "range is full")}, "firmware: refused: range is full"},
		{[]api.BootEvent{ev(api.StageAck, 0, "")}, "firmware: has 10.0.0.9 and has read no boot file"},
		{[]api.BootEvent{ev(api.StageAck, 0, ""), ev(api.StageTFTP, 3, "")}, "firmware: iPXE was sent (3 times)"},
		{[]api.BootEvent{ev(api.StageTFTP, 0, ""), ev(api.StageIPXEDiscover, 0, "")}, "iPXE: DISCOVER answered once"},
		{[]api.BootEvent{ev(api.StageIPXEAck, 0, "")}, "iPXE: has 10.0.0.9 and has not asked for its script"},
		{[]api.BootEvent{ev(api.StageRefused, 0, "x"), ev(api.StageScript, 0, "")}, "iPXE: has its script"},
		{[]api.BootEvent{ev(api.StageConfig, 0, "")}, "kernel: sent as far as config"},
		{[]api.BootEvent{ev(api.StageStub, 0, ""), ev(api.StageFailed, 0, "no disk")}, "stub: it says: no disk"},
		{[]api.BootEvent{ev(api.StageSwitchRoot, 0, "")}, "platform: runs; its agent has not enrolled"},
	} {
		if got := Standing(api.Boot{Address: "10.0.0.9", Events: c.events}); !strings.HasPrefix(got, c.want) {
			t.Errorf("%v: %q, want %q", c.events, got, c.want)
		}
	}
}

// TestListsReadTogether: a list of hundreds asks the store a few times.
func TestListsReadTogether(t *testing.T) {
	w := newWorld(t)
	for i := range 300 {
		w.boots(fmt.Sprintf("52:54:00:00:%02x:%02x", i/256, i%256), i%2 == 0, at(float64(i)), api.StageAck)
	}
	for name, list := range map[string]func(store.Tx) (int, error){
		"strangers": func(tx store.Tx) (int, error) { l, _, err := w.p.Strangers(tx, at(300)); return 2 * len(l), err },
		"since":     func(tx store.Tx) (int, error) { l, err := Since(tx, at(0)); return len(l), err },
	} {
		n := 0
		if trips := storetest.Trips(t, w.s, func(tx store.Tx) (err error) { n, err = list(tx); return err }); n != 300 || trips > 12 {
			t.Errorf("%s: %d of 300 with %d requests", name, n, trips)
		}
	}
}
