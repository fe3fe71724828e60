// Package screen makes a picture of what QEMU says is on a machine's screen. What QEMU
// writes is the guest's, and hostile: all sizes in it are checked before they are used.
package screen

import (
	"bytes"
	"errors"
	"fmt"
	"image"
	"image/png"
	"io"
	"strconv"
)

// Bounds of a screen. A machine's VGA has 16 MiB of memory, which are at most 8 million
// pixels of two bytes.
const (
	maxSide   = 16384
	maxPixels = 8 << 20
	maxHeader = 64 // bytes of the text before the pixels
)

// MaxBytes is the length of the longest picture that PNG reads, in bytes.
const MaxBytes = maxHeader + 3*maxPixels

// PNG reads a picture as QEMU's screendump writes it, a portable pixmap with a byte for
// each of red, green and blue (ppm(5), P6), and gives it as PNG (RFC 2083). What follows
// the pixels is not looked at.
func PNG(r io.Reader) ([]byte, error) {
	head := make([]byte, maxHeader)
	n, err := io.ReadFull(r, head)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
		return nil, fmt.Errorf("read picture of screen: %w", err)
	}
	width, height, text, err := header(head[:n])
	if err != nil {
		return nil, fmt.Errorf("read picture of screen: %w", err)
	}
	pixels := io.MultiReader(bytes.NewReader(head[text:n]), r)
	img := image.NewNRGBA(image.Rect(0, 0, width, height))
	row := make([]byte, 3*width)
	for y := range height {
		if _, err := io.ReadFull(pixels, row); err != nil {
			return nil, fmt.Errorf("read picture of screen: row %d of %d: %w", y, height, err)
		}
		out := img.Pix[y*img.Stride:]
		for x := range width {
			copy(out[4*x:], row[3*x:3*x+3])
			out[4*x+3] = 0xff
		}
	}
	var b bytes.Buffer
	if err := (&png.Encoder{CompressionLevel: png.BestSpeed}).Encode(&b, img); err != nil {
		return nil, fmt.Errorf("encode picture of screen: %w", err)
	}
	return b.Bytes(), nil
}

// header reads the text before the pixels: P6, width, height and the greatest value, with
// white space between them and one character of it behind.
func header(b []byte) (width, height, length int, err error) {
	if !bytes.HasPrefix(b, []byte("P6")) {
		return 0, 0, 0, fmt.Errorf("it begins with %.8q: want a portable pixmap, P6", b)
	}
	at := 2
	var numbers [3]int
	for i := range numbers {
		space := at
		for at < len(b) && isSpace(b[at]) {
			at++
		}
		begin := at
		for at < len(b) && b[at] >= '0' && b[at] <= '9' {
			at++
		}
		if begin == space || begin == at || at == len(b) {
			return 0, 0, 0, fmt.Errorf("its header is %.64q: want P6, width, height and 255", b)
		}
		if numbers[i], err = strconv.Atoi(string(b[begin:at])); err != nil {
			return 0, 0, 0, fmt.Errorf("its header is %.64q: %w", b, err)
		}
	}
	width, height = numbers[0], numbers[1]
	switch {
	case !isSpace(b[at]), numbers[2] != 255:
		return 0, 0, 0, fmt.Errorf("its header is %.64q: want P6, width, height and 255", b)
	case width < 1, height < 1, width > maxSide, height > maxSide, width*height > maxPixels:
		return 0, 0, 0, fmt.Errorf("it has %d by %d pixels: want 1 to %d each way, and at most %d", width, height, maxSide, maxPixels)
	}
	return width, height, at + 1, nil
}

func isSpace(c byte) bool { return c == ' ' || c == '\n' || c == '\r' || c == '\t' }
