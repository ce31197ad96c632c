package bytesize

import "testing"

func TestSetReadsSizes(t *testing.T) {
	for text, want := range map[string]Size{
		"0": 0, "512": 512, "512B": 512, "64KiB": 64 << 10, "8MiB": 8 << 20, "2 GiB": 2 << 30,
	} {
		var got Size
		if err := got.Set(text); err != nil || got != want {
			t.Errorf("%q: got %d, %v; want %d", text, got, err, want)
		}
	}
}

func TestSetRefusesWhatIsNoSize(t *testing.T) {
	for _, text := range []string{"", "MiB", "-1", "1.5MiB", "8MB", "99999999999GiB", "0x10"} {
		var got Size
		if err := got.Set(text); err == nil {
			t.Errorf("%q must be refused, but is read as %d", text, got)
		}
	}
}
