package storetest

import (
	"bufio"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"nereid/headnode/store"
)

// crashEnv carries the store's directory to the process that is killed.
const crashEnv = "NEREID_STORETEST_CRASH"

// crashWriter is the process that is killed: eight writers each write two keys per
// Update, for ever, and print a line only once the Update has returned. It says
// false in any other process.
func crashWriter(t *testing.T, open Open) bool {
	dir, ok := os.LookupEnv(crashEnv)
	if !ok {
		return false
	}
	dir, round, _ := strings.Cut(dir, "|")
	s, err := open(t.Context(), dir)
	if err != nil {
		fmt.Printf("error open: %v\n", err)
		return true
	}
	var mu sync.Mutex
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() {
			for i := 0; ; i++ {
				key := fmt.Sprintf("%s-%d-%06d", round, w, i)
				err := s.Update(t.Context(), func(tx store.Tx) error {
					return putAll(tx, "x/"+key, strings.Repeat("v", i%3000), "y/"+key, "")
				})
				mu.Lock()
				if err != nil {
					fmt.Printf("error update: %v\n", err)
					mu.Unlock()
					return
				}
				fmt.Printf("ok %s\n", key)
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	return true
}

// testCrash kills such processes at random moments and looks for all they
// acknowledged, in full.
func testCrash(t *testing.T, open Open) {
	dir := t.TempDir()
	top, _, _ := strings.Cut(t.Name(), "/")
	acked := map[string]bool{}
	for round := range 5 {
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+top+"$", "-test.count=1")
		cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%s|%d", crashEnv, dir, round))
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		var kill *time.Timer // after the first line, so that there is something to lose
		n := 0
		for sc := bufio.NewScanner(out); sc.Scan(); {
			line := sc.Text()
			if strings.HasPrefix(line, "error") {
				t.Errorf("round %d: %s", round, line)
			}
			if key, ok := strings.CutPrefix(line, "ok "); ok {
				acked[key] = true
				n++
			}
			if kill == nil {
				kill = time.AfterFunc(time.Duration(20+rand.IntN(250))*time.Millisecond, func() { cmd.Process.Kill() })
			}
		}
		cmd.Wait() // killed: its error says so
		if kill != nil {
			kill.Stop()
		}
		if n == 0 {
			t.Fatalf("round %d: the writer acknowledged nothing", round)
		}
		checkCrash(t, open, dir, round, acked)
	}
	t.Logf("%d acknowledged updates survived 5 kills", len(acked))
}

// checkCrash reads the store a killed process left behind.
func checkCrash(t *testing.T, open Open, dir string, round int, acked map[string]bool) {
	s, err := open(t.Context(), dir)
	if err != nil {
		t.Fatalf("round %d: open after the kill: %v", round, err)
	}
	defer s.Close()
	err = s.View(t.Context(), func(tx store.Tx) error {
		for key := range acked {
			for _, k := range []string{"x/" + key, "y/" + key} {
				if _, err := tx.Get(k); err != nil {
					t.Errorf("round %d: acknowledged, and lost: %v", round, err)
				}
			}
		}
		var x, y []string // unacknowledged ones may be there, but whole
		for it, err := range tx.Scan("", "") {
			if err != nil {
				return err
			}
			if k, ok := strings.CutPrefix(it.Key, "x/"); ok {
				x = append(x, k)
			} else {
				y = append(y, it.Key[2:])
			}
		}
		if strings.Join(x, " ") != strings.Join(y, " ") {
			t.Errorf("round %d: an update is there in half", round)
		}
		return nil
	})
	if err != nil {
		t.Errorf("round %d: %v", round, err)
	}
}
