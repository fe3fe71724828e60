package headnode

import (
	"context"
	"fmt"
	"net/http"

	"github.com/danielgtaylor/huma/v2"

	"nereid/api"
	"nereid/headnode/addresses"
	"nereid/headnode/inventory"
	"nereid/headnode/networks"
	"nereid/headnode/platforms"
	"nereid/headnode/store"
	"nereid/headnode/trust"
)

// capabilities names what this head node can do.
func capabilities() []string {
	return []string{"boot", "events", "explain", "fabrics", "firewall", "networks", "platforms", "servers", "sessions", "setup", "tokens"}
}

func (s *Server) routeOperators(h huma.API) {
	route(s, h, operators, http.MethodGet, "/v1", "What this head node can do", func(context.Context, *none) (*body[api.Capabilities], error) {
		return answer(api.Capabilities{Datacenter: s.answers.Datacenter, Version: s.version(), Capabilities: capabilities()}), nil
	})
	route(s, h, operators, http.MethodGet, "/v1/datacenter", "Describe the datacenter", s.getDatacenter)

	route(s, h, operators, http.MethodGet, "/v1/tokens", "List operators' tokens", func(ctx context.Context, _ *none) (*body[list[api.Token]], error) {
		var out []api.Token
		err := s.store.View(ctx, func(tx store.Tx) (err error) {
			out, err = trust.Tokens(tx)
			return err
		})
		return items(out), err
	})
	route(s, h, operators, http.MethodPost, "/v1/tokens", "Make an operator's token; its secret is shown this once", func(ctx context.Context, in *body[api.TokenCreate]) (*body[api.Token], error) {
		var out api.Token
		err := s.store.Update(ctx, func(tx store.Tx) (err error) {
			out, err = trust.CreateToken(tx, s.now(), in.Body)
			return err
		})
		return answer(out), err
	}, status(http.StatusCreated))
	type tokenID struct {
		ID string `path:"id"`
	}
	route(s, h, operators, http.MethodDelete, "/v1/tokens/{id}", "Revoke an operator's token", func(ctx context.Context, in *tokenID) (*none, error) {
		return nil, s.store.Update(ctx, func(tx store.Tx) error { return trust.RevokeToken(tx, in.ID) })
	}, status(http.StatusNoContent))

	route(s, h, operators, http.MethodGet, "/v1/platform-keys", "List the keys whose signature on a platform is accepted", func(ctx context.Context, _ *none) (*body[list[api.PlatformKey]], error) {
		var out []api.PlatformKey
		err := s.store.View(ctx, func(tx store.Tx) (err error) {
			out, err = trust.PlatformKeys(tx)
			return err
		})
		return items(out), err
	})
	route(s, h, operators, http.MethodPost, "/v1/platform-keys", "Accept a key's signature on platforms", func(ctx context.Context, in *body[api.PlatformKey]) (*body[api.PlatformKey], error) {
		return answer(in.Body), s.store.Update(ctx, func(tx store.Tx) error { return trust.AddPlatformKey(tx, in.Body) })
	}, status(http.StatusCreated))
	type keyName struct {
		Name string `path:"name"`
	}
	route(s, h, operators, http.MethodDelete, "/v1/platform-keys/{name}", "Accept a key's signature no longer", func(ctx context.Context, in *keyName) (*none, error) {
		return nil, s.store.Update(ctx, func(tx store.Tx) error { return s.deleteKey(tx, in.Name) })
	}, status(http.StatusNoContent))

	route(s, h, operators, http.MethodPost, "/v1/explain", "Say what DHCP would answer, and why", func(ctx context.Context, in *body[api.BootRequest]) (*body[api.Explanation], error) {
		if s.Explain == nil {
			return nil, refuse(http.StatusServiceUnavailable, api.CodeUnavailable, "ask the head node that boots this network", "this head node runs without a boot server")
		}
		mac, ok := inventory.ParseMAC(in.Body.MAC)
		if !ok {
			return nil, refuse(http.StatusUnprocessableEntity, api.CodeInvalid, "write it as 52:54:00:12:34:56", "%q is no MAC address", in.Body.MAC)
		}
		r := in.Body
		r.MAC, r.Explain = mac, true
		if r.Kind == "" {
			r.Kind = api.KindDiscover
		}
		out, err := s.Explain(ctx, r)
		return answer(out), err
	}, lenient)
}

// deleteKey refuses while a platform needs the key: its servers verify with it.
func (s *Server) deleteKey(tx store.Tx, name string) error {
	all, err := platforms.List(tx, s.now())
	if err != nil {
		return err
	}
	for _, p := range all {
		rec, _, err := platforms.Get(tx, p.Manifest.Stamp)
		if err != nil {
			return err
		}
		if rec.Key == name {
			return refuse(http.StatusConflict, api.CodeInUse, "see what uses it with: nereid platform list", "platform %s is signed with the key %s", p.Manifest.Stamp, name)
		}
	}
	return trust.DeletePlatformKey(tx, name)
}

func (s *Server) getDatacenter(ctx context.Context, _ *none) (*body[api.Datacenter], error) {
	ad := s.answers.Admin
	out := api.Datacenter{
		Name: s.answers.Datacenter, DNSDomain: s.answers.DNSDomain, Version: s.version(), CASHA256: s.ca.SHA256(),
		Admin: api.AdminNetwork{
			Interface: ad.Interface, Address: ad.Address.String(),
			Lease: shortDuration(ad.Lease), Clients: ad.Clients, NTP: s.ntp(),
		},
	}
	err := s.store.View(ctx, func(tx store.Tx) error {
		out.Servers, out.Platforms, out.Alerts = 0, 0, nil
		held := 0
		for e, err := range inventory.All(tx) {
			if err != nil {
				return err
			}
			out.Servers++
			if r := e.Value; r.Undecided() || r.OtherKey() {
				held++
			}
		}
		all, err := platforms.List(tx, s.now())
		if err != nil {
			return err
		}
		out.Platforms = len(all)
		if out.Default, err = platforms.Default(tx); err != nil {
			return err
		}
		n, err := s.admin(tx)
		if err != nil {
			return err
		}
		out.Admin.Range, out.Admin.Gateway, out.Admin.DNS = []string{n.First.String(), n.Last.String()}, "", nil
		if n.Gateway.IsValid() {
			out.Admin.Gateway = n.Gateway.String()
		}
		for _, a := range n.DNS {
			out.Admin.DNS = append(out.Admin.DNS, a.String())
		}
		use, err := addresses.Usage(tx, n, s.now())
		if err != nil {
			return err
		}
		out.AddressCap, out.AddressUse = use.Total, use.Used()
		if out.Default == "" {
			out.Alerts = append(out.Alerts, "No platform is the default, so no server can boot; import one with: nereid platform import DIR")
		}
		over, err := networks.Overlapping(tx)
		if err != nil {
			return err
		}
		out.Alerts = append(out.Alerts, over...)
		text, err := quarantineAlert(tx, s.now())
		if err != nil {
			return err
		}
		if text != "" {
			out.Alerts = append(out.Alerts, text)
		}
		if text, err = s.newcomersAlert(tx); err != nil {
			return err
		}
		if text != "" {
			out.Alerts = append(out.Alerts, text)
		}
		if held > 0 {
			out.Alerts = append(out.Alerts, fmt.Sprintf("Decisions about identity are needed: %s; see: nereid server list --state held", api.Plural(held, "server")))
		}
		return nil
	})
	if s.BootAlerts != nil {
		out.Alerts = append(out.Alerts, s.BootAlerts()...)
	}
	if text := s.fullAlert(); text != "" {
		out.Alerts = append(out.Alerts, text)
	}
	out.Alerts = append(out.Alerts, s.shed.alerts(s.now())...)
	return answer(out), err
}
