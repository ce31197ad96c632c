package fraction

import (
	"math"
	"sync"
	"sync/atomic"
	"testing"
)

func TestChooserPicksExactlyTheShare(t *testing.T) {
	for _, test := range []struct {
		share        float64
		events, want int
	}{
		{0, 1000, 0}, {1, 1000, 1000}, {0.5, 1001, 500}, {0.29, 100, 29}, {0.1, 10, 1}, {0.1, 9, 0},
		{1.0 / 3, 300, 99}, // A third rounds down to 0.333333333, so the last crossing comes one event later.
		{0.0002, 10_000, 2},
	} {
		chooser, err := New(test.share)
		if err != nil {
			t.Fatal(err)
		}
		got := 0
		for i := 0; i < test.events; i++ {
			if chooser.Next() {
				got++
			}
		}
		if got != test.want {
			t.Errorf("share %v of %d events: picked %d, want %d", test.share, test.events, got, test.want)
		}
	}
}

func TestChooserIsEvenlySpaced(t *testing.T) {
	chooser, err := New(0.25)
	if err != nil {
		t.Fatal(err)
	}
	for i := 1; i <= 100; i++ {
		if got, want := chooser.Next(), i%4 == 0; got != want {
			t.Fatalf("event %d: got %v, want %v", i, got, want)
		}
	}
}

func TestChooserIsExactUnderConcurrency(t *testing.T) {
	chooser, err := New(0.3)
	if err != nil {
		t.Fatal(err)
	}
	var picked atomic.Int64
	var workers sync.WaitGroup
	for w := 0; w < 8; w++ {
		workers.Add(1)
		go func() {
			defer workers.Done()
			for i := 0; i < 1000; i++ {
				if chooser.Next() {
					picked.Add(1)
				}
			}
		}()
	}
	workers.Wait()
	if picked.Load() != 2400 {
		t.Errorf("picked %d of 8000, want 2400", picked.Load())
	}
}

func TestNewRefusesWhatIsNoShare(t *testing.T) {
	for _, share := range []float64{-0.1, 1.1, math.NaN(), math.Inf(1)} {
		if _, err := New(share); err == nil {
			t.Errorf("New(%v) must fail", share)
		}
	}
}
