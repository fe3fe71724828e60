package boots

import (
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"nereid/api"
)

func TestLegs(t *testing.T) {
	type evs = []api.BootEvent
	ev := func(s float64, stage api.BootStage) api.BootEvent { return api.BootEvent{Time: at(s), Stage: stage} }
	guest := func(s float64, stage api.BootStage, mono float64) api.BootEvent {
		return api.BootEvent{Time: at(s), Stage: stage, Seconds: mono}
	}
	early := evs{ev(4, api.StageDiscover), ev(5, api.StageAck), {Time: at(7), Stage: api.StageTFTP, Seconds: 1.5, Bytes: 1000},
		ev(9, api.StageIPXEDiscover), ev(10, api.StageIPXEAck), ev(11, api.StageScript), ev(12, api.StageKernel), ev(13, api.StageInitrd), ev(13.5, api.StageConfig)}
	late := evs{guest(18, api.StageStub, 4), guest(21, api.StageRoot, 7), guest(22, api.StageSwitchRoot, 8), ev(29, api.StageEnrol), ev(30, api.StageFirstSync)}
	transfers := evs{{Time: at(19), Stage: api.StageRoot, Seconds: 0.5, Bytes: 5000}, {Time: at(21.5), Stage: api.StageRoot, Seconds: 99, Bytes: 5000}}
	timings := &api.BootTimings{Stub: 3.5, SwitchRoot: 8, Systemd: 8.5, Agent: 14, FirstSync: 16}
	join := func(parts ...evs) (all evs) {
		for _, p := range parts {
			all = append(all, p...)
		}
		return all
	}
	without := func(all evs, stages ...api.BootStage) (left evs) {
		for _, e := range all {
			keep := true
			for _, s := range stages {
				keep = keep && e.Stage != s
			}
			if keep {
				left = append(left, e)
			}
		}
		return left
	}
	for _, c := range []struct {
		name    string
		on      time.Time
		events  evs
		timings *api.BootTimings
		done    float64
		want    string
	}{
		{"whole", at(1), join(early, late), timings, 30, "4 2 4 3 3 5.5 7.5"},
		{"layers do not count as the stub's report", at(1), join(early, late, transfers), timings, 30, "4 2 4 3 3 5.5 7.5"},
		{"power-on not known", time.Time{}, join(early, late), timings, 30, "1 2 4 3 3 5.5 7.5"},
		{"power-on behind the first DISCOVER", at(8), join(early, late), timings, 30, "1 2 4 3 3 5.5 7.5"},
		{"ROM is iPXE", at(1), join(without(early, api.StageDiscover, api.StageAck, api.StageTFTP), late), timings, 30, "9 0 1 3 3 5.5 7.5"},
		{"no ack", at(1), join(without(early, api.StageAck), late), timings, 30, "4.5 1.5 4 3 3 5.5 7.5"},
		{"UEFI HTTP boot, no TFTP", at(1), join(without(early, api.StageTFTP), late), timings, 30, "4 0 6 3 3 5.5 7.5"},
		{"no script", at(1), join(without(early, api.StageScript), late), timings, 30, "4 2 0 7 3 5.5 7.5"},
		{"no timings", at(1), join(early, late), nil, 30, "4 2 4 3 3 5 8"},
		{"no stub report", at(1), join(early, without(late, api.StageStub)), timings, 30, "4 2 4 3 3.5 5 7.5"},
		{"no root report", at(1), join(early, without(late, api.StageRoot)), timings, 30, "4 2 4 3 4 4.5 7.5"},
		{"no report of the stub at all", at(1), join(early, without(late, api.StageStub, api.StageRoot, api.StageSwitchRoot)), timings, 30, "4 2 4 3 0 8.5 7.5"},
		{"nothing from the guest", at(1), join(early, evs{ev(30, api.StageFirstSync)}), nil, 30, "4 2 4 2.5 0 0 16.5"},
		{"nothing but the ends", at(1), evs{ev(4, api.StageDiscover), ev(30, api.StageFirstSync)}, nil, 30, "0 0 0 0 0 0 29"},
		{"stopped in the stub", at(1), join(early, late[:1]), nil, 0, "4 2 4 3"},
		{"stopped after the script", at(1), early[:6], nil, 0, "4 2 4"},
		{"stopped before an address", at(1), early[:1], nil, 0, ""},
		{"guest's clock is nonsense", at(1), join(early, evs{guest(18, api.StageStub, -1e300), guest(21, api.StageRoot, 1e300), guest(22, api.StageSwitchRoot, math.NaN())}), &api.BootTimings{Systemd: math.Inf(1), FirstSync: math.NaN()}, 30, "4 2 4 2.5 3 5.5 8"},
	} {
		b := api.Boot{Started: at(4), Events: c.events, Timings: c.timings}
		if len(c.events) > 0 && c.events[0].Stage != api.StageDiscover {
			b.Started = c.events[0].Time
		}
		last := 0.0
		if c.done > 0 {
			d := at(c.done)
			b.Done, last = &d, c.done
		}
		legs := Legs(b, c.on)
		var got []string
		sum := 0.0
		for i, l := range legs {
			if math.Abs(l.Start-sum) > 1e-9 || l.Seconds < 0 {
				t.Errorf("%s: leg %d begins at %v, want %v; takes %v", c.name, i, l.Start, sum, l.Seconds)
			}
			sum += l.Seconds
			got = append(got, fmt.Sprint(l.Seconds))
		}
		if strings.Join(got, " ") != c.want {
			t.Errorf("%s:\n got %s\nwant %s", c.name, strings.Join(got, " "), c.want)
		}
		from := b.Started
		if !c.on.IsZero() && c.on.Before(from) {
			from = c.on
		}
		if last > 0 && math.Abs(sum-(b.Done.Sub(from)).Seconds()) > 1e-6 {
			t.Errorf("%s: legs sum to %v", c.name, sum)
		}
	}
}
