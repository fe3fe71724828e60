package bootserver

import (
	"context"
	"encoding/json"
	"fmt"

	"nereid/api"
)

// explainedBootID stands in a script for the id a boot would get.
const explainedBootID = "BOOTID"

// Explain says what a machine would get, by the functions that answer machines,
// and records nothing.
func (s *Server) Explain(ctx context.Context, r api.BootRequest) (api.Explanation, error) {
	r.Explain = true
	booter := explained{s.Booter}
	ex, err := s.dhcpSettings().Explain(ctx, booter, r)
	if err != nil || ex.Answer.Verdict != api.VerdictAnswer || !ex.Answer.Boot {
		return ex, err
	}
	plan, err := s.explainPlan(ctx, ex.Answer)
	if err != nil {
		return ex, err
	}
	if plan.Manifest == nil && plan.Hold == "" {
		return ex, nil
	}
	ex.Script, err = Script(s.URL(), plan)
	return ex, err
}

// explained gives answers without a boot id one to stand in file names.
type explained struct{ Booter }

func (e explained) Boot(ctx context.Context, r api.BootRequest) (api.BootAnswer, error) {
	a, err := e.Booter.Boot(ctx, r)
	if err == nil && a.Boot && a.BootID == "" {
		a.BootID = explainedBootID
	}
	return a, err
}

// explainPlan is the plan of the boot in progress, or else what the platform of
// the answer would give.
func (s *Server) explainPlan(ctx context.Context, a api.BootAnswer) (api.BootPlan, error) {
	if a.BootID != explainedBootID {
		if plan, err := s.Booter.Plan(ctx, a.BootID, a.Address.Addr()); err == nil {
			plan.BootID = a.BootID
			return plan, nil
		}
	}
	if a.Platform == "" {
		return api.BootPlan{}, nil
	}
	signed, err := s.Booter.Manifest(ctx, a.Platform)
	if err != nil {
		return api.BootPlan{}, fmt.Errorf("read manifest of platform %s: %w", a.Platform, err)
	}
	var m api.Manifest
	if err := json.Unmarshal(signed.Manifest, &m); err != nil {
		return api.BootPlan{}, fmt.Errorf("read manifest of platform %s: %w", a.Platform, err)
	}
	return api.BootPlan{BootID: a.BootID, Manifest: &m, Address: a.Address}, nil
}
