package headnode

import (
	"context"
	"net/http"

	"github.com/danielgtaylor/huma/v2"

	"nereid/api"
	"nereid/headnode/instances"
	"nereid/headnode/store"
)

// routeInstanceDisks adds what is asked of the disks of virtual machines. What an instance
// has shows in the instance.
func (s *Server) routeInstanceDisks(h huma.API) {
	route(s, h, operators, http.MethodPost, "/v1/instances/{id}/disks", "Give a virtual machine a disk", func(ctx context.Context, in *instanceBody[api.VMDiskAdd]) (*tagged[api.Instance], error) {
		return s.changeInstance(ctx, in.ID, func(tx store.Tx, a instances.Asked, r instances.Record) (instances.Record, error) {
			return instances.AddDisk(tx, a, r, in.Body.Size)
		})
	}, conditional, lenient, collects)
	route(s, h, operators, http.MethodPut, "/v1/instances/{id}/disks/{disk}", "Make a disk of a virtual machine larger", func(ctx context.Context, in *struct {
		ID   string `path:"id" doc:"UUID, or a name that one account's instance has"`
		Disk string `path:"disk" doc:"disk0, disk1 ..."`
		Body api.VMDiskGrow
	}) (*tagged[api.Instance], error) {
		return s.changeInstance(ctx, in.ID, func(tx store.Tx, a instances.Asked, r instances.Record) (instances.Record, error) {
			return instances.GrowDisk(tx, a, r, in.Disk, in.Body.SizeMiB)
		})
	}, conditional, lenient, collects)
	route(s, h, operators, http.MethodDelete, "/v1/instances/{id}/disks/{disk}", "Take a disk from a virtual machine, with what is on it", func(ctx context.Context, in *struct {
		ID   string `path:"id" doc:"UUID, or a name that one account's instance has"`
		Disk string `path:"disk" doc:"disk1, disk2 ..."`
	}) (*tagged[api.Instance], error) {
		return s.changeInstance(ctx, in.ID, func(tx store.Tx, a instances.Asked, r instances.Record) (instances.Record, error) {
			return instances.RemoveDisk(tx, a, r, in.Disk)
		})
	}, conditional)
}
