package main

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"nereid/api"
)

// TestFollowLooksWhenTold: while a stream of events is open nothing is looked at but what is
// told of, however long that takes; while none is, and after a look that was not answered,
// it is looked every two seconds.
func TestFollowLooksWhenTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		looks, away, lost := 0, false, 0
		told := make(chan *news)
		result := make(chan error, 1)
		go func() {
			result <- followNews(t.Context(), func(ctx context.Context, n *news) {
				told <- n
				<-ctx.Done()
			}, 0, func(context.Context) (bool, error) {
				looks++
				if away {
					return false, &api.UnreachableError{Headnode: "x", Err: errors.New("refused")}
				}
				return looks == 30, nil
			}, func(error) { lost++ })
		}()
		n := <-told
		expect := func(what string, want int) {
			t.Helper()
			synctest.Wait()
			if looks != want {
				t.Errorf("%s: it was looked %d times, want %d", what, looks, want)
			}
		}
		expect("at first", 1)
		time.Sleep(5*time.Second + time.Millisecond)
		expect("5 seconds without a stream", 3)
		n.open.Store(true)
		n.mark()
		expect("a stream opened", 4)
		time.Sleep(24 * time.Hour)
		expect("a day without an event", 4)
		for range 3 {
			n.mark()
			synctest.Wait()
		}
		expect("three events", 7)
		away = true
		n.mark()
		expect("the stream breaks", 8)
		time.Sleep(4*time.Second + time.Millisecond)
		expect("4 seconds without an answer", 10)
		if away = false; lost != 3 {
			t.Errorf("it was told %d times that there is no answer", lost)
		}
		time.Sleep(24 * time.Hour)
		expect("a day after it answered again", 11)
		for range 18 {
			n.mark()
			synctest.Wait()
		}
		n.mark()
		if err := <-result; err != nil || looks != 30 {
			t.Errorf("%v after %d looks", err, looks)
		}
	})
}
