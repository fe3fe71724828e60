package main

import (
	"testing"
	"time"

	"nereid/api"
)

func TestOutcome(t *testing.T) {
	zero := time.Date(2026, 11, 22, 10, 15, 0, 0, time.UTC)
	at := func(s float64) time.Time { return zero.Add(seconds(s)) }
	ev := func(s float64, stage api.BootStage, detail string) api.BootEvent {
		return api.BootEvent{Time: at(s), Stage: stage, Detail: detail}
	}
	done := func(s float64) *time.Time { d := at(s); return &d }
	for _, tt := range []struct {
		name string
		boot api.Boot
		want string
		good bool
	}{
		{"nothing", api.Boot{}, "nothing seen of it", false},
		{"on its way", api.Boot{Events: []api.BootEvent{ev(0, api.StageDiscover, ""), ev(1, api.StageAck, "")}}, "no first sync; last seen: ack", false},
		{"failed once", api.Boot{Events: []api.BootEvent{ev(1, api.StageFailed, "no link")}}, "failed: no link", false},
		{"failed, then well", api.Boot{Done: done(20), Events: []api.BootEvent{ev(1, api.StageFailed, "no link"), ev(20, api.StageFirstSync, "")}},
			"first sync 20.0 s after power on", true},
		{"waits", api.Boot{Done: done(20), Events: []api.BootEvent{ev(20, api.StageEnrol, "waits")}}, "enrolled 20.0 s after power on, and waits for approval", true},
		{"waited", api.Boot{Done: done(20), Events: []api.BootEvent{ev(20, api.StageEnrol, "waits"), ev(60, api.StageEnrol, ""), ev(62, api.StageFirstSync, "")}},
			"enrolled 20.0 s after power on; first sync, once approved, 42.0 s later", true},
		{"enrolled, then refused", api.Boot{Done: done(20), Events: []api.BootEvent{ev(20, api.StageEnrol, "waits"), ev(30, api.StageRefused, "two machines")}}, "refused: two machines", false},
	} {
		if got, good := outcome(tt.boot, zero, "power on"); got != tt.want || good != tt.good {
			t.Errorf("%s: %q, %v; want %q, %v", tt.name, got, good, tt.want, tt.good)
		}
	}
}
