//go:build vm

package faults

import (
	"context"
	"testing"
	"time"

	"nereid/api"
	"nereid/integration/lab"
	"nereid/integration/lab/labtest"
)

// TestVMHeadnodeKilledAtEveryLeg kills the head node with SIGKILL whenever a boot
// passes a stage for the first time, and again in every phase of the setup. The
// server must end running, and what was acknowledged must be there.
func TestVMHeadnodeKilledAtEveryLeg(t *testing.T) {
	r := labtest.NewRack(t)
	m := r.Add(1, lab.UEFI, 4<<30)
	r.PowerOn(m)
	killed := map[string]bool{}
	crash := func(where string) {
		if killed[where] {
			return
		}
		killed[where] = true
		t.Logf("SIGKILL after %s", where)
		r.KillHeadnode()
		r.Start()
	}
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	ctx, cancel := context.WithTimeout(t.Context(), labtest.Limit)
	defer cancel()
	approved, asked, running := false, false, false
	for !running {
		select {
		case <-ctx.Done():
			t.Fatalf("not running; killed after %v", killed)
		case <-tick.C:
		}
		boots, err := r.Client().BootsByMAC(ctx, m.Spec.MAC)
		if err != nil {
			t.Fatal(err)
		}
		for _, b := range boots {
			for _, e := range b.Events {
				crash(string(e.Stage))
			}
		}
		s, err := r.Client().Server(ctx, m.Spec.UUID)
		if err != nil {
			continue // not enrolled yet
		}
		switch {
		case s.State == api.StatePending && !approved:
			if err := r.Client().ApproveServer(ctx, m.Spec.UUID, ""); err != nil {
				t.Fatal(err)
			}
			approved = true
			crash("approval")
		case approved && !s.Approved:
			t.Fatal("the acknowledged approval is gone")
		case s.State == api.StateApproved && !asked:
			if err := r.Client().SetupServer(ctx, m.Spec.UUID, api.SetupSpec{Pool: "zones"}); err != nil {
				t.Fatal(err)
			}
			asked = true
			crash("setup request")
		case asked && s.Setup == nil && !s.SetUp:
			t.Fatal("the acknowledged setup is gone")
		}
		if s.Report != nil && s.Report.Setup != nil {
			crash("setup: " + s.Report.Setup.Phase)
		}
		running = s.State == api.StateRunning
	}
	for _, st := range []api.BootStage{api.StageDiscover, api.StageTFTP, api.StageIPXEDiscover, api.StageScript, api.StageKernel,
		api.StageInitrd, api.StageConfig, api.StageStub, api.StageRoot, api.StageEnrol, api.StageFirstSync} {
		if !killed[string(st)] {
			t.Errorf("never killed after %s", st)
		}
	}
	if boots, err := r.Client().Boots(t.Context(), m.Spec.UUID); err != nil || len(boots) == 0 {
		t.Errorf("boot records: %v, %v", boots, err)
	}
}
