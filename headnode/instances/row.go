package instances

import (
	"bytes"
	"encoding/json"
	"fmt"
	"regexp"
	"strings"
	"time"

	"nereid/api"
	"nereid/headnode/store"
)

// A record is stored as a JSON array with one element on each line, so that a list
// takes lines and decodes none of them:
//
//	[
//	"owner server image package name wanted",
//	its tags,
//	what is shown of it, but for its metadata, and its state,
//	what is not in those: recordRest
//	]
//
// Records of before that are one object.

// recordRest is what of a record is not shown from where it is stored.
type recordRest struct {
	Open     []open         `json:"open,omitempty"`
	Segments map[string]int `json:"segments,omitempty"`
	Metadata map[string]any `json:"customer_metadata,omitempty"`
	Rolled   []string       `json:"rolled,omitempty"`
	Observed                // of one that is deleted
}

// shownRow is an instance without what its row gets from elsewhere.
type shownRow struct {
	api.Instance
	State    *string    `json:"state,omitempty"`
	Reason   *string    `json:"reason,omitempty"`
	Until    *time.Time `json:"until,omitempty"`
	Started  *time.Time `json:"started,omitempty"`
	Metadata *string    `json:"customer_metadata,omitempty"`
	Internal *string    `json:"internal_metadata,omitempty"`
}

// putRecord writes a record at a key.
func putRecord(tx store.Tx, key string, r Record) error {
	value, err := encodeRecord(r)
	if err != nil {
		return fmt.Errorf("encode %q: %w", key, err)
	}
	return tx.Put(key, value)
}

// wordRE is what the words of a record's first line are made of.
var wordRE = regexp.MustCompile(`^[a-zA-Z0-9._-]*$`)

func encodeRecord(r Record) ([]byte, error) {
	head := []string{r.Owner, r.Server, r.Image, r.Package, r.Name, r.Wanted}
	for _, w := range head {
		if !wordRE.MatchString(w) {
			return nil, fmt.Errorf("%.64q is neither a UUID nor a name", w)
		}
	}
	out := []byte("[\n")
	for i, part := range []any{
		strings.Join(head, " "),
		r.Tags,
		shownRow{Instance: r.Instance},
		recordRest{Open: r.Open, Segments: r.Segments, Metadata: r.Metadata, Rolled: r.Rolled, Observed: Observed{State: r.State, Reason: r.Reason, Until: r.Until, Started: r.Started}},
	} {
		if i > 0 {
			out = append(out, ",\n"...)
		}
		text, err := json.Marshal(part)
		if err != nil {
			return nil, err
		}
		out = append(out, text...)
	}
	return append(out, "\n]"...), nil
}

// UnmarshalJSON reads a record of either form.
func (r *Record) UnmarshalJSON(text []byte) error {
	*r = Record{}
	if !bytes.HasPrefix(text, []byte("[")) {
		type former Record // without this method
		return json.Unmarshal(text, (*former)(r))
	}
	var parts []json.RawMessage
	if err := json.Unmarshal(text, &parts); err != nil {
		return err
	}
	if len(parts) != 4 {
		return fmt.Errorf("a record of an instance with %d parts", len(parts))
	}
	var rest recordRest
	if err := json.Unmarshal(parts[2], &r.Instance); err != nil {
		return err
	}
	if err := json.Unmarshal(parts[3], &rest); err != nil {
		return err
	}
	r.Open, r.Segments, r.Metadata, r.Rolled = rest.Open, rest.Segments, rest.Metadata, rest.Rolled
	r.State, r.Reason, r.Until, r.Started = rest.State, rest.Reason, rest.Until, rest.Started
	return nil
}

// Row is an instance as a list shows it: what it is chosen by, and all of it as JSON.
type Row struct {
	Owner, Server, Image, Package, Name, Wanted string

	State, Reason  string
	until, started time.Time

	tags, shown []byte // JSON
}

// rowOf is the row of a stored record. Its state is that which was reported, o; of one
// that is deleted, o is nil, and the state is its own.
func rowOf(value []byte, o *Observed) (Row, error) {
	lines := bytes.Split(value, []byte("\n"))
	if len(lines) != 6 {
		var r Record
		err := json.Unmarshal(value, &r)
		if err == nil {
			value, err = encodeRecord(r)
		}
		if lines = bytes.Split(value, []byte("\n")); err != nil || len(lines) != 6 {
			return Row{}, fmt.Errorf("a record of an instance in no form that is known: %w", err)
		}
	}
	head := strings.Split(strings.Trim(string(lines[1]), `",`), " ")
	if len(head) != 6 {
		return Row{}, fmt.Errorf("the first line of the record of an instance has %d words", len(head))
	}
	r := Row{Owner: head[0], Server: head[1], Image: head[2], Package: head[3], Name: head[4], Wanted: head[5],
		tags: bytes.TrimSuffix(lines[2], []byte(",")), shown: bytes.TrimSuffix(lines[3], []byte(","))}
	if o == nil {
		var rest recordRest
		if err := json.Unmarshal(lines[4], &rest); err != nil {
			return r, fmt.Errorf("decode the last line of the record of an instance: %w", err)
		}
		o = &rest.Observed
	} else {
		*o = told(r.Wanted, *o)
	}
	r.State, r.Reason, r.until, r.started = o.State, o.Reason, o.Until, o.Started
	return r, nil
}

// Size is about how many bytes AppendJSON adds.
func (r Row) Size() int { return len(r.shown) + len(r.Reason) + 128 }

// AppendJSON adds the row to out as an api.Instance is in JSON.
func (r Row) AppendJSON(out []byte) ([]byte, error) {
	out = append(out, bytes.TrimSuffix(r.shown, []byte("}"))...)
	out = append(out, `,"state":"`...)
	out = append(out, r.State...) // it is one of ours
	out = append(out, '"')
	if r.Reason != "" {
		text, err := json.Marshal(r.Reason)
		if err != nil {
			return nil, fmt.Errorf("reason of instance %s: %w", r.Name, err)
		}
		out = append(append(out, `,"reason":`...), text...)
	}
	for _, t := range []struct {
		name string
		at   time.Time
	}{{"until", r.until}, {"started", r.started}} {
		if t.at.IsZero() {
			continue
		}
		text, err := t.at.MarshalJSON()
		if err != nil {
			return nil, fmt.Errorf("%s of instance %s: %w", t.name, r.Name, err)
		}
		out = append(append(append(out, `,"`...), t.name...), `":`...)
		out = append(out, text...)
	}
	return append(out, '}'), nil
}

// tagged says whether a row has some tags, with these values.
func (r Row) tagged(want map[string]string) (bool, error) {
	if len(want) == 0 {
		return true, nil
	}
	var tags map[string]any
	if err := json.Unmarshal(r.tags, &tags); err != nil {
		return false, fmt.Errorf("tags of instance %s: %w", r.Name, err)
	}
	for k, w := range want {
		v, has := tags[k]
		if text, _ := scalar(v); !has || text != w {
			return false, nil
		}
	}
	return true, nil
}
