package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/url"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"nereid/api"
)

// kind is one kind of object of the network, for the verbs that are the same for
// all: list, get and delete. parents are the arguments that say where the objects
// are, as the network of an address.
type kind[T, U any] struct {
	noun    string   // as typed, "nictag"
	thing   string   // in a sentence, "NIC tag"
	parents []string // "NETWORK"
	id      string   // "NAME"
	example []string // arguments of an example's get: parents, then the id
	open    func(c *api.Client, parents []string) (api.Objects[T, U], error)
	header  []string
	prose   bool // the last column holds sentences
	row     func(T) []cell
	name    func(T) string // what get takes
	delete  string         // what deleting does, a sentence for --help
	// alerts are what get tells people besides: a title and what is wrong around the
	// object, one sentence each. Nil: nothing.
	alerts func(ctx context.Context, c *api.Client, v T) (title string, alerts []string)
	// plain is what get prints line by line for people, and beside what comes below. Nil: all
	// of it, and nothing.
	plain  func(T) T
	beside func(*card, T)
}

func (k kind[T, U]) usage(verb string, more ...string) string {
	return strings.Join(slices.Concat([]string{verb}, k.parents, more), " ")
}

func (k kind[T, U]) line(verb string, more ...string) string {
	return strings.Join(slices.Concat([]string{"nereid", k.noun, verb}, k.example[:len(k.parents)], more), " ")
}

func (k kind[T, U]) table(a *app, all []T) *table {
	t := a.table(k.header...)
	t.prose = k.prose
	for _, v := range all {
		t.add(k.row(v)...)
	}
	return t
}

// filter is a flag of list that becomes part of the query.
type filter struct{ flag, query, what string }

// list makes the command that lists the objects.
func list[T, U any](a *app, k kind[T, U], filters ...filter) *cobra.Command {
	values := map[string]*string{} // by part of the query
	cmd := &cobra.Command{
		Use: k.usage("list"), Short: "List " + api.Plurals(k.thing),
		Example:           lines(k.line("list"), k.line("list", "-o", "json")),
		Args:              wants(k.parents...),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: a.withAPI(func(ctx context.Context, c *api.Client, args []string) error {
			objs, err := k.open(c, args)
			if err != nil {
				return err
			}
			q := url.Values{}
			for name, v := range values {
				if *v != "" {
					q.Set(name, *v)
				}
			}
			all := []T{}
			for v, err := range objs.All(ctx, q) {
				if err != nil {
					return err
				}
				all = append(all, v)
			}
			return a.emit(all, func(w io.Writer) error {
				if len(all) == 0 {
					_, err := fmt.Fprintf(w, "No %s.\n", api.Plurals(k.thing))
					return err
				}
				return k.table(a, all).write(w)
			})
		}),
	}
	for _, f := range filters {
		values[f.query] = cmd.Flags().String(f.flag, "", f.what)
	}
	return cmd
}

// get makes the command that shows one object.
func get[T, U any](a *app, k kind[T, U]) *cobra.Command {
	return &cobra.Command{
		Use: k.usage("get", k.id), Short: "Show " + article(k.thing),
		Example:           lines("nereid "+k.noun+" get "+strings.Join(k.example, " "), "nereid "+k.noun+" get "+strings.Join(k.example, " ")+" -o json"),
		Args:              wants(append(slices.Clone(k.parents), k.id)...),
		ValidArgsFunction: completeObjects(a, k),
		RunE: a.withAPI(func(ctx context.Context, c *api.Client, args []string) error {
			objs, err := k.open(c, args)
			if err != nil {
				return err
			}
			v, err := objs.Get(ctx, args[len(k.parents)])
			if err != nil {
				return err
			}
			if k.beside != nil {
				return a.showAs(v, k.plain(v), func(c *card) { k.beside(c, v) })
			}
			if k.alerts == nil {
				return a.show(v)
			}
			return a.showBeside(v, func(card *card) {
				if title, alerts := k.alerts(ctx, c, v); len(alerts) > 0 {
					card.section(title)
					card.bullets(alerts, yellow)
				}
			})
		}),
	}
}

// remove makes the command that deletes one object; it asks first.
func remove[T, U any](a *app, k kind[T, U]) *cobra.Command {
	var yes bool
	cmd := &cobra.Command{
		Use: k.usage("delete", k.id), Short: "Delete a " + k.thing + " that nothing uses",
		Long:              k.delete,
		Example:           lines("nereid "+k.noun+" delete "+strings.Join(k.example, " "), "nereid "+k.noun+" delete "+strings.Join(k.example, " ")+" --yes"),
		Args:              wants(append(slices.Clone(k.parents), k.id)...),
		ValidArgsFunction: completeObjects(a, k),
		RunE: a.withAPI(func(ctx context.Context, c *api.Client, args []string) error {
			objs, err := k.open(c, args)
			if err != nil {
				return err
			}
			id := args[len(k.parents)]
			v, err := objs.Get(ctx, id)
			if err != nil {
				return err
			}
			if err := a.confirm(ctx, yes, "delete %s %s", k.thing, k.name(v)); err != nil {
				return err
			}
			if err := a.agree(ctx, yes, func(ctx context.Context) error { return objs.Delete(ctx, id) }); err != nil {
				return err
			}
			return a.done(v, "%s %s is deleted", k.thing, k.name(v))
		}),
	}
	yesFlag(cmd, &yes)
	return cmd
}

// completeObjects offers the names of the objects that are there.
func completeObjects[T, U any](a *app, k kind[T, U]) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
		if len(args) != len(k.parents) {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		c, err := a.api()
		if err != nil {
			return nil, cobra.ShellCompDirectiveError
		}
		objs, err := k.open(c, args)
		if err != nil {
			return nil, cobra.ShellCompDirectiveError
		}
		ctx, cancel := context.WithTimeout(cmd.Context(), completionLimit)
		defer cancel()
		var out []cobra.Completion
		for v, err := range objs.All(ctx, nil) {
			if err != nil {
				return nil, cobra.ShellCompDirectiveError
			}
			out = append(out, oneLine(k.name(v)))
		}
		return out, cobra.ShellCompDirectiveNoFileComp
	}
}

// show prints an object: its JSON names and values, one a line, for people.
func (a *app) show(v any) error { return a.showBeside(v, func(*card) {}) }

// showBeside is show, with more below for people.
func (a *app) showBeside(v any, more func(*card)) error { return a.showAs(v, v, more) }

// showAs is showBeside with another object for people than for programs.
func (a *app) showAs(v, people any, more func(*card)) error {
	return a.emit(v, func(w io.Writer) error {
		pairs, err := flatten(people)
		if err != nil {
			return err
		}
		width := 0
		for _, p := range pairs {
			width = max(width, len(p[0]))
		}
		c := a.card(w)
		for _, p := range pairs {
			c.hang(fmt.Sprintf("%-*s  ", width, p[0]), oneLine(p[1]), plain)
		}
		more(c)
		return c.err
	})
}

// flatten gives the names and values of an object in the order of its JSON.
func flatten(v any) ([][2]string, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("print: %w", err)
	}
	dec := json.NewDecoder(bytes.NewReader(b))
	if _, err := dec.Token(); err != nil { // the opening brace
		return nil, fmt.Errorf("print: %w", err)
	}
	var out [][2]string
	for dec.More() {
		name, err := dec.Token()
		if err != nil {
			return nil, fmt.Errorf("print: %w", err)
		}
		var raw json.RawMessage
		if err := dec.Decode(&raw); err != nil {
			return nil, fmt.Errorf("print: %w", err)
		}
		if s := plainValue(raw); s != "" {
			out = append(out, [2]string{fmt.Sprint(name), s})
		}
	}
	return out, nil
}

// plainValue is a JSON value without quotes and brackets.
func plainValue(raw json.RawMessage) string {
	var s string
	if json.Unmarshal(raw, &s) == nil {
		return s
	}
	var many []json.RawMessage
	if json.Unmarshal(raw, &many) == nil {
		parts := make([]string, len(many))
		for i, m := range many {
			parts[i] = plainValue(m)
		}
		return strings.Join(parts, ", ")
	}
	var fields map[string]json.RawMessage
	if json.Unmarshal(raw, &fields) == nil && fields != nil {
		var parts []string
		for name, m := range fields {
			parts = append(parts, name+"="+plainValue(m))
		}
		slices.Sort(parts)
		return strings.Join(parts, " ")
	}
	if string(raw) == "null" {
		return ""
	}
	return string(raw)
}

// given is a pointer to a flag's value when the flag was set, else nil.
func given[T any](cmd *cobra.Command, name string, v T) *T {
	if !cmd.Flags().Changed(name) {
		return nil
	}
	return &v
}

// routesFlag reads --route CIDR=NEXTHOP, given any number of times.
func routesFlag(list []string) (map[string]string, error) {
	out := map[string]string{}
	for _, s := range list {
		to, via, ok := strings.Cut(s, "=")
		if !ok || to == "" || via == "" {
			return nil, usagef("--route %q: want CIDR=NEXTHOP, as 10.9.0.0/16=10.88.88.2", s)
		}
		out[to] = via
	}
	return out, nil
}

// article puts a or an before a thing.
func article(thing string) string {
	if strings.ContainsAny(thing[:1], "aeiou") {
		return "an " + thing
	}
	return "a " + thing
}
