package sysinfo

import "testing"

func TestPage83(t *testing.T) {
	const (
		port  = "\x61\x93\x00\x08\x50\x00\xc5\x00\xa1\xb2\xc3\xd5"
		unit  = "\x01\x03\x00\x08\x50\x00\xc5\x00\xa1\xb2\xc3\xd4"
		t10   = "\x02\x01\x00\x14ATA     disk  SERIAL"
		eui   = "\x01\x02\x00\x08\x00\x25\x38\x54\x00\x00\x00\x01"
		naked = "\x02\x00\x00\x04abcd"
	)
	page := func(s string) []byte { return []byte("\x00\x83\x00" + string(rune(len(s))) + s) }
	tests := []struct{ name, page, want string }{
		{"the unit's, not the port's", string(page(port + unit)), "naa.5000c500a1b2c3d4"},
		{"NAA before the others", string(page(t10 + unit + eui)), "naa.5000c500a1b2c3d4"},
		{"EUI before T10", string(page(t10 + eui)), "eui.0025385400000001"},
		{"T10", string(page(naked + t10)), "t10.ATA disk SERIAL"},
		{"only the port's", string(page(port)), ""},
		{"another page", "\x00\x80\x00\x04abcd", ""},
		{"cut short", string(page(unit))[:9], ""},
		{"empty", "", ""},
	}
	for _, tt := range tests {
		if got := parsePage83([]byte(tt.page)); got != tt.want {
			t.Errorf("%s: got %q, want %q", tt.name, got, tt.want)
		}
	}
}

func FuzzPage83(f *testing.F) {
	f.Add([]byte("\x00\x83\x00\x0c\x01\x03\x00\x08\x50\x00\xc5\x00\xa1\xb2\xc3\xd4"))
	f.Fuzz(func(t *testing.T, page []byte) {
		if got := parsePage83(page); len(got) > 2*len(page)+4 {
			t.Fatalf("%d bytes became %q", len(page), got)
		}
	})
}
