package headnode

import (
	"context"
	"maps"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"nereid/api"
	"nereid/headnode/instances"
	"nereid/headnode/store"
)

// objects are the requests that every kind of network object has. Below path,
// {names} are arguments of every function; the object's own name follows as the
// argument "id".
type objects[T, U any] struct {
	path    string
	thing   string   // in a sentence: "NIC tag"
	filters []string // parts of the query that list looks at

	list   func(tx store.Tx, q listing) ([]T, string, error)
	rows   func(tx store.Tx, q listing) ([]instances.Row, string, error) // in place of list: JSON of T already
	get    func(tx store.Tx, args args) (T, error)
	create func(tx store.Tx, args args, v T) (T, error) // nil: made by what uses it
	update func(tx store.Tx, args args, u U) (T, error) // nil: never changes
	delete func(tx store.Tx, args args) error           // nil: deleted with what uses it

	fixed map[string]string // properties that never change once it is made, and why
	made  map[string]string // properties that nobody sets, and why

	// about says who has to do with an object: events that have what its path ends with
	// (Name), and its owners and servers, one each. Nil: watchers are told of the list.
	about func(v T) []api.Event
}

// tell notes that an object changed or is gone, at its path; or, at that of the list, that
// it is new.
func (o objects[T, U]) tell(tx store.Tx, path string, v T, isNew bool) {
	about := []api.Event{{}}
	if o.about != nil {
		about = o.about(v)
	}
	for _, ev := range about {
		tell(tx, objectEvent(o.thing, path, ev, isNew))
	}
}

// args are the named parts of a path.
type args map[string]string

// listing is what a list is asked for.
type listing struct {
	args   args
	filter map[string]string // only those that were given
	after  string
	limit  int
}

// maxPage is the length of a page, and its greatest.
const maxPage = 1000

// objectQuery is a request about objects; its parts are read by name, since the
// kinds differ in them.
type objectQuery struct {
	Limit int    `query:"limit" minimum:"0" maximum:"1000" doc:"at most so many; 0: 1000"`
	After string `query:"after" doc:"next of the page before"`

	param func(string) string
	query func(string) string
}

// Resolve keeps the way to the other parts.
func (q *objectQuery) Resolve(ctx huma.Context) []error {
	q.param, q.query = ctx.Param, ctx.Query
	return nil
}

// objectBody is a request with a body. huma does not look into the embedded
// query, whose parts Resolve reads.
type objectBody[B any] struct {
	objectQuery
	Body B
}

// at is a path with the parts that a request has in place of its {names}.
func (q *objectQuery) at(path string) string {
	for _, n := range names(path) {
		path = strings.Replace(path, "{"+n+"}", url.PathEscape(q.param(n)), 1)
	}
	return path
}

// names are the {names} of a path.
func names(path string) []string {
	var out []string
	for part := range strings.SplitSeq(path, "/") {
		if strings.HasPrefix(part, "{") {
			out = append(out, strings.Trim(part, "{}"))
		}
	}
	return out
}

// described adds what Resolve reads to the API's description.
func described(path string, filters []string) func(*huma.Operation) {
	return func(op *huma.Operation) {
		for _, n := range names(path) {
			op.Parameters = append(op.Parameters, &huma.Param{Name: n, In: "path", Required: true, Schema: &huma.Schema{Type: huma.TypeString}})
		}
		for _, n := range filters {
			op.Parameters = append(op.Parameters, &huma.Param{Name: n, In: "query", Schema: &huma.Schema{Type: huma.TypeString}})
		}
	}
}

// routeObjects adds the requests of one kind.
func routeObjects[T, U any](s *Server, h huma.API, o objects[T, U]) {
	one := o.path + "/{id}"
	of := func(path string, q objectQuery) args {
		out := args{}
		for _, n := range names(path) {
			out[n] = q.param(n)
		}
		return out
	}
	asked := func(in *objectQuery) listing {
		q := listing{args: of(o.path, *in), filter: map[string]string{}, after: in.After, limit: in.Limit}
		if q.limit == 0 {
			q.limit = maxPage
		}
		for _, f := range o.filters {
			if v := in.query(f); v != "" {
				q.filter[f] = v
			}
		}
		return q
	}
	if o.rows != nil {
		route(s, h, operators, http.MethodGet, o.path, "List "+o.thing+"s", func(ctx context.Context, in *objectQuery) (*body[rows[T]], error) {
			var out rows[T]
			err := s.store.View(ctx, func(tx store.Tx) (err error) {
				out.items, out.next, err = o.rows(tx, asked(in))
				return err
			})
			return answer(out), err
		}, described(o.path, o.filters))
	} else {
		route(s, h, operators, http.MethodGet, o.path, "List "+o.thing+"s", func(ctx context.Context, in *objectQuery) (*body[list[T]], error) {
			out := list[T]{}
			err := s.store.View(ctx, func(tx store.Tx) (err error) {
				out.Items, out.Next, err = o.list(tx, asked(in))
				if out.Items == nil {
					out.Items = []T{}
				}
				return err
			})
			return answer(out), err
		}, described(o.path, o.filters))
	}
	route(s, h, operators, http.MethodGet, one, "Show a "+o.thing, func(ctx context.Context, in *objectQuery) (*tagged[T], error) {
		var out T
		err := s.store.View(ctx, func(tx store.Tx) (err error) {
			out, err = o.get(tx, of(one, *in))
			return err
		})
		return withTag(out), err
	}, described(one, nil))
	if o.create != nil {
		route(s, h, operators, http.MethodPost, o.path, "Make a "+o.thing, func(ctx context.Context, in *objectBody[T]) (*tagged[T], error) {
			var out T
			err := s.update(ctx, func(tx store.Tx) (err error) {
				if out, err = o.create(tx, of(o.path, in.objectQuery), in.Body); err == nil {
					o.tell(tx, in.at(o.path), out, true)
				}
				return err
			})
			return withTag(out), err
		}, described(o.path, nil), status(http.StatusCreated), lenient, collects, confirms, settable(nil, o.made))
	}
	// unchanged refuses a change that is meant for another revision.
	unchanged := func(ctx context.Context, tx store.Tx, a args) (v T, err error) {
		if v, err = o.get(tx, a); err != nil {
			return v, err
		}
		return v, ifMatch(ctx, o.thing+" "+a["id"], revisionOf(v))
	}
	if o.update != nil {
		fixed := map[string]string{}
		maps.Copy(fixed, o.made)
		maps.Copy(fixed, o.fixed)
		route(s, h, operators, http.MethodPatch, one, "Change a "+o.thing, func(ctx context.Context, in *objectBody[U]) (*tagged[T], error) {
			var out T
			err := s.update(ctx, func(tx store.Tx) (err error) {
				a := of(one, in.objectQuery)
				was, err := unchanged(ctx, tx, a)
				if err != nil {
					return err
				}
				if out, err = o.update(tx, a, in.Body); err != nil {
					return err
				}
				o.tell(tx, in.at(o.path), was, false) // whose it was may be another's now
				o.tell(tx, in.at(o.path), out, false)
				return nil
			})
			return withTag(out), err
		}, described(one, nil), conditional, lenient, collects, confirms, settable(fixed, nil))
	}
	if o.delete != nil {
		route(s, h, operators, http.MethodDelete, one, "Delete a "+o.thing, func(ctx context.Context, in *objectQuery) (*none, error) {
			err := s.update(ctx, func(tx store.Tx) error {
				a := of(one, *in)
				was, err := unchanged(ctx, tx, a)
				if err != nil {
					return err
				}
				o.tell(tx, in.at(o.path), was, false)
				return o.delete(tx, a)
			})
			return nil, err
		}, described(one, nil), conditional, confirms, status(http.StatusNoContent))
	}
}

// lenient leaves the body to the subjects, whose refusals say what to do next.
func lenient(op *huma.Operation) { op.SkipValidateBody = true }

// filtered drops what keep does not want of a page.
func filtered[T any](all []T, next string, err error, keep func(T) bool) ([]T, string, error) {
	out := []T{}
	for _, v := range all {
		if keep(v) {
			out = append(out, v)
		}
	}
	return out, next, err
}

// number reads an argument that is a number.
func (a args) number(name string, bits int) (uint64, error) {
	n, err := strconv.ParseUint(a[name], 10, bits)
	if err != nil {
		return 0, refuse(http.StatusUnprocessableEntity, api.CodeInvalid, "give a number", "%s %q is no number, or too large", name, a[name])
	}
	return n, nil
}
