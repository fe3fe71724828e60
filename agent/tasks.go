package agent

import (
	"context"
	"fmt"

	"golang.org/x/sync/errgroup"
)

// task is what an agent does for as long as it lives. doc.go lists them all.
type task struct {
	name string
	run  func(ctx context.Context) error
}

// begin begins tasks. The error of one ends them all.
func begin(ctx context.Context, g *errgroup.Group, tasks ...task) {
	for _, t := range tasks {
		g.Go(func() error {
			if err := t.run(ctx); err != nil {
				return fmt.Errorf("%s: %w", t.name, err)
			}
			return nil
		})
	}
}

// feeder feeds the service manager's watchdog.
func (a *Agent) feeder() task {
	return task{"feeder", func(ctx context.Context) error {
		a.health.watch(ctx, a.Watchdog, a.notify, a.Log)
		return nil
	}}
}

// tasks are those that begin when it is known which server this is.
func (a *Agent) tasks(r *reconciler, l *link, n *networker, s *sessions) []task {
	tasks := []task{
		{"inspector", a.hardware.run},
		{"reconciler", r.run},
		{"syncer", l.run},
		{"sessions", s.run},
	}
	if i := a.instances; i != nil {
		tasks = append(tasks, []task{
			{"instance workers", i.run},
			{"image workers", i.images.run},
			{"image collector", i.images.collector},
			{"instance keeper", i.set.keep},
			{"image keeper", i.images.set.keep},
			{"snapshot keeper", i.snapshots.set.keep},
			{"pool loader", i.loader},
			{"cache fitter", i.fitCache},
			{"machine watcher", i.m.Attend},
			{"unit watcher", a.missed("Instances are not started, stopped or watched", i.watch)},
		}...)
	}
	if i := a.instances; i != nil && a.Zones.Written != nil {
		tasks = append(tasks, task{"metadata watcher", i.watchWritten})
	}
	if a.Net.Links == nil {
		return tasks
	}
	tasks = append(tasks, []task{
		{"networker", n.run},
		{"NIC workers", n.nics.run},
		{"observer", n.seen.run},
		{"mapper", n.maps.run},
		{"port keeper", a.ports.keep},
		{"copy keeper", func(ctx context.Context) error {
			return a.keep(ctx, a.copies, a.copies.news, setsFile, "What the head node wants of firewall rules could not be kept")
		}},
		{"link watcher", a.missed("Changes of the network made by hand are not noticed", func(ctx context.Context) error {
			return a.Net.Links.Watch(ctx, nil, n.seen.linksChanged)
		})},
	}...)
	if a.Net.Monitor != nil {
		tasks = append(tasks, task{"gateway monitor", a.missed("Gateway servers are not watched, and none takes over", a.Net.Monitor)})
	}
	return tasks
}

// missed is a task without which the agent goes on: what is missed then is in the report.
func (a *Agent) missed(what string, run func(ctx context.Context) error) func(ctx context.Context) error {
	return func(ctx context.Context) error {
		if err := run(ctx); err != nil && ctx.Err() == nil {
			a.Log.Error("network", "err", err)
			a.board.problem(what, what+": "+err.Error()+"; restart the agent.")
		}
		return nil
	}
}
