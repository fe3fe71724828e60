package fleet

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"testing"
	"time"

	"go.uber.org/goleak"

	"nereid/headnode"
	"nereid/headnode/answers"
)

// childEnv makes this test's program the head node.
const childEnv = "NEREID_FLEET_TEST_HEADNODE"

func TestMain(m *testing.M) {
	if os.Getenv(childEnv) == "" {
		goleak.VerifyTestMain(m)
		return
	}
	if err := child(context.Background(), os.Args[1:]); err != nil {
		slog.Error("head node", "err", err)
		os.Exit(1)
	}
}

// headnodeProgram is a head node in a process of its own, which may be killed.
func headnodeProgram(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, os.Args[0], args...)
	cmd.Env = append(os.Environ(), childEnv+"=1")
	return cmd
}

// child is what nereid-headnode does with the arguments that fleettest gives it.
func child(ctx context.Context, args []string) error {
	arg := func(name string) string {
		for i := range args[:len(args)-1] {
			if args[i] == name {
				return args[i+1]
			}
		}
		return ""
	}
	if args[0] == "init" {
		file := arg("--answers")
		f, err := os.Open(file)
		if err != nil {
			return err
		}
		defer f.Close()
		a, err := answers.Parse(f, file)
		if err != nil {
			return err
		}
		return headnode.Init(ctx, arg("--data-dir"), a)
	}
	listen, err := netip.ParseAddrPort(arg("--listen"))
	if err != nil {
		return err
	}
	h, err := headnode.Open(ctx, headnode.Config{Dir: arg("--data-dir"), Socket: arg("--socket"), Listen: listen,
		Hold:   300 * time.Millisecond, // an answer tells a server that its report was taken in
		Logger: slog.New(slog.NewTextHandler(os.Stderr, nil))})
	if err != nil {
		return err
	}
	return errors.Join(h.Run(ctx), h.Close())
}
