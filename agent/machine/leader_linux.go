package machine

import (
	"context"
	"fmt"

	"github.com/coreos/go-systemd/v22/machine1"
)

// Leader is the process number of a zone's first process, as systemd-machined has it
// (org.freedesktop.machine1(5)). A zone that does not run has none.
func Leader(_ context.Context, uuid string) (int, error) {
	c, err := machine1.New()
	if err != nil {
		return 0, fmt.Errorf("find first process of %s: %w", uuid, err)
	}
	defer c.Close()
	is, err := c.DescribeMachine(uuid)
	if err != nil {
		return 0, fmt.Errorf("find first process of %s: %w", uuid, err)
	}
	pid, ok := is["Leader"].(uint32)
	if !ok || pid == 0 {
		return 0, fmt.Errorf("find first process of %s: systemd-machined names none", uuid)
	}
	return int(pid), nil
}
