package machine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode"

	"nereid/agent/machine/enter"
	"nereid/agent/machine/zone"
)

// Live gives a zone that runs the NICs that it has not, by its network namespace, and has
// the zone's first program set addresses, routes and resolvers from within: nothing that
// is the zone's is followed or executed with more rights than the zone has.
func Live(ctx context.Context, uuid string, h zone.Host) error {
	leader, err := Leader(ctx, uuid)
	if err != nil {
		return err
	}
	if err := zone.Attach(leader, h.NICs); err != nil {
		return err
	}
	var said bytes.Buffer
	status, err := enter.Run(ctx, zone.Program, leader, enter.Request{Kind: enter.Exec, Command: []string{zone.InnerProgram, zone.Again}, Dir: "/", User: "0:0"},
		io.NopCloser(strings.NewReader("")), io.Discard, &limited{&said, 1000}, nil)
	if err != nil {
		return err
	}
	if status != 0 {
		why := strings.Join(strings.FieldsFunc(said.String(), func(r rune) bool { return !unicode.IsGraphic(r) || r == ' ' }), " ")
		if why == "" {
			why = fmt.Sprintf("it ended with status %d", status)
		}
		return errors.New("set up the network inside: " + why)
	}
	return nil
}

// limited keeps the first bytes of what is written.
type limited struct {
	b    *bytes.Buffer
	most int
}

func (l *limited) Write(p []byte) (int, error) {
	l.b.Write(p[:min(len(p), max(0, l.most-l.b.Len()))])
	return len(p), nil
}
