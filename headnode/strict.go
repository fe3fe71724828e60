package headnode

import (
	"bytes"
	"cmp"
	"context"
	"encoding"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"reflect"
	"slices"
	"strings"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"
	"github.com/danielgtaylor/huma/v2/validation"

	"nereid/api"
	"nereid/headnode/answers"
	"nereid/headnode/store"
)

// Operators' requests are taken at their word: what the head node would not do
// anything with is refused, and all of it is named at once. Agents' are not, since an
// agent may be newer than its head node.

// form is what a request may hold.
type form struct {
	body     reflect.Type      // nil: nothing
	fixed    map[string]string // properties that the object has and the request cannot set, and why
	made     map[string]string // the same, but without a value they may be there
	collects bool              // the faults go to update, which tells them with the subject's

	conditional bool // it compares If-Match
}

// fault is what is wrong with one property.
type fault struct {
	at, text string
	typed    bool // what it is in cannot be read
	mended   bool // but it can be without this property, or with its text
}

// formKey is where the options of an operation leave its form.
const formKey = "form"

// collects leaves it to update to tell the faults of a body, together with those that
// the subject finds.
func collects(op *huma.Operation) { formOf(op).collects = true }

// settable says of which properties of an object a request says nothing, and why.
func settable(fixed, made map[string]string) func(*huma.Operation) {
	return func(op *huma.Operation) { formOf(op).fixed, formOf(op).made = fixed, made }
}

func formOf(op *huma.Operation) *form {
	f, ok := op.Metadata[formKey].(*form)
	if !ok {
		f = &form{}
		op.Metadata = map[string]any{formKey: f}
	}
	return f
}

// strict refuses what an operation does not know of a request's body and query.
func strict(h huma.API, f *form) func(huma.Context, func(huma.Context)) {
	return func(ctx huma.Context, next func(huma.Context)) {
		op := ctx.Operation()
		r, w := humago.Unwrap(ctx)
		limit := op.MaxBodyBytes
		body, err := io.ReadAll(io.LimitReader(r.Body, limit+1))
		r.Body = io.NopCloser(io.MultiReader(bytes.NewReader(body), r.Body))
		if err != nil || int64(len(body)) > limit {
			next(ctx) // huma says so
			return
		}
		found := unknownQuery(op, ctx)
		var mended []byte
		if f.body != nil || op.RequestBody == nil {
			var more []fault
			more, mended = f.faults(body)
			found = append(found, more...)
		}
		if f.body != nil && !op.SkipValidateBody {
			found = addRules(found, h, op, body)
		}
		condition, ok := parseIfMatch(r.Header.Values("If-Match"))
		switch {
		case !ok:
			found = append(found, fault{at: "If-Match", text: `want revisions in quotes, as "a", "b", or *`, typed: true})
		case condition.given && !f.conditional && op.Method != http.MethodGet:
			found = append(found, fault{at: "If-Match", text: "this request compares no revisions; leave it out", typed: true})
		}
		ctx = huma.WithValue(ctx, preconditionKey{}, condition)
		ctx = huma.WithValue(ctx, confirmKey{}, ctx.Query("confirm"))
		if len(found) == 0 {
			next(ctx)
			return
		}
		err = faultsError(found)
		if f.collects && !slices.ContainsFunc(found, func(f fault) bool { return f.typed && !(f.mended && op.SkipValidateBody) }) {
			r.Body = io.NopCloser(bytes.NewReader(mended))
			next(huma.WithValue(ctx, faultKey{}, err))
			return
		}
		p, _ := problemOf(err)
		writeProblem(statusWriter{w, ctx}, p)
	}
}

// statusWriter lets the operation know the status, which is logged.
type statusWriter struct {
	http.ResponseWriter
	ctx huma.Context
}

func (w statusWriter) WriteHeader(n int) { w.ctx.SetStatus(n) }

type faultKey struct{}

// update is store.Update for a request: what is wrong with its form is told with what
// fn refuses, and then nothing is written; nor when there are side effects that the
// request does not agree to.
func (s *Server) update(ctx context.Context, fn func(tx store.Tx) error) error {
	form, _ := ctx.Value(faultKey{}).(error)
	return s.write(ctx, func(n *noting) error {
		err := fn(n)
		if p, expected := problemOf(err); form != nil && err != nil && expected {
			err = p
		}
		if err := api.Faults(form, err); err != nil {
			return err
		}
		return agreed(ctx, n.effects)
	})
}

// faultsError is one refusal of all faults.
func faultsError(found []fault) error {
	errs := make([]error, len(found))
	for i, f := range found {
		errs[i] = refuse(http.StatusUnprocessableEntity, api.CodeInvalid, "see /openapi.json for what is expected", "%s: %s", f.at, f.text)
	}
	return api.Faults(errs...)
}

// unknownQuery are the parts of a query that the operation does not look at.
func unknownQuery(op *huma.Operation, ctx huma.Context) []fault {
	known := map[string]bool{}
	for _, p := range op.Parameters {
		if p.In == "query" {
			known[p.Name] = true
		}
	}
	var out []fault
	u := ctx.URL()
	q := u.Query()
	for _, name := range slices.Sorted(maps.Keys(q)) {
		if !known[name] {
			out = append(out, fault{at: "?" + name, text: "the query has no such part" + answers.Nearest(name, known), typed: true})
		}
	}
	return out
}

// addRules adds what the rules of the API's description say of a body: lengths,
// ranges, what has to be there. What was found already is not said twice.
func addRules(found []fault, h huma.API, op *huma.Operation, body []byte) []fault {
	media := op.RequestBody.Content["application/json"]
	var v any
	if media == nil || json.Unmarshal(body, &v) != nil {
		return found
	}
	var res huma.ValidateResult
	huma.Validate(h.OpenAPI().Components.Schemas, media.Schema, huma.NewPathBuffer(nil, 0), huma.ModeWriteToServer, v, &res)
	var more []fault
	for _, err := range res.Errors {
		d, ok := err.(*huma.ErrorDetail)
		if ok && d.Message != validation.MsgUnexpectedProperty && !slices.ContainsFunc(found, func(f fault) bool { return f.at == d.Location }) {
			more = append(more, fault{at: d.Location, text: d.Message, typed: true})
		}
	}
	return append(found, more...)
}

// faults lists all that a body has and its type does not take. They are nil for what
// is no JSON, of which huma complains. mended is the body in which what has the wrong
// type is left out, or is its own text where a text is wanted: the subject finds in it
// what else is wrong.
func (f *form) faults(body []byte) (found []fault, mended []byte) {
	if !json.Valid(body) {
		return nil, body
	}
	t := f.body
	if t == nil {
		t = reflect.TypeFor[none]()
	}
	l := looker{form: f}
	mended = l.look(body, t, "")
	if !slices.ContainsFunc(l.found, func(f fault) bool { return f.typed }) {
		mended = body // as it came, byte for byte
	}
	return l.found, mended
}

type looker struct {
	*form
	found []fault
}

func (l *looker) add(at, format string, args ...any) {
	l.found = append(l.found, fault{at: cmp.Or(at, "the body"), text: fmt.Sprintf(format, args...)})
}

// wrong adds that a value has the wrong type, and gives what stands for it.
func (l *looker) wrong(raw json.RawMessage, t reflect.Type, at string) json.RawMessage {
	l.found = append(l.found, fault{cmp.Or(at, "the body"), fmt.Sprintf("%.64s is not %s", raw, kindOf(t)), true, at != ""})
	if t.Kind() != reflect.String || reads(t) || strings.HasSuffix(at, "]") {
		return nil
	}
	text, err := json.Marshal(string(raw))
	if err != nil {
		return nil
	}
	return text
}

// look gives a value as it can be read; nil: not at all.
func (l *looker) look(raw json.RawMessage, t reflect.Type, at string) json.RawMessage {
	pointer := t.Kind() == reflect.Pointer
	if pointer {
		t = t.Elem()
	}
	list := t.Kind() == reflect.Slice || t.Kind() == reflect.Map
	if string(raw) == "null" {
		if (at != "" || !pointer) && (pointer || !list) {
			l.add(at, "null says nothing; leave it out, or give %s", kindOf(t))
		}
		return raw
	}
	switch {
	case reads(t), list && t.Elem().Kind() == reflect.Uint8, !list && t.Kind() != reflect.Struct:
		if json.Unmarshal(raw, reflect.New(t).Interface()) == nil {
			return raw
		}
		if text := l.wrong(raw, t, at); !pointer { // without one nothing is asked of the property
			return text
		}
		return nil
	case t.Kind() == reflect.Slice:
		var vs []json.RawMessage
		if json.Unmarshal(raw, &vs) != nil {
			return l.wrong(raw, t, at)
		}
		good := []json.RawMessage{}
		for i, v := range vs {
			if v = l.look(v, t.Elem(), fmt.Sprintf("%s[%d]", at, i)); v != nil {
				good = append(good, v)
			}
		}
		return encoded(good)
	}
	return l.members(raw, t, at)
}

// encoded is JSON of what JSON was read into.
func encoded(v any) json.RawMessage {
	b, err := json.Marshal(v)
	if err != nil {
		return nil
	}
	return b
}

// members looks at those of an object.
func (l *looker) members(raw json.RawMessage, t reflect.Type, at string) json.RawMessage {
	var m map[string]json.RawMessage
	if json.Unmarshal(raw, &m) != nil {
		return l.wrong(raw, t, at)
	}
	known := map[string]reflect.Type{}
	if t.Kind() == reflect.Struct {
		known = properties(t)
	}
	for _, name := range slices.Sorted(maps.Keys(m)) {
		where, of := name, known[name]
		if at != "" {
			where = at + "." + name
		}
		fixed, isFixed := l.fixed[name]
		made, isMade := l.made[name]
		switch {
		case at == "" && isFixed && t.Kind() != reflect.Map:
			l.add(where, "it cannot be set: %s", fixed)
		case at == "" && isMade && t.Kind() != reflect.Map && !empty(m[name]):
			l.add(where, "it cannot be set: %s", made)
		case t.Kind() == reflect.Map, of != nil:
			if of == nil {
				of = t.Elem()
			}
			if m[name] = l.look(m[name], of, where); m[name] == nil {
				delete(m, name)
			}
		case at != "" || !isMade:
			l.add(where, "there is no such property%s", answers.Nearest(name, keys(known)))
		}
	}
	return encoded(m)
}

func keys[V any](m map[string]V) map[string]bool {
	out := map[string]bool{}
	for k := range m {
		out[k] = true
	}
	return out
}

// properties are the names of a struct's JSON, with their types.
func properties(t reflect.Type) map[string]reflect.Type {
	out := map[string]reflect.Type{}
	for _, f := range reflect.VisibleFields(t) {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if f.IsExported() && name != "" && name != "-" {
			out[name] = f.Type
		}
	}
	return out
}

// empty says whether a value is the one of a property that was not set.
func empty(raw json.RawMessage) bool {
	return slices.Contains([]string{`""`, "0", "false", "null", "[]", "{}", `"0001-01-01T00:00:00Z"`}, string(raw))
}

// reads says whether a type reads its JSON itself.
func reads(t reflect.Type) bool {
	p := reflect.PointerTo(t)
	return p.Implements(reflect.TypeFor[json.Unmarshaler]()) || p.Implements(reflect.TypeFor[encoding.TextUnmarshaler]())
}

// kindOf names for people what JSON a type is read from.
func kindOf(t reflect.Type) string {
	switch {
	case reads(t):
		return fmt.Sprintf("a %s as text", t.Name())
	case t.Kind() == reflect.String:
		return "a string"
	case t.Kind() == reflect.Bool:
		return "true or false"
	case t.Kind() == reflect.Struct, t.Kind() == reflect.Map:
		return "an object"
	case t.Kind() == reflect.Slice && t.Elem().Kind() == reflect.Uint8:
		return "base64"
	case t.Kind() == reflect.Slice:
		return "a list"
	case t.Kind() >= reflect.Uint && t.Kind() <= reflect.Uint32:
		return fmt.Sprintf("a whole number from 0 to %d", uint64(1)<<t.Bits()-1)
	case t.Kind() >= reflect.Int && t.Kind() <= reflect.Uint64:
		return "a whole number"
	}
	return "a number"
}
