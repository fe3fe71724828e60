package headnode

import (
	"context"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"nereid/api"
	"nereid/headnode/instances"
	"nereid/headnode/store"
)

type snapshotID struct {
	ID       string `path:"id" doc:"UUID, or a name that one account's instance has"`
	Snapshot string `path:"snapshot" doc:"name or id"`
}

// routeSnapshots adds what is asked of instances' snapshots. If-Match is compared with the
// revision of the instance.
func (s *Server) routeSnapshots(h huma.API) {
	route(s, h, operators, http.MethodGet, "/v1/instances/{id}/snapshots", "List the snapshots of an instance, the oldest first", func(ctx context.Context, in *instanceID) (*body[list[api.Snapshot]], error) {
		var out []api.Snapshot
		err := s.store.View(ctx, func(tx store.Tx) error {
			r, err := instances.There(tx, "", in.ID)
			if err == nil {
				out, err = instances.Snapshots(tx, r.UUID)
			}
			for i := range out {
				out[i] = s.showSnapshot(r, out[i])
			}
			return err
		})
		return items(out), err
	})
	route(s, h, operators, http.MethodGet, "/v1/instances/{id}/snapshots/{snapshot}", "Show a snapshot of an instance", func(ctx context.Context, in *snapshotID) (*body[api.Snapshot], error) {
		var out api.Snapshot
		err := s.store.View(ctx, func(tx store.Tx) error {
			r, err := instances.There(tx, "", in.ID)
			if err == nil {
				out, err = instances.FindSnapshot(tx, r, in.Snapshot)
				out = s.showSnapshot(r, out)
			}
			return err
		})
		return answer(out), err
	})
	route(s, h, operators, http.MethodPost, "/v1/instances/{id}/snapshots", "Take a snapshot of an instance", func(ctx context.Context, in *instanceBody[api.SnapshotCreate]) (*body[api.Snapshot], error) {
		return s.changeSnapshot(ctx, in.ID, func(tx store.Tx, a instances.Asked, r instances.Record) (api.Snapshot, error) {
			return instances.CreateSnapshot(tx, a, r, in.Body.Name)
		})
	}, status(http.StatusCreated), conditional, lenient, collects)
	route(s, h, operators, http.MethodDelete, "/v1/instances/{id}/snapshots/{snapshot}", "Delete a snapshot of an instance", func(ctx context.Context, in *snapshotID) (*body[api.Snapshot], error) {
		return s.changeSnapshot(ctx, in.ID, func(tx store.Tx, a instances.Asked, r instances.Record) (api.Snapshot, error) {
			snap, err := instances.FindSnapshot(tx, r, in.Snapshot)
			if err != nil {
				return snap, err
			}
			return instances.DeleteSnapshot(tx, a, r, snap)
		})
	}, conditional)
	route(s, h, operators, http.MethodPost, "/v1/instances/{id}/snapshots/{snapshot}/rollback", "Make an instance what it was when a snapshot was taken", func(ctx context.Context, in *snapshotID) (*tagged[api.Instance], error) {
		return s.changeInstance(ctx, in.ID, func(tx store.Tx, a instances.Asked, r instances.Record) (instances.Record, error) {
			return s.rollBack(tx, a, r, in.Snapshot)
		})
	}, conditional, confirms)
	route(s, h, operators, http.MethodPut, "/v1/instances/{id}/snapshot-schedule", "Set by which schedule an instance's server takes snapshots", func(ctx context.Context, in *instanceBody[api.SnapshotSchedule]) (*tagged[api.Instance], error) {
		return s.changeInstance(ctx, in.ID, func(tx store.Tx, a instances.Asked, r instances.Record) (instances.Record, error) {
			return instances.SetSchedule(tx, a, r, in.Body)
		})
	}, conditional, lenient, collects)
}

// changeSnapshot runs fn on an instance that is there, in one transaction, and shows the
// snapshot that came of it.
func (s *Server) changeSnapshot(ctx context.Context, id string, fn func(store.Tx, instances.Asked, instances.Record) (api.Snapshot, error)) (*body[api.Snapshot], error) {
	var out api.Snapshot
	err := s.onInstance(ctx, id, func(tx store.Tx, a instances.Asked, r instances.Record) (instances.Record, error) {
		snap, err := fn(tx, a, r)
		if err == nil {
			out = s.showSnapshot(r, snap)
		}
		return r, err
	})
	return answer(out), err
}

// rollBack has an instance rolled back to a snapshot. What is lost with that is to be agreed
// to, snapshot by snapshot.
func (s *Server) rollBack(tx store.Tx, a instances.Asked, r instances.Record, id string) (instances.Record, error) {
	to, err := instances.FindSnapshot(tx, r, id)
	if err != nil {
		return r, err
	}
	newer, err := instances.Newer(tx, r, to)
	if err != nil {
		return r, err
	}
	also(tx, "what was written in instance %s since %s is lost", r.Name, to.Created.UTC().Format(time.RFC3339))
	if r.Wanted == instances.WantRunning {
		also(tx, "instance %s stops, and starts again", r.Name)
	}
	for _, n := range newer {
		also(tx, "snapshot %s, taken at %s, is destroyed", n.Name, n.Created.UTC().Format(time.RFC3339))
	}
	return instances.RollBack(tx, a, r, to, newer)
}

// showSnapshot says what a snapshot waits for whose server is silent.
func (s *Server) showSnapshot(r instances.Record, snap api.Snapshot) api.Snapshot {
	waits := snap.State == api.SnapshotCreating || snap.State == api.SnapshotDeleting
	if silence := s.silence(r.Server, s.now()); waits && silence != "" {
		snap.Reason = "Its server is " + silence + "."
	}
	return snap
}
