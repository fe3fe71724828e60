package instances

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"reflect"
	"slices"
	"testing"
	"time"

	"nereid/api"
	"nereid/headnode/store"
	"nereid/headnode/store/storetest"
)

const owner, other = "00000000-0000-4000-a000-000000000001", "00000000-0000-4000-a000-000000000002"

var t0 = time.Date(2026, 11, 30, 16, 0, 0, 5, time.UTC)

func id(n int) string     { return fmt.Sprintf("00000000-0000-4000-9000-%012d", n) }
func server(n int) string { return fmt.Sprintf("00000000-0000-4000-8000-%012d", n) }

// world is a store with 40 instances of two accounts on three servers, in all states.
func world(t *testing.T) (s store.Store, do func(func(store.Tx) error)) {
	t.Helper()
	b, err := store.OpenBolt(t.Context(), filepath.Join(t.TempDir(), "db"), store.BoltOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	s = storetest.Twice(b)
	do = func(fn func(store.Tx) error) {
		t.Helper()
		if err := s.Update(t.Context(), fn); err != nil {
			t.Fatal(err)
		}
	}
	do(func(tx store.Tx) error {
		for n := range 40 {
			i := api.Instance{UUID: id(n), Owner: []string{owner, other}[n%2], Name: fmt.Sprintf("i%d", n), Brand: api.BrandLX, Image: id(1000 + n%3), Package: id(2000 + n%2),
				Server: server(n % 3), Wanted: WantRunning, Limits: api.Limits{MemoryMiB: 64, VCPUs: 1, QuotaMiB: 64}, Metadata: map[string]any{"user-data": "x\n<y>"},
				NICs: []api.InstanceNIC{{MAC: "02:00:00:00:00:01", Network: id(3), Primary: true, Addresses: []api.PortAddress{{Address: "10.0.0.9/9"}}}}}
			if n%4 > 0 {
				i.Tags = map[string]any{"role": []any{"web", "db <&> \n\"\\", 5}[n%3], "n": true}
			}
			r, err := Create(tx, t0, New{Instance: i, Image: api.ImageSpec{UUID: i.Image}, By: "root", Segments: []string{"tag"}})
			if err != nil {
				return err
			}
			st := api.InstanceStatus{UUID: r.UUID, State: states[n%len(states)], Started: t0.Add(time.Duration(n) * time.Second)}
			if n%5 == 4 {
				st.Reason, st.Until = `it "failed" <so>`, t0
			}
			if n%7 != 0 {
				if _, err = Take(tx, t0, r.Server, []api.InstanceStatus{st}); err != nil {
					return err
				}
			}
			r, err = get(tx, r.UUID)
			asked := Asked{By: "root", Now: t0}
			switch {
			case err != nil:
			case n%6 == 1:
				_, err = Stop(tx, asked, r, false)
			case n%6 == 2:
				_, err = Delete(tx, asked, r)
			case n%6 == 3 && n > 20:
				if r, err = Delete(tx, asked, r); err == nil {
					_, err = Finish(tx, t0, r)
				}
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
	return s, do
}

// A list shows of each instance what a look at it alone shows, but for its metadata;
// also where records are still in their former form.
func TestListShows(t *testing.T) {
	s, do := world(t)
	check := func(what string) {
		t.Helper()
		err := s.View(t.Context(), func(tx store.Tx) error {
			for _, f := range []struct {
				Filter
				keeps func(api.Instance) bool
			}{
				{Filter{}, func(api.Instance) bool { return true }},
				{Filter{Owner: owner}, func(i api.Instance) bool { return i.Owner == owner }},
				{Filter{Server: server(1)}, func(i api.Instance) bool { return i.Server == server(1) }},
				{Filter{Owner: other, Server: server(1)}, func(i api.Instance) bool { return i.Owner == other && i.Server == server(1) }},
				{Filter{Image: id(1001), Package: id(2001)}, func(i api.Instance) bool { return i.Image == id(1001) && i.Package == id(2001) }},
				{Filter{Name: "i8"}, func(i api.Instance) bool { return i.Name == "i8" }},
				{Filter{Tags: map[string]string{"role": "web", "n": "true"}}, func(i api.Instance) bool { return i.Tags["role"] == "web" }},
				{Filter{Tags: map[string]string{"role": "5"}}, func(i api.Instance) bool { return i.Tags["role"] == 5.0 }},
				{Filter{Keep: func(r *Row) bool { return r.State == api.InstanceStopping }}, func(i api.Instance) bool { return i.State == api.InstanceStopping }},
				{Filter{Deleted: true}, nil},
			} {
				want := map[string]api.Instance{}
				for n := range 40 {
					r, err := Find(tx, "", id(n))
					if err != nil {
						return err
					}
					i, err := Load(tx, r)
					if err != nil {
						return err
					}
					i.Metadata = nil
					if gone := i.State == api.InstanceDeleted; gone == f.Deleted && (gone || f.keeps(i)) {
						want[i.UUID] = i
					}
				}
				for _, limit := range []int{0, 1, 3, 40} {
					got := map[string]api.Instance{}
					for after, pages := "", 0; ; pages++ {
						rows, next, err := List(tx, f.Filter, after, limit)
						if err != nil {
							return err
						}
						for _, row := range rows {
							text, err := row.AppendJSON([]byte("x"))
							if err != nil {
								return err
							}
							var i api.Instance
							if err := json.Unmarshal(text[1:], &i); err != nil {
								return fmt.Errorf("%s: %w", text, err)
							}
							if _, twice := got[i.UUID]; twice {
								t.Errorf("%s, %+v: %s is there twice", what, f.Filter, i.UUID)
							}
							got[i.UUID] = i
						}
						if after = next; after == "" || pages > 40 {
							break
						}
					}
					if len(want) == 0 || !reflect.DeepEqual(got, want) {
						t.Errorf("%s, %+v, %d at a time:\n%+v, want\n%+v", what, f.Filter, limit, got, want)
					}
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	check("as they are stored")
	was := map[string]Record{}
	do(func(tx store.Tx) error {
		for _, prefix := range []string{recordPrefix, deletedPrefix} {
			for it, err := range tx.Scan(prefix, "") {
				if err != nil {
					return err
				}
				var r Record
				if err := json.Unmarshal(it.Value, &r); err != nil {
					return err
				}
				was[it.Key] = r
				type former Record
				if err := store.Put(tx, it.Key, former(r)); err != nil {
					return err
				}
			}
		}
		return nil
	})
	check("in the former form")
	do(func(tx store.Tx) error {
		for key, want := range was {
			r, err := store.Get[Record](tx, key)
			if err != nil || !reflect.DeepEqual(r, want) {
				t.Errorf("%s: %+v, %v; want %+v", key, r, err, want)
			}
			if err := putRecord(tx, key, r); err != nil {
				return err
			}
			again, err := store.Get[Record](tx, key)
			if err != nil || !reflect.DeepEqual(again, want) {
				t.Errorf("%s, written anew: %+v, %v; want %+v", key, again, err, want)
			}
		}
		return nil
	})
	check("written anew")
	if n := len(was); n != 40 {
		t.Errorf("%d records", n)
	}
}

// What is no word is in no record: a line of one would be read as another.
func TestRecordWords(t *testing.T) {
	if n := reflect.TypeFor[Record]().NumField(); n != 4 {
		t.Errorf("a record has %d fields; encodeRecord and UnmarshalJSON know of 4, and lose the others", n)
	}
	for _, name := range []string{"a b", "a\nb", `a"b`, "a<b", `a\b`} {
		if _, err := encodeRecord(Record{Instance: api.Instance{Name: name}}); err == nil {
			t.Errorf("a record of %q is written", name)
		}
	}
	if _, err := rowOf([]byte(`{"uuid":`), nil); err == nil {
		t.Error("half a record is a row")
	}
	if _, err := rowOf([]byte("[\n\"a b\",\n1,\n2,\n3\n]"), &Observed{}); err == nil {
		t.Error("a record without its words is a row")
	}
	words := []string{"a", "b", "c", "d", "e", "running"}
	value, err := encodeRecord(Record{Instance: api.Instance{Owner: words[0], Server: words[1], Image: words[2], Package: words[3], Name: words[4], Wanted: words[5]}})
	if err != nil {
		t.Fatal(err)
	}
	r, err := rowOf(value, &Observed{State: api.InstanceRunning})
	if got := []string{r.Owner, r.Server, r.Image, r.Package, r.Name, r.Wanted}; err != nil || !slices.Equal(got, words) || !json.Valid(value) {
		t.Errorf("%s reads as %v: %v", value, got, err)
	}
}
