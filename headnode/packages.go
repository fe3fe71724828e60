package headnode

import (
	"net/http"
	"strconv"

	"github.com/danielgtaylor/huma/v2"

	"nereid/api"
	"nereid/headnode/packages"
	"nereid/headnode/store"
)

func (s *Server) routePackages(h huma.API) {
	routeObjects(s, h, objects[api.Package, api.PackageUpdate]{
		path: "/v1/packages", thing: "package", filters: []string{"owner", "active", "name"}, made: packageMade(), fixed: packageFixed(),
		about: func(p api.Package) []api.Event { return ownedBy(p.UUID, p.Owners...) },
		list: func(tx store.Tx, q listing) ([]api.Package, string, error) {
			f := packages.Filter{Owner: q.filter["owner"], Name: q.filter["name"]}
			if v, ok := q.filter["active"]; ok {
				only, err := strconv.ParseBool(v)
				if err != nil {
					return nil, "", refuse(http.StatusUnprocessableEntity, api.CodeInvalid, "give true or false", "active is %.64q", v)
				}
				f.Active = &only
			}
			return packages.List(tx, f, q.after, q.limit)
		},
		get: func(tx store.Tx, a args) (api.Package, error) { return packages.Get(tx, a["id"]) },
		create: func(tx store.Tx, _ args, p api.Package) (api.Package, error) {
			return packages.Create(tx, s.now(), p)
		},
		update: func(tx store.Tx, a args, u api.PackageUpdate) (api.Package, error) {
			return packages.Update(tx, a["id"], u)
		},
	})
}

func packageMade() map[string]string {
	return map[string]string{"created": "the head node notes it", "revision": noRevision}
}

func packageFixed() map[string]string {
	const another = "instances have these limits; make another package, and disable this one"
	out := map[string]string{"uuid": "it names the package", "name": another, "brand": another, "traits": another}
	for _, name := range []string{"memory_mib", "swap_mib", "vcpus", "cpu_cap_percent", "cpu_weight", "quota_mib", "processes", "io_weight"} {
		out[name] = another
	}
	return out
}
