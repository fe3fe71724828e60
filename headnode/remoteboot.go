package headnode

import (
	"context"
	"net/http"
	"net/netip"

	"github.com/danielgtaylor/huma/v2"

	"nereid/api"
	"nereid/headnode/inventory"
)

// fromInput is a request about a boot for the machine that has an address.
type fromInput struct {
	ID   string `path:"id"`
	From string `query:"from" required:"true" doc:"address of the machine that asks"`
}

func (in fromInput) from() (netip.Addr, error) {
	a, err := netip.ParseAddr(in.From)
	if err != nil {
		return a, refuse(http.StatusUnprocessableEntity, api.CodeInvalid, "name the address of the machine that asks", "from: %q is no address", in.From)
	}
	return a, nil
}

// routeBooter gives a boot server elsewhere, and simulated servers, what the head
// node's own boot server gets by function calls. Who may use it is trusted to say
// truly which machine asks, as a boot server is.
func (s *Server) routeBooter(h huma.API) {
	route(s, h, operators, http.MethodPost, "/v1/boot-requests", "Decide a DHCP message that a boot server elsewhere got", func(ctx context.Context, in *body[api.BootRequest]) (*body[api.BootAnswer], error) {
		if _, ok := inventory.ParseMAC(in.Body.MAC); !ok {
			return nil, refuse(http.StatusUnprocessableEntity, api.CodeInvalid, "write it as 52:54:00:12:34:56", "%q is no MAC address", in.Body.MAC)
		}
		out, err := s.Boot(ctx, in.Body)
		return answer(out), err
	}, lenient)
	route(s, h, operators, http.MethodGet, "/v1/boots/{id}/plan", "Say what a boot loads, or why it is held", func(ctx context.Context, in *fromInput) (*body[api.BootPlan], error) {
		from, err := in.from()
		if err != nil {
			return nil, err
		}
		out, err := s.Plan(ctx, in.ID, from)
		return answer(out), err
	})
	route(s, h, operators, http.MethodPost, "/v1/boots/{id}/config", "Make a boot's configuration, with its one-boot token", func(ctx context.Context, in *fromInput) (*body[api.BootConfig], error) {
		from, err := in.from()
		if err != nil {
			return nil, err
		}
		out, err := s.Config(ctx, in.ID, from)
		return answer(out), err
	})
	route(s, h, operators, http.MethodPost, "/v1/boots/{id}/events", "Add to a boot's record what a boot server elsewhere saw", func(ctx context.Context, in *struct {
		ID   string `path:"id"`
		Body api.BootReport
	}) (*none, error) {
		return nil, s.Record(ctx, in.ID, netip.Addr{}, api.BootEvent{Stage: in.Body.Stage, Detail: in.Body.Detail, Bytes: in.Body.Bytes, Seconds: in.Body.Seconds})
	}, status(http.StatusNoContent))
}
