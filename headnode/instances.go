package headnode

import (
	"context"
	"net/http"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"nereid/api"
	"nereid/headnode/instances"
	"nereid/headnode/inventory"
	"nereid/headnode/packages"
	"nereid/headnode/store"
)

type instanceID struct {
	ID string `path:"id" doc:"UUID, or a name that one account's instance has"`
}

type instanceBody[T any] struct {
	ID   string `path:"id" doc:"UUID, or a name that one account's instance has"`
	Body T
}

func (s *Server) routeInstances(h huma.API) {
	routeObjects(s, h, objects[api.Instance, api.InstanceUpdate]{
		path: "/v1/instances", thing: "instance", filters: []string{"owner", "server", "image", "package", "name", "state", "tag"}, fixed: instanceFixed(),
		rows: s.listInstances,
		get: func(tx store.Tx, a args) (api.Instance, error) {
			r, err := instances.Find(tx, "", a["id"])
			if err != nil {
				return r.Instance, err
			}
			return s.showInstance(tx, r)
		},
	})
	route(s, h, operators, http.MethodPatch, "/v1/instances/{id}", "Change an instance", func(ctx context.Context, in *instanceBody[api.InstanceUpdate]) (*tagged[api.Instance], error) {
		return s.changeInstance(ctx, in.ID, func(tx store.Tx, a instances.Asked, r instances.Record) (instances.Record, error) {
			return s.updateInstance(tx, a, r, in.Body)
		})
	}, conditional, lenient, collects, settable(instanceFixed(), nil))
	route(s, h, operators, http.MethodPost, "/v1/instances", "Make an instance", func(ctx context.Context, in *struct{ Body api.InstanceCreate }) (*tagged[api.Instance], error) {
		out, err := s.createInstance(ctx, in.Body)
		return withTag(out), err
	}, status(http.StatusCreated), lenient, collects)
	route(s, h, operators, http.MethodDelete, "/v1/instances/{id}", "Delete an instance", func(ctx context.Context, in *struct {
		ID   string `path:"id" doc:"UUID, or a name that one account's instance has"`
		Lost bool   `query:"server_lost" doc:"its server will not come back: do not wait for it to say that nothing is left"`
	}) (*tagged[api.Instance], error) {
		return s.changeInstance(ctx, in.ID, func(tx store.Tx, a instances.Asked, r instances.Record) (instances.Record, error) {
			return s.deleteInstance(tx, a, r, in.Lost)
		})
	}, conditional, confirms)

	act := func(verb, summary string, do func(store.Tx, instances.Asked, instances.Record, bool) (instances.Record, error)) {
		route(s, h, operators, http.MethodPost, "/v1/instances/{id}/"+verb, summary, func(ctx context.Context, in *struct {
			ID   string `path:"id" doc:"UUID, or a name that one account's instance has"`
			Body *api.InstanceAction
		}) (*tagged[api.Instance], error) {
			return s.changeInstance(ctx, in.ID, func(tx store.Tx, a instances.Asked, r instances.Record) (instances.Record, error) {
				return do(tx, a, r, in.Body != nil && in.Body.Force)
			})
		}, conditional)
	}
	act("start", "Start an instance", func(tx store.Tx, a instances.Asked, r instances.Record, _ bool) (instances.Record, error) {
		return instances.Start(tx, a, r)
	})
	act("stop", "Stop an instance", instances.Stop)
	act("reboot", "Reboot an instance", instances.Reboot)
	route(s, h, operators, http.MethodPost, "/v1/instances/{id}/kill", "Send a signal to the first process of an instance", func(ctx context.Context, in *instanceBody[api.InstanceKill]) (*tagged[api.Instance], error) {
		return s.changeInstance(ctx, in.ID, func(tx store.Tx, a instances.Asked, r instances.Record) (instances.Record, error) {
			return instances.Kill(tx, a, r, in.Body.Signal)
		})
	}, conditional)
	route(s, h, operators, http.MethodPost, "/v1/instances/{id}/nics", "Give an instance a NIC", func(ctx context.Context, in *instanceBody[api.InstanceNetwork]) (*tagged[api.Instance], error) {
		return s.changeInstance(ctx, in.ID, func(tx store.Tx, a instances.Asked, r instances.Record) (instances.Record, error) {
			_, r, err := s.addNIC(tx, a, r, api.NetworkNIC{Addresses: in.Body.Addresses})
			return r, err
		})
	}, conditional, lenient, collects, confirms)
	route(s, h, operators, http.MethodDelete, "/v1/instances/{id}/nics/{mac}", "Take a NIC from an instance", func(ctx context.Context, in *struct {
		ID  string `path:"id" doc:"UUID, or a name that one account's instance has"`
		MAC string `path:"mac"`
	}) (*tagged[api.Instance], error) {
		return s.changeInstance(ctx, in.ID, func(tx store.Tx, a instances.Asked, r instances.Record) (instances.Record, error) {
			return s.removeNIC(tx, a, r, in.MAC)
		})
	}, conditional, confirms)
	s.routeInstanceDisks(h)
	s.routeSnapshots(h)
	s.routeInstanceReads(h)
	s.routeAdopt(h)
}

// routeInstanceReads adds what is told of instances besides themselves.
func (s *Server) routeInstanceReads(h huma.API) {
	route(s, h, operators, http.MethodGet, "/v1/instances/{id}/placement", "Show why an instance is on its server", func(ctx context.Context, in *instanceID) (*body[api.Placement], error) {
		var out api.Placement
		err := s.store.View(ctx, func(tx store.Tx) error {
			r, err := instances.Find(tx, "", in.ID)
			if err == nil {
				out, err = instances.Why(tx, r.UUID)
			}
			return err
		})
		return answer(out), err
	})
	route(s, h, operators, http.MethodGet, "/v1/instances/{id}/timeline", "Show where the time of an instance's create went", func(ctx context.Context, in *instanceID) (*body[api.InstanceTimeline], error) {
		var out api.InstanceTimeline
		err := s.store.View(ctx, func(tx store.Tx) error {
			r, err := instances.Find(tx, "", in.ID)
			if err == nil {
				out, err = instances.Timeline(tx, r)
			}
			return err
		})
		return answer(out), err
	})
	route(s, h, operators, http.MethodGet, "/v1/instances/{id}/audit", "List what was asked of an instance, the newest first", func(ctx context.Context, in *instanceID) (*body[list[api.InstanceAudit]], error) {
		var out []api.InstanceAudit
		err := s.store.View(ctx, func(tx store.Tx) error {
			r, err := instances.Find(tx, "", in.ID)
			if err == nil {
				out, err = instances.Audit(tx, r.UUID)
			}
			return err
		})
		return items(out), err
	})
	route(s, h, operators, http.MethodGet, "/v1/unexpected-instances", "List instances that servers have and were not told of", func(ctx context.Context, in *struct {
		Server string `query:"server" doc:"UUID or hostname; empty: all servers"`
	}) (*body[list[api.UnexpectedInstance]], error) {
		var out []api.UnexpectedInstance
		err := s.store.View(ctx, func(tx store.Tx) error {
			uuid := ""
			if in.Server != "" {
				r, err := inventory.Find(tx, in.Server)
				if err != nil {
					return err
				}
				uuid = r.UUID
			}
			var err error
			out, err = instances.Unexpected(tx, uuid)
			return err
		})
		return items(out), err
	})
	route(s, h, operators, http.MethodGet, "/v1/instance-settings", "Show what placement gives out, and how long deleted instances can be read", func(ctx context.Context, _ *none) (*tagged[api.InstanceSettings], error) {
		var out api.InstanceSettings
		err := s.store.View(ctx, func(tx store.Tx) (err error) {
			out, err = instances.GetSettings(tx)
			return err
		})
		return withTag(out), err
	})
	route(s, h, operators, http.MethodPut, "/v1/instance-settings", "Change what placement gives out, and how long deleted instances can be read", func(ctx context.Context, in *struct{ Body api.InstanceSettings }) (*tagged[api.InstanceSettings], error) {
		var out api.InstanceSettings
		err := s.update(ctx, func(tx store.Tx) error {
			have, err := instances.GetSettings(tx)
			if err == nil {
				err = ifMatch(ctx, "the settings of instances", have.Revision)
			}
			if err == nil {
				out, err = instances.SetSettings(tx, in.Body)
			}
			return err
		})
		return withTag(out), err
	}, conditional, lenient, collects)
}

// onInstance runs fn on an instance that is there, in one transaction, and tells those who
// watch what fn gives.
func (s *Server) onInstance(ctx context.Context, id string, fn func(store.Tx, instances.Asked, instances.Record) (instances.Record, error)) error {
	asked := instances.Asked{By: callerOf(ctx).operator, Now: s.now()}
	return s.update(ctx, func(tx store.Tx) error {
		r, err := instances.There(tx, "", id)
		if err == nil {
			err = ifMatch(ctx, "instance "+r.Name, r.Revision)
		}
		if err == nil {
			r, err = fn(tx, asked, r)
		}
		if err == nil {
			tellInstance(tx, r, false)
		}
		return err
	})
}

// changeInstance runs fn on an instance that is there, in one transaction, and shows
// what came of it.
func (s *Server) changeInstance(ctx context.Context, id string, fn func(store.Tx, instances.Asked, instances.Record) (instances.Record, error)) (*tagged[api.Instance], error) {
	var out api.Instance
	err := s.onInstance(ctx, id, func(tx store.Tx, a instances.Asked, r instances.Record) (instances.Record, error) {
		r, err := fn(tx, a, r)
		if err == nil {
			out, err = s.showInstance(tx, r)
		}
		return r, err
	})
	return withTag(out), err
}

// tellInstance notes what a change of an instance is to those who watch.
func tellInstance(tx store.Tx, r instances.Record, isNew bool) {
	tell(tx, objectEvent("instance", "/v1/instances", api.Event{Name: r.UUID, Owner: r.Owner, Server: r.Server}, isNew))
}

// showInstance is an instance as it is now: unknown while its server is silent.
func (s *Server) showInstance(tx store.Tx, r instances.Record) (api.Instance, error) {
	out, err := instances.Load(tx, r)
	out.State, out.Reason = s.withSilence(out.Server, out.State, out.Reason, s.now())
	return out, err
}

// withSilence is the state of an instance on a server as it is now, and the reason.
func (s *Server) withSilence(server, state, reason string, now time.Time) (string, string) {
	if state == api.InstanceDeleted {
		return state, reason
	}
	silence := s.silence(server, now)
	if silence == "" {
		return state, reason
	}
	if reason != "" {
		state += ", " + reason
	}
	return api.InstanceUnknown, "its server is " + silence + "; before that it was " + state
}

// listInstances lists those that are not deleted, or with the state deleted only those.
func (s *Server) listInstances(tx store.Tx, q listing) ([]instances.Row, string, error) {
	f := instances.Filter{Owner: strings.ToLower(q.filter["owner"]), Image: strings.ToLower(q.filter["image"]), Name: q.filter["name"]}
	if id := q.filter["server"]; id != "" {
		r, err := inventory.Find(tx, id)
		if err != nil {
			return nil, "", err
		}
		f.Server = r.UUID
	}
	if id := q.filter["package"]; id != "" {
		p, err := packages.Get(tx, id)
		if err != nil {
			return nil, "", err
		}
		f.Package = p.UUID
	}
	if tag := q.filter["tag"]; tag != "" {
		name, value, ok := strings.Cut(tag, "=")
		if !ok {
			return nil, "", refuse(http.StatusUnprocessableEntity, api.CodeInvalid, "write it as role=web", "tag %.64q has no value", tag)
		}
		f.Tags = map[string]string{name: value}
	}
	state := q.filter["state"]
	switch state {
	case "", api.InstanceProvisioning, api.InstanceRunning, api.InstanceStopping, api.InstanceStopped, api.InstanceFailed, api.InstanceDeleted, api.InstanceUnknown:
	default:
		return nil, "", refuse(http.StatusUnprocessableEntity, api.CodeInvalid, "take one of provisioning, running, stopping, stopped, failed, deleted, unknown", "state is %.64q", state)
	}
	f.Deleted = state == api.InstanceDeleted
	now := s.now()
	f.Keep = func(r *instances.Row) bool {
		r.State, r.Reason = s.withSilence(r.Server, r.State, r.Reason, now)
		return state == "" || r.State == state
	}
	return instances.List(tx, f, q.after, q.limit)
}

// instanceFixed is what a change of an instance cannot set, and why.
func instanceFixed() map[string]string {
	const made, observed, limit = "it was set when the instance was made; make another one", "its server reports it", "it is its package's"
	return map[string]string{"uuid": "it names the instance", "owner_uuid": made, "brand": made, "image_uuid": made, "package_uuid": made, "server_uuid": made,
		"wanted": "there are requests for that: POST /v1/instances/{id}/start and stop", "state": observed, "reason": observed, "until": observed, "started": observed,
		"nics": "there are requests for that: POST /v1/instances/{id}/nics", "resolvers": "they are those of its networks", "affinity": made, "traits": limit, "vm": "it was set when the instance was made; its disks have requests of their own: POST /v1/instances/{id}/disks",
		"memory_mib": limit, "swap_mib": limit, "vcpus": limit, "cpu_cap_percent": limit, "cpu_weight": limit, "quota_mib": limit, "processes": limit, "io_weight": limit,
		"snapshot_schedule": "there is a request for that: PUT /v1/instances/{id}/snapshot-schedule", "created": "the head node notes it", "deleted": "the head node notes it", "revision": noRevision}
}
