// Package seed makes the small disk by which a virtual machine's cloud-init learns what it
// is to be: a FAT file system labelled CIDATA, of data source NoCloud (cloud-init's
// documentation, "NoCloud").
package seed

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"

	"github.com/diskfs/go-diskfs/backend/file"
	"github.com/diskfs/go-diskfs/filesystem/fat12"
)

// Size is that of the disk, in bytes. All metadata of an instance fits into it.
const Size = 1 << 20

// label is the volume's; cloud-init takes it in capitals too, as FAT has it.
const label = "CIDATA"

// Image gives the bytes of a disk that has files, by their names, in its root.
func Image(files map[string]string) ([]byte, error) {
	f, err := os.CreateTemp("", "seed")
	if err != nil {
		return nil, fmt.Errorf("make seed: %w", err)
	}
	defer f.Close() // what is in it was read
	if err := os.Remove(f.Name()); err != nil {
		return nil, fmt.Errorf("make seed: %w", err)
	}
	if err := write(f, files); err != nil {
		return nil, fmt.Errorf("make seed: %w", err)
	}
	image := make([]byte, Size)
	if _, err := f.ReadAt(image, 0); err != nil {
		return nil, fmt.Errorf("make seed: %w", err)
	}
	return image, nil
}

func write(f *os.File, files map[string]string) error {
	if err := f.Truncate(Size); err != nil {
		return err
	}
	disk, err := fat12.Create(file.New(f, false), Size, 0, 512, label, true)
	if err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		w, err := disk.OpenFile("/"+name, os.O_CREATE|os.O_RDWR)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		if files[name] != "" {
			_, err = io.WriteString(w.(io.Writer), files[name])
		}
		if err = errors.Join(err, w.Close()); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}
