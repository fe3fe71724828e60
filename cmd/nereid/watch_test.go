package main

import (
	"bufio"
	"context"
	"io"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"nereid/api"
	"nereid/headnode"
)

// TestWatchShowsNewcomers: "server watch" shows a machine that nobody knows from its
// first DHCP message on, by its MAC, and each leg that it comes to.
func TestWatchShowsNewcomers(t *testing.T) {
	r, err := startReal(t.Context(), filepath.Join(t.TempDir(), "data"))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	out, w := io.Pipe()
	lines, code := make(chan string), make(chan int, 1)
	go func() {
		defer close(lines)
		for s := bufio.NewScanner(out); s.Scan(); {
			lines <- s.Text()
		}
	}()
	go func() {
		code <- run(ctx, []string{"--server", filepath.Join(r.dir, headnode.SocketFile), "server", "watch"}, strings.NewReader(""), w, t.Output())
		_ = w.Close()
	}()
	t.Cleanup(func() {
		cancel()
		for range lines {
		}
		if got := <-code; got != exitInterrupted {
			t.Errorf("exit code %d", got)
		}
		if err := r.stop(); err != nil {
			t.Error(err)
		}
	})

	const mac = "52:54:00:00:00:10"
	req := api.BootRequest{MAC: mac, UUID: longUUID, VendorClass: "PXEClient:Arch:00000:UNDI:002001"}
	var a api.BootAnswer
	says := func(class string, kind api.BootKind) {
		t.Helper()
		req.UserClass, req.Kind = class, kind
		if a, err = r.head.Boot(ctx, req); err != nil || a.Verdict != api.VerdictAnswer {
			t.Fatalf("%s: %+v %v", kind, a, err)
		}
		req.Requested = a.Address.Addr()
	}
	passes := func(stage api.BootStage) {
		t.Helper()
		if err := r.head.Record(ctx, a.BootID, a.Address.Addr(), api.BootEvent{Stage: stage, Time: time.Now()}); err != nil {
			t.Fatal(err)
		}
	}
	shown := func(want string) {
		t.Helper()
		limit := time.After(30 * time.Second)
		for {
			select {
			case line, open := <-lines:
				if !open {
					t.Fatalf("the watch ended before it showed %q", want)
				}
				if !strings.Contains(line, "  "+mac+"  52-54-00-00-00-10  new (") {
					t.Fatalf("line %q is not the machine's", line)
				}
				if strings.Contains(line, want) {
					return
				}
			case <-limit:
				t.Fatalf("the watch does not show %q", want)
			}
		}
	}
	says("", api.KindDiscover)
	shown("new (firmware: DISCOVER answered once, no REQUEST; ")
	says("", api.KindDiscover)
	shown("new (firmware: DISCOVER answered 2 times, no REQUEST; ")
	says("", api.KindRequest)
	shown("new (firmware: has 10.99.99.100 and has read no boot file")
	passes(api.StageTFTP)
	shown("new (firmware: iPXE was sent (once)")
	says("iPXE", api.KindDiscover)
	shown("new (iPXE: DISCOVER answered once, no REQUEST; ")
	says("iPXE", api.KindRequest)
	shown("new (iPXE: has 10.99.99.100 and has not asked for its script")
	passes(api.StageKernel)
	shown("new (kernel: sent as far as kernel; ")
	passes(api.StageStub)
	shown("new (stub: runs, and loads the root filesystem")
	passes(api.StageSwitchRoot)
	shown("new (platform: runs; its agent has not enrolled yet")
}
