package screen

import (
	"bytes"
	"fmt"
	"image/color"
	"image/png"
	"strings"
	"testing"
)

// TestPNG: each pixel has its colour, and what is behind the last one is left out.
func TestPNG(t *testing.T) {
	out, err := PNG(strings.NewReader("P6\n3 2\n255\n" + "\x01\x02\x03\x04\x05\x06\x07\x08\x09" + "\x0a\x0b\x0c\x0d\x0e\x0f\xff\xfe\xfd" + "and more"))
	if err != nil {
		t.Fatal(err)
	}
	img, err := png.Decode(bytes.NewReader(out))
	if err != nil {
		t.Fatal(err)
	}
	if b := img.Bounds(); b.Dx() != 3 || b.Dy() != 2 {
		t.Fatalf("it has %v", b)
	}
	for y, row := range [][]color.RGBA{{{1, 2, 3, 255}, {4, 5, 6, 255}, {7, 8, 9, 255}}, {{10, 11, 12, 255}, {13, 14, 15, 255}, {255, 254, 253, 255}}} {
		for x, want := range row {
			if got := color.RGBAModel.Convert(img.At(x, y)); got != want {
				t.Errorf("pixel %d,%d is %v: want %v", x, y, got, want)
			}
		}
	}
}

// TestRefused: a size that is not to be believed is refused before anything of that size
// is made.
func TestRefused(t *testing.T) {
	for text, want := range map[string]string{
		"":                                  "EOF",
		"P5\n1 1\n255\nx":                   "P6",
		"P6\n1 1\n65535\nabcabc":            "and 255",
		"P6\n1 1\n255":                      "and 255",
		"P6\n1 -1\n255\nabc":                "and 255",
		"P6 # c\n1 1\n255\nabc":             "and 255",
		"P6\n0 1\n255\n":                    "0 by 1 pixels",
		"P6\n99999999999999999999 1\n255\n": "out of range",
		"P6\n16384 16384\n255\n":            "at most",
		"P6\n2 2\n255\nabcabc":              "row 1 of 2",
	} {
		if _, err := PNG(strings.NewReader(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v: want %q", text, err, want)
		}
	}
}

// FuzzPNG: whatever a QEMU writes, there is a picture or an error.
func FuzzPNG(f *testing.F) {
	f.Add([]byte("P6\n2 1\n255\nabcdef"))
	f.Add([]byte("P6\n16384 16384\n255\n"))
	f.Add([]byte("P6 1\t1\r255 abc"))
	f.Fuzz(func(t *testing.T, b []byte) {
		out, err := PNG(bytes.NewReader(b))
		if err != nil {
			return
		}
		img, err := png.Decode(bytes.NewReader(out))
		if err != nil {
			t.Fatal(err)
		}
		if s := img.Bounds(); !bytes.HasPrefix(b, []byte("P6")) || len(b) < 3*s.Dx()*s.Dy() {
			t.Fatal(fmt.Sprint(s, " of ", len(b), " bytes"))
		}
	})
}
