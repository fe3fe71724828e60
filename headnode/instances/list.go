package instances

import (
	"fmt"
	"iter"

	"nereid/headnode/store"
)

// Filter chooses instances of a list; empty fields choose all.
type Filter struct {
	Owner, Server, Image, Package, Name string

	Tags    map[string]string
	Deleted bool            // deleted ones, and no others
	Keep    func(*Row) bool // nil: all; it may change their states
}

// keeps says whether an instance is one that a filter chooses.
func (f Filter) keeps(r *Row) (bool, error) {
	for _, c := range [][2]string{{f.Owner, r.Owner}, {f.Server, r.Server}, {f.Image, r.Image}, {f.Package, r.Package}, {f.Name, r.Name}} {
		if c[0] != "" && c[0] != c[1] {
			return false, nil
		}
	}
	has, err := r.tagged(f.Tags)
	return has && (f.Keep == nil || f.Keep(r)), err
}

// batch is how many records are read together.
const batch = 512

// List gives a page of instances without their metadata: at most limit (0: all) behind
// after. next is what to pass as after for the page that follows; empty on the last.
// It reads an index where the filter names an owner or a server, or else all.
func List(tx store.Tx, f Filter, after string, limit int) (out []Row, next string, err error) {
	defer named(&err, "list instances")
	prefix, indexed := recordPrefix, false
	switch {
	case f.Deleted:
		prefix = deletedPrefix
	case f.Owner != "":
		prefix, indexed = ownerPrefix+f.Owner+"/", true
	case f.Server != "":
		prefix, indexed = serverPrefix+f.Server+"/", true
	}
	last := ""
	for chunk, err := range chunks(tx, prefix, after, indexed, f.Deleted) {
		if err != nil {
			return nil, "", err
		}
		for _, c := range chunk {
			keeps, err := f.keeps(&c.row)
			if err != nil {
				return nil, "", err
			}
			if !keeps {
				continue
			}
			if limit > 0 && len(out) == limit {
				return out, last, nil
			}
			out, last = append(out, c.row), c.tail
		}
	}
	return out, "", nil
}

// chunk is an instance as a list reads it; tail is its key behind the prefix.
type chunk struct {
	tail string
	row  Row
}

// chunks ranges over instances, many at a time, since what is read together costs less.
func chunks(tx store.Tx, prefix, after string, indexed, deleted bool) iter.Seq2[[]chunk, error] {
	return func(yield func([]chunk, error) bool) {
		var items []store.Item
		from := ""
		if after != "" {
			from = prefix + after
		}
		flush := func() bool {
			out, err := readChunk(tx, prefix, items, indexed, deleted)
			items = items[:0]
			return yield(out, err) && err == nil
		}
		for it, err := range tx.Scan(prefix, from) {
			if err != nil {
				yield(nil, err)
				return
			}
			if items = append(items, it); len(items) == batch && !flush() {
				return
			}
		}
		if len(items) > 0 {
			flush()
		}
	}
}

func readChunk(tx store.Tx, prefix string, items []store.Item, indexed, deleted bool) ([]chunk, error) {
	out := make([]chunk, len(items))
	records, states := make([]string, len(items)), make([]string, len(items))
	for i, it := range items {
		out[i].tail = it.Key[len(prefix):]
		uuid := it.Key[len(it.Key)-36:]
		records[i], states[i] = recordPrefix+uuid, statePrefix+uuid
	}
	if indexed {
		values, err := tx.GetAll(records...)
		if err != nil {
			return nil, err
		}
		for i := range items {
			if items[i].Value = values[i]; values[i] == nil {
				return nil, fmt.Errorf("get %q: %w", records[i], store.ErrNotFound)
			}
		}
	}
	observed := make([]*Observed, len(items))
	if !deleted {
		var err error
		if observed, err = store.LookupAll[Observed](tx, states...); err != nil {
			return nil, err
		}
	}
	for i, it := range items {
		o := observed[i]
		if o == nil && !deleted {
			o = &Observed{}
		}
		var err error
		if out[i].row, err = rowOf(it.Value, o); err != nil {
			return nil, fmt.Errorf("read %q: %w", it.Key, err)
		}
	}
	return out, nil
}

// onServer ranges over the records of a server's instances, by owner and UUID.
func onServer(tx store.Tx, server string) iter.Seq2[Record, error] {
	return through(tx, serverPrefix+server+"/")
}

// OfServer ranges over the records of an account's instances on a server; without an
// account, of all on it.
func OfServer(tx store.Tx, server, owner string) iter.Seq2[Record, error] {
	prefix := serverPrefix + server + "/"
	if owner != "" {
		prefix += owner + "/"
	}
	return through(tx, prefix)
}

// OfOwner ranges over the records of an account's instances.
func OfOwner(tx store.Tx, owner string) iter.Seq2[Record, error] {
	return through(tx, ownerPrefix+owner+"/")
}

// AnyOn says whether an instance is on a server.
func AnyOn(tx store.Tx, server string) (bool, error) {
	for _, err := range tx.Scan(serverPrefix+server+"/", "") {
		return err == nil, err
	}
	return false, nil
}

func through(tx store.Tx, prefix string) iter.Seq2[Record, error] {
	return func(yield func(Record, error) bool) {
		key := func(it store.Item) string { return recordPrefix + it.Key[len(it.Key)-36:] }
		for e, err := range store.Through[Record](tx, prefix, "", key) {
			if !yield(e.Value, err) || err != nil {
				return
			}
		}
	}
}
