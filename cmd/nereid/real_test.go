package main

import (
	"context"
	"errors"
	"net/netip"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"nereid/api"
	"nereid/bootserver"
	"nereid/headnode"
	"nereid/headnode/answers"
)

// TestHeadnode runs the archives of testdata/headnode: the program against the
// head node itself, and machines that boot by it.
func TestHeadnode(t *testing.T) {
	p := headnodeParams(t)
	p.UpdateScripts = *update
	testscript.Run(t, p)
}

func headnodeParams(t *testing.T) testscript.Params {
	return testscript.Params{
		Dir:                 "testdata/headnode",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"machine": machineCommand,
			"platform": func(ts *testscript.TestScript, _ bool, args []string) {
				ts.Check(writePlatform(ts.MkAbs(args[0]), args[1]))
			},
			"image": func(ts *testscript.TestScript, _ bool, args []string) {
				ts.Check(writeImage(ts.MkAbs(args[0]), args[1:]...))
			},
			"layout": func(ts *testscript.TestScript, _ bool, args []string) {
				ts.Check(writeLayout(ts.MkAbs(args[0]), ts.MkAbs(args[1])))
			},
			"disk": func(ts *testscript.TestScript, _ bool, args []string) {
				ts.Check(writeDisk(ts.MkAbs(args[0])))
			},
			"damage": damageCommand,
			"mac":    macCommand,
			"on":     onCommand,
			"uuid":   uuidCommand,
		},
		Setup: func(env *testscript.Env) error {
			r, err := startReal(t.Context(), filepath.Join(env.WorkDir, "data"))
			if err != nil {
				return err
			}
			env.Defer(func() {
				if err := r.stop(); err != nil {
					env.T().Log(err)
					env.T().FailNow()
				}
			})
			env.Values["real"] = r
			env.Setenv("NEREID_SERVER", filepath.Join(r.dir, headnode.SocketFile))
			env.Setenv("TLS_URL", "https://"+r.head.HTTPS().String())
			return nil
		},
	}
}

// realHeadnode is a head node on loopback, and what runs beside it.
type realHeadnode struct {
	dir    string
	head   *headnode.Server
	cancel context.CancelFunc
	wg     sync.WaitGroup
	mu     sync.Mutex
	errs   []error
}

func startReal(ctx context.Context, dir string) (*realHeadnode, error) {
	err := headnode.Init(ctx, dir, answers.Answers{Datacenter: "coal", DNSDomain: "coal.example.com", Admin: answers.Admin{
		Interface: "admin0", Address: netip.MustParsePrefix("10.99.99.7/24"), First: netip.MustParseAddr("10.99.99.100"), Last: netip.MustParseAddr("10.99.99.120"),
		Lease: 12 * time.Hour, Clients: answers.ClientsPXE,
	}})
	if err != nil {
		return nil, err
	}
	head, err := headnode.Open(ctx, headnode.Config{Dir: dir, Version: "v0.1.0", Listen: netip.MustParseAddrPort("127.0.0.1:0"), Hold: 100 * time.Millisecond})
	if err != nil {
		return nil, err
	}
	boot := &bootserver.Server{Address: head.Answers().Admin.Address, Booter: head, Files: head.Files(), Clients: answers.ClientsPXE, IPXEDir: dir}
	head.Explain = boot.Explain
	r := &realHeadnode{dir: dir, head: head}
	ctx, r.cancel = context.WithCancel(ctx)
	r.run(func() error { return head.Run(ctx) })
	select {
	case <-head.Ready():
		return r, nil
	case <-time.After(20 * time.Second):
		return nil, errors.Join(errors.New("the head node is not ready"), r.stop())
	}
}

func (r *realHeadnode) run(fn func() error) {
	r.wg.Go(func() {
		if err := fn(); err != nil && !errors.Is(err, context.Canceled) {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.errs = append(r.errs, err)
		}
	})
}

func (r *realHeadnode) stop() error {
	r.cancel()
	r.wg.Wait()
	return errors.Join(append(r.errs, r.head.Close())...)
}

// machineCommand is "machine" in the archives.
func machineCommand(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 3 {
		ts.Fatalf("usage: machine on MAC UUID [PROBLEM...] | machine hang MAC UUID | machine refused MAC UUID CODE | machine await SERVER STATE")
	}
	r := ts.Value("real").(*realHeadnode)
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	c := api.NewClient(filepath.Join(r.dir, headnode.SocketFile))
	defer c.Close()
	switch args[0] {
	case "on": // MAC UUID [PROBLEM...]: powers a blank machine on, which then reports problems
		m := &machine{head: r.head, mac: args[1], uuid: args[2], problems: args[3:], disks: []api.Disk{{Name: "vda", SizeBytes: 8 << 30}, {Name: "vdb", SizeBytes: 8 << 30}}}
		live, off := context.WithCancel(context.Background())
		ts.Defer(off)
		r.run(func() error {
			err := m.run(live)
			var p *api.Problem
			if errors.As(err, &p) && p.Code == api.CodeUUIDCollision {
				return nil // it stops there, as a machine whose screen says so
			}
			return err
		})
	case "hang": // MAC UUID: firmware that asks twice for an address and hears no answer
		for range 2 {
			_, err := r.head.Boot(ctx, api.BootRequest{Kind: api.KindDiscover, MAC: args[1], UUID: args[2], VendorClass: "PXEClient"})
			ts.Check(err)
		}
	case "refused": // MAC UUID CODE: powers a machine on, which must be refused
		m := &machine{head: r.head, mac: args[1], uuid: args[2]}
		err := m.run(ctx)
		var p *api.Problem
		if !errors.As(err, &p) || string(p.Code) != args[3] {
			ts.Fatalf("machine %s: %v, want code %s", args[1], err, args[3])
		}
	case "await": // SERVER STATE: waits until the head node says so
		var last string
		ts.Check(follow(ctx, c, api.EventQuery{}, time.Second, func(ctx context.Context) (bool, error) {
			s, err := c.Server(ctx, args[1])
			var p *api.Problem
			if errors.As(err, &p) && p.Status == 404 {
				return false, nil
			}
			last = string(s.State)
			return last == args[2], err
		}, func(error) {}))
	default:
		ts.Fatalf("machine %s: no such command", args[0])
	}
}
