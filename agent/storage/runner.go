package storage

import (
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"strings"
	"time"
)

// commands runs programs of the system.
type commands struct{}

// Run implements Runner. Output in other languages than C would not parse.
func (commands) Run(ctx context.Context, name string, args ...string) ([]byte, error) {
	if err := supported(); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(cmd.Environ(), "LC_ALL=C")
	cmd.WaitDelay = 5 * time.Second
	var out, problem bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &problem
	if err := cmd.Run(); err != nil {
		text := strings.Join(strings.Fields(problem.String()), " ")
		verb := ""
		if len(args) > 0 {
			verb = " " + args[0]
		}
		if text == "" {
			return out.Bytes(), fmt.Errorf("%s%s: %w", name, verb, err)
		}
		return out.Bytes(), fmt.Errorf("%s%s: %s (%w)", name, verb, text, err)
	}
	return out.Bytes(), nil
}

func (s *Storage) run(ctx context.Context, name string, args ...string) ([]byte, error) {
	r := s.Runner
	if r == nil {
		r = commands{}
	}
	start := time.Now()
	out, err := r.Run(ctx, name, args...)
	s.log().DebugContext(ctx, "ran", "command", name, "args", args, "took", time.Since(start), "error", err)
	return out, err
}

// sets is what makes datasets.
func (s *Storage) sets() Datasets {
	if s.Datasets == nil {
		return ZFS{}
	}
	return s.Datasets
}
