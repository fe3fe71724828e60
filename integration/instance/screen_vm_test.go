//go:build vm

package instance

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"image/png"
	"net"
	"path/filepath"
	"strings"

	"nereid/api"
	"nereid/fixtures/rfb"
	"nereid/integration/lab"
)

// screen sees what is on the screen of a machine whose guest is the boot sector: as a
// picture, and by two viewers, one after the other, through the operator's program, the
// head node and the server's agent. The audit tells of it.
func (o operator) screen(name string) {
	o.T.Helper()
	img, err := png.Decode(bytes.NewReader([]byte(o.nereid("instance", "screenshot", name, "-"))))
	if err == nil {
		err = rfb.Red(img)
	}
	if err != nil {
		o.T.Errorf("screenshot: %v", err)
	}
	ctx, cancel := context.WithCancel(o.T.Context())
	defer cancel()
	cmd := o.command(ctx, "-o", "json", "instance", "vnc", name)
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		o.T.Fatal(err)
	}
	defer cmd.Wait()
	defer cancel()
	var at struct{ Address string }
	if err := json.NewDecoder(out).Decode(&at); err != nil {
		o.T.Fatalf("vnc says no address: %v", err)
	}
	for range 2 {
		err := lab.Inside(filepath.Join("/run/netns", o.Namespace), func() error {
			c, err := (&net.Dialer{}).DialContext(ctx, "tcp", at.Address)
			if err != nil {
				return err
			}
			defer c.Close()
			seen, err := rfb.See(c)
			if err != nil {
				return err
			}
			return rfb.Red(seen)
		})
		if err != nil {
			o.T.Errorf("vnc: %v", err)
		}
	}
	o.nereid("instance", "nmi", name)
	var audit []api.InstanceAudit
	o.read(&audit, "instance", "audit", name)
	if said := fmt.Sprint(audit); !strings.Contains(said, "screenshot") || !strings.Contains(said, "vnc") || !strings.Contains(said, "nmi") {
		o.T.Errorf("the audit is %s", said)
	}
}
