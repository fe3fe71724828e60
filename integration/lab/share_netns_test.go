//go:build netns

package lab_test

import (
	"path/filepath"
	"slices"
	"testing"
	"time"

	"nereid/api"
	"nereid/integration/lab"
	"nereid/integration/lab/labtest"
)

// TestNetNSShare: who joins a rack has its head node in hand, as its owner has, finds
// what was left on it, and leaves it running.
func TestNetNSShare(t *testing.T) {
	r := labtest.NewServerRack(t)
	if err := r.Settle(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := r.Share(t.Context()); err != nil {
		t.Fatal(err)
	}
	joined, err := lab.Join(filepath.Dir(r.HeadnodeLog()), nil)
	if err != nil {
		t.Fatal(err)
	}
	pid := r.HeadnodePID()
	if got := joined.HeadnodePID(); got != pid || pid == 0 {
		t.Errorf("the head node is process %d, and %d to who joined", pid, got)
	}
	joined.KillHeadnode()
	if joined.HeadnodePID() != 0 || r.HeadnodePID() != 0 {
		t.Error("the killed head node runs")
	}
	if err := joined.StartHeadnode(t.Context()); err != nil {
		t.Fatal(err)
	}
	if now := r.HeadnodePID(); now == 0 || now == pid {
		t.Errorf("the head node is process %d again", now)
	}
	left := func(want ...string) {
		t.Helper()
		limit := time.Second // nothing more comes
		if len(want) == 0 {
			limit = time.Minute
		}
		if got, err := joined.Left(t.Context(), limit); err != nil || !slices.Equal(got, want) {
			t.Errorf("left: %q, %v; want %q", got, err, want)
		}
	}
	left()
	if _, err := joined.Client().NICTags().Create(t.Context(), api.NICTag{Name: "forgotten"}); err != nil {
		t.Fatal(err)
	}
	left("left: NIC tag forgotten")
	if err := joined.Client().NICTags().Delete(t.Context(), "forgotten"); err != nil {
		t.Fatal(err)
	}
	left()
	if _, err := joined.AddMachine(t.Context(), lab.MachineSpec{Name: "cn9"}); err == nil {
		t.Error("a machine was added to another's rack")
	}
	if err := joined.Close(); err != nil {
		t.Error(err)
	}
	if r.HeadnodePID() == 0 {
		t.Error("the head node ended with who joined")
	}
}
