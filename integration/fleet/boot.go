package fleet

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"nereid/api"
)

// boot goes from firmware to the agent. An error ends the boot, as on a screen that
// says what is wrong; the machine is then powered on again.
func (s *server) boot(ctx context.Context) error {
	s.begun = time.Now()
	firmware := api.BootRequest{MAC: s.mac, UUID: s.info.UUID, Arch: 7, VendorClass: "PXEClient:Arch:00007:UNDI:003016"}
	if err := s.dhcp(ctx, firmware); err != nil {
		return err
	}
	if err := s.report(ctx, api.StageTFTP); err != nil {
		return err
	}
	ipxe := firmware
	ipxe.UserClass = "iPXE"
	if err := s.dhcp(ctx, ipxe); err != nil {
		return err
	}
	if err := s.script(ctx); err != nil {
		return err
	}
	if err := s.report(ctx, api.StageScript, api.StageKernel, api.StageInitrd); err != nil {
		return err
	}
	err := s.f.insist(ctx, "configuration", func(c *api.Client) (err error) {
		s.cfg, err = c.BootConfig(ctx, s.bootID, s.address)
		return err
	})
	if err != nil {
		return fmt.Errorf("configuration: %w", err)
	}
	return s.report(ctx, api.StageConfig, api.StageStub, api.StageLayer, api.StageRoot, api.StageSwitchRoot)
}

// dhcp takes an address.
func (s *server) dhcp(ctx context.Context, r api.BootRequest) error {
	var a api.BootAnswer
	for _, kind := range []api.BootKind{api.KindDiscover, api.KindRequest} {
		r.Kind = kind
		err := s.f.insist(ctx, string(kind), func(c *api.Client) (err error) {
			a, err = c.BootRequest(ctx, r)
			return err
		})
		if err != nil {
			return fmt.Errorf("%s: %w", kind, err)
		}
		if a.Verdict != api.VerdictAnswer {
			return fmt.Errorf("%s: the head node says %s: %s", kind, a.Verdict, a.Reason)
		}
		r.Requested = a.Address.Addr()
	}
	s.acknowledged(a.BootID, a.Address.Addr())
	return nil
}

// acknowledged notes a lease that the head node has promised.
func (s *server) acknowledged(bootID string, address netip.Addr) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.bootID, s.address = bootID, address
}

// script asks what to boot for as long as the machine is held.
func (s *server) script(ctx context.Context) error {
	for {
		var p api.BootPlan
		err := s.f.insist(ctx, "script", func(c *api.Client) (err error) {
			p, err = c.BootPlan(ctx, s.bootID, s.address)
			return err
		})
		switch {
		case err != nil:
			return fmt.Errorf("script: %w", err)
		case p.Hold == "":
			return nil
		case p.RetryIn <= 0:
			return errors.New("script: " + p.Hold)
		}
		s.enter(Held)
		if !pause(ctx, time.Duration(p.RetryIn)*time.Second) {
			return ctx.Err()
		}
		s.enter(Booting)
	}
}

// report tells what a boot server would have seen of this boot.
func (s *server) report(ctx context.Context, stages ...api.BootStage) error {
	for _, stage := range stages {
		r := api.BootReport{Stage: stage}
		if stage == api.StageStub || stage == api.StageRoot || stage == api.StageSwitchRoot {
			r.Seconds = time.Since(s.begun).Seconds()
		}
		err := s.f.insist(ctx, string(stage), func(c *api.Client) error { return c.ReportBoot(ctx, s.bootID, r) })
		if err != nil {
			return fmt.Errorf("%s: %w", stage, err)
		}
	}
	return nil
}

// enrol asks for a certificate until there is one.
func (s *server) enrol(ctx context.Context) error {
	c := s.client(nil)
	defer c.Close()
	request, err := CSR(s.key, s.info.UUID)
	if err != nil {
		return err
	}
	actx, admitted := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() { // the enrolment is held until an operator approves
		defer close(done)
		s.approve(actx)
	}()
	defer func() { admitted(); <-done }()
	wait := backoff{min: 200 * time.Millisecond, max: 10 * time.Second}
	s.enter(Pending)
	for {
		begun := time.Now()
		out, err := c.Enrol(ctx, api.EnrolRequest{Token: s.cfg.Token, BootID: s.bootID, CSR: request, Sysinfo: s.info})
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err == nil && out.Certificate != "":
			cert, err := Certificate(out.Certificate, s.key)
			if err != nil {
				return err
			}
			s.connect(out.UUID, cert)
			return nil
		case err != nil && !passing(err):
			return fmt.Errorf("enrol: %w", err)
		case err != nil:
			s.f.seen.failed("enrol", err)
		case time.Since(begun) > time.Second:
			continue // held, and nothing new
		}
		if !pause(ctx, wait.next()) {
			return ctx.Err()
		}
	}
}

// approve lets the server in, where the fleet does that, as soon as the head node
// knows it.
func (s *server) approve(ctx context.Context) {
	if !s.f.cfg.Approve {
		return
	}
	wait := backoff{min: 100 * time.Millisecond, max: 2 * time.Second}
	for {
		err := s.f.insist(ctx, "approve", func(c *api.Client) error { return c.ApproveServer(ctx, s.info.UUID, "") })
		switch {
		case err == nil:
			s.mu.Lock()
			s.approved = true
			s.mu.Unlock()
			return
		case ctx.Err() != nil:
			return
		case codeOf(err) != api.CodeNotFound:
			s.f.seen.failed("approve", err)
		}
		if !pause(ctx, wait.next()) {
			return
		}
	}
}
