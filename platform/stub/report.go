package stub

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"

	"nereid/api"
	"nereid/images"
)

// reporter posts events to the boot server, in order, beside the boot. What
// cannot be sent is dropped: a boot does not wait for its record.
type reporter struct {
	client images.Doer
	queue  chan report
	done   sync.WaitGroup
}

type report struct {
	url   string
	event api.BootEvent
	sent  chan struct{} // closed when it was dealt with; may be nil
}

const (
	reportTime  = 3 * time.Second // for one event
	reportQueue = 16
	maxDetail   = 1024 // bytes of a sentence in an event; the boot server takes 4 KiB in all
)

// startReporter starts the goroutine that posts. It ends with ctx; wait for done.
func startReporter(ctx context.Context, client images.Doer) *reporter {
	r := &reporter{client: client, queue: make(chan report, reportQueue)}
	r.done.Go(func() {
		for {
			select {
			case <-ctx.Done():
				return
			case e := <-r.queue:
				_ = post(ctx, r.client, e.url, e.event) // the next event or the console says the same
				if e.sent != nil {
					close(e.sent)
				}
			}
		}
	})
	return r
}

// send queues an event; a full queue drops it.
func (r *reporter) send(url string, ev api.BootEvent) {
	ev.Detail = ev.Detail[:min(len(ev.Detail), maxDetail)]
	ev.Time = time.Now().UTC()
	select {
	case r.queue <- report{url: url, event: ev}:
	default:
	}
}

// flush waits until what was queued has been dealt with, but not longer than d.
func (r *reporter) flush(ctx context.Context, url string, ev api.BootEvent, d time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	sent := make(chan struct{})
	ev.Time = time.Now().UTC()
	select {
	case r.queue <- report{url: url, event: ev, sent: sent}:
	case <-ctx.Done():
		return
	}
	select {
	case <-sent:
	case <-ctx.Done():
	}
}

func post(ctx context.Context, client images.Doer, url string, ev api.BootEvent) error {
	ctx, cancel := context.WithTimeout(ctx, reportTime)
	defer cancel()
	b, err := json.Marshal(ev)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(b))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, io.LimitReader(resp.Body, 4096))
	if err == nil && resp.StatusCode/100 != 2 {
		err = fmt.Errorf("report %s: the boot server answers %d", ev.Stage, resp.StatusCode)
	}
	return err
}
