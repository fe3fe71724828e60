package storage

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"nereid/api"
)

// ErrOneDisk says that several kernel names lead to one disk, or to one drive.
var ErrOneDisk = errors.New("a pool may use a disk once")

// oneDrive begins what the namespaces of an NVMe drive have in common.
const oneDrive = "NVMe drive "

// identities are what a disk has in common with its other paths: its world wide
// name, and on transports where a disk has several ports its model, serial
// number and size. NVMe has the model and serial number of the drive, whose
// namespaces fail with it. A disk that shows nothing of this has none.
func identities(d api.Disk) []string {
	var ids []string
	if w := worldWideName(d); w != "" {
		ids = append(ids, "WWN "+w)
	}
	if d.Model != "" && d.Serial != "" && slices.Contains([]string{"sas", "fc", "iscsi"}, d.Transport) {
		ids = append(ids, fmt.Sprintf("model %s, serial number %s, %d bytes", d.Model, d.Serial, d.SizeBytes))
	}
	if d.Transport == "nvme" && d.Model != "" && strings.Trim(d.Serial, "0") != "" {
		ids = append(ids, oneDrive+d.Model+", serial number "+d.Serial)
	}
	return ids
}

// worldWideName is the name without the words before it ("naa.", "0x", "wwn-"),
// from the disk's id where the inventory has none; empty where the name is a
// placeholder that many disks carry.
func worldWideName(d api.Disk) string {
	w := d.WWN
	if id := strings.TrimPrefix(d.ID, "/dev/disk/by-id/"); w == "" {
		for _, kind := range []string{"wwn-", "nvme-eui.", "nvme-uuid."} {
			if rest, ok := strings.CutPrefix(id, kind); ok {
				w = rest
			}
		}
	}
	w = strings.ToLower(strings.TrimSpace(w))
	for _, p := range []string{"naa.", "eui.", "uuid.", "0x"} {
		w = strings.TrimPrefix(w, p)
	}
	digits := strings.ReplaceAll(w, "-", "")
	if strings.Trim(digits, "0") == "" || strings.Trim(digits, "f") == "" || strings.Trim(digits[1:], "0") == "" {
		return ""
	}
	return w
}

// samePaths groups the disks that are one disk: each group shares an identity,
// directly or through another of the group. Disks named in Options.Distinct are
// disks of their own.
func samePaths(disks []api.Disk, distinct []string) (groups [][]api.Disk, shared []string) {
	at := map[string]int{} // group by identity
	for _, d := range disks {
		if d.Transport == "usb" || d.Removable || named(d, distinct) {
			continue
		}
		ids, to := identities(d), -1
		for _, id := range ids {
			g, ok := at[id]
			switch {
			case !ok || g == to:
			case to < 0:
				to, shared[g] = g, id
			default: // The disk joins two groups.
				groups[to] = append(groups[to], groups[g]...)
				groups[g] = nil
				for k, v := range at {
					if v == g {
						at[k] = to
					}
				}
			}
		}
		if to < 0 {
			groups, shared, to = append(groups, nil), append(shared, ""), len(groups)
		}
		groups[to] = append(groups[to], d)
		for _, id := range ids {
			at[id] = to
		}
	}
	return groups, shared
}

// onePath refuses when the pool could get one disk by two of its paths. A path
// to a disk that something uses by another path is left alone: that is in skip,
// by kernel name, with the reason.
func onePath(disks []api.Disk, o Options) (skip map[string]string, err error) {
	skip = map[string]string{}
	groups, shared := samePaths(disks, o.Distinct)
	var refused []error
	for i, g := range groups {
		if len(g) < 2 {
			continue
		}
		slices.SortFunc(g, func(a, b api.Disk) int { return naturalCompare(a.Name, b.Name) })
		var open []string
		used := slices.IndexFunc(g, func(d api.Disk) bool { return d.InUseBy != "" })
		drive := strings.HasPrefix(shared[i], oneDrive)
		for _, d := range g {
			switch {
			case named(d, o.Exclude) || d.InUseBy != "":
			case used >= 0 && !drive:
				skip[d.Name] = fmt.Sprintf("another path to %s, which is in use by %s", g[used].Name, g[used].InUseBy)
			default:
				open = append(open, d.Name)
			}
		}
		if len(open) < 2 {
			continue
		}
		if drive {
			refused = append(refused, fmt.Errorf("%s are %d namespaces of one drive (%s), which fail together, and %w; "+
				"add --exclude %s to use %s alone, or --distinct %s to use them as disks of their own all the same",
				and(open), len(open), shared[i], ErrOneDisk, strings.Join(open[1:], ","), open[0], strings.Join(open, ",")))
			continue
		}
		refused = append(refused, fmt.Errorf("%s are %d paths to one disk (%s), and %w; "+
			"add --exclude %s to use it by %s alone, or --distinct %s if they are different disks",
			and(open), len(open), shared[i], ErrOneDisk, strings.Join(open[1:], ","), open[0], strings.Join(open, ",")))
	}
	return skip, errors.Join(refused...)
}

// and lists names as a sentence does.
func and(names []string) string {
	if len(names) < 2 {
		return strings.Join(names, "")
	}
	return strings.Join(names[:len(names)-1], ", ") + " and " + names[len(names)-1]
}
