package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os/exec"
	"path/filepath"
	"sync"
	"time"

	"nereid/api"
	"nereid/images"
)

// ImportPlatform trusts a platform's key, imports it and makes it the default,
// by the operator's program. It gives the platform's stamp.
func ImportPlatform(ctx context.Context, r *Rack, nereid, dir string, out io.Writer) (string, error) {
	_, m, err := images.ReadPlatform(dir)
	if err != nil {
		return "", fmt.Errorf("import platform: %w", err)
	}
	for _, args := range [][]string{
		{"platform", "key", "add", "lab", filepath.Join(dir, "manifest.pub")},
		{"platform", "import", dir},
		{"platform", "default", m.Stamp},
	} {
		cmd := exec.CommandContext(ctx, nereid, append([]string{"--server", r.Socket()}, args...)...)
		cmd.Stdout, cmd.Stderr = out, out
		if err := cmd.Run(); err != nil {
			return "", fmt.Errorf("import platform: nereid %v: %w", args, err)
		}
	}
	return m.Stamp, nil
}

// WaitServer waits until a server's record satisfies ok, and gives it. It looks at each
// event of the head node, and now and then for what has none: silence, counters. The
// head node may be away for a while: that is what several tests are about.
func WaitServer(ctx context.Context, c *api.Client, uuid, what string, limit time.Duration, ok func(api.Server) bool) (api.Server, error) {
	var following sync.WaitGroup
	defer following.Wait()
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	changed := make(chan struct{}, 1)
	following.Go(func() { follow(ctx, c, uuid, changed) })
	tick := time.NewTicker(unannounced)
	defer tick.Stop()
	last := "no answer yet"
	for {
		s, err := c.Server(ctx, uuid)
		var p *api.Problem
		switch {
		case err == nil && ok(s):
			return s, nil
		case err == nil:
			last = describe(s)
		case errors.As(err, &p) && p.Status != http.StatusNotFound:
			last = p.Error()
		case ctx.Err() == nil:
			last = err.Error()
		}
		select {
		case <-ctx.Done():
			return s, fmt.Errorf("wait for %s to be %s: not after %v; last seen: %s", uuid, what, limit, last)
		case <-changed:
		case <-tick.C:
		}
	}
}

// unannounced is how often is looked for what comes without an event.
const unannounced = 500 * time.Millisecond

// follow says in changed that there were events of a server, or that some may have been
// missed, until ctx ends.
func follow(ctx context.Context, c *api.Client, uuid string, changed chan<- struct{}) {
	tell := func() {
		select {
		case changed <- struct{}{}:
		default: // it was not looked at since the last one
		}
	}
	for ctx.Err() == nil {
		stream, err := c.Events(ctx, api.EventQuery{Servers: []string{uuid}})
		if err == nil {
			tell()
			for _, err := range stream.All() {
				if err != nil {
					break
				}
				tell()
			}
			_ = stream.Close() // it has ended
		}
		select {
		case <-ctx.Done():
		case <-time.After(unannounced): // the head node is away
		}
	}
}

// describe is what a test that waited for a server in vain shows of the server.
func describe(s api.Server) string {
	text := fmt.Sprintf("state %q, %s; boot %s, revision %s", s.State, s.StateReason, s.BootID, s.Revision)
	if s.Report != nil {
		text += fmt.Sprintf("; reported in boot %s: network of %s, problems %q", s.Report.BootID, s.Report.AppliedNetwork, s.Report.Problems)
	}
	return text
}

// WaitState waits until a server is in a state.
func WaitState(ctx context.Context, c *api.Client, uuid string, want api.ServerState, limit time.Duration) error {
	_, err := WaitServer(ctx, c, uuid, string(want), limit, func(s api.Server) bool { return s.State == want })
	return err
}
