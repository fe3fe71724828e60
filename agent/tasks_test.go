package agent

import (
	"context"
	"os"
	"regexp"
	"slices"
	"testing"

	"nereid/agent/machine"
)

// TestTasksAreListed: doc.go has the tasks, all of them and no others.
func TestTasksAreListed(t *testing.T) {
	a := &Agent{Net: newWire().net(), hardware: &inspector{}}
	a.Net.Monitor = func(context.Context) error { return nil }
	a.Zones.Machines = &machine.Machines{}
	a.Zones.Written = struct{ Written }{}
	a.ports, a.instances = newFollower(a, portKind()), newInstances(a, nil)
	n := newNetworker(a, nil)
	want := []string{a.feeder().name}
	for _, task := range a.tasks(&reconciler{}, &link{}, n, &sessions{}) {
		want = append(want, task.name)
	}
	doc, err := os.ReadFile("doc.go")
	if err != nil {
		t.Fatal(err)
	}
	var listed []string
	for _, m := range regexp.MustCompile(`(?m)^//	(\S.*?) {2,}\S`).FindAllSubmatch(doc, -1) {
		listed = append(listed, string(m[1]))
	}
	if !slices.Equal(listed, want) {
		t.Errorf("doc.go lists %q, the tasks are %q", listed, want)
	}
}
