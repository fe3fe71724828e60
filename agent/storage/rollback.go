package storage

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"nereid/api"
)

// propRolled are the ids of the rollbacks of an instance that were carried out, or with "!"
// before them refused, the newest last: none is carried out twice.
const propRolled = "nereid:rolledback"

// maxRolled is how many of them are kept. Requests come one after another.
const maxRolled = 16

// Rollbacker makes a dataset, and those below it that have a snapshot, what they were. newer
// are the names of the newer snapshots, which go.
type Rollbacker interface {
	// CanRollBack says why it is not possible: there are newer snapshots that are not named,
	// one of those that are named cannot go, or there is no such snapshot. Empty: it is,
	// while nobody has the datasets mounted or open.
	CanRollBack(ctx context.Context, root, snapshot string, newer []string) (refused string, err error)
	// RollBack does it, and adds a word to those of a property of users of the dataset, of
	// which it keeps the last 16: all in one transaction; or it does nothing, and says why. A
	// dataset that is mounted or open somewhere is EBUSY.
	RollBack(ctx context.Context, root, snapshot string, newer []string, prop, word string) (refused string, err error)
}

// rolled reads what was carried out, and what was refused: nothing else is kept of that.
func rolled(value string) (done []string, refused map[string]bool) {
	for _, id := range strings.Fields(value) {
		id, not := strings.CutPrefix(id, "!")
		done = append(done, id)
		if not && refused == nil {
			refused = map[string]bool{}
		}
		if not {
			refused[id] = true
		}
	}
	return done, refused
}

// withRolled adds the id of a rollback to those before it.
func withRolled(value, id string) string {
	ids := append(slices.DeleteFunc(strings.Fields(value), func(old string) bool { return strings.TrimPrefix(old, "!") == strings.TrimPrefix(id, "!") }), id)
	return strings.Join(ids[max(0, len(ids)-maxRolled):], " ")
}

// CheckRollback says why a rollback of an instance cannot be; empty: it can, once the
// instance does not run. It changes nothing.
func (r *Roots) CheckRollback(ctx context.Context, instance string, spec api.RollbackSpec) (refused string, err error) {
	return r.rollBack(ctx, instance, spec, func(name, to string, newer []string) (string, error) {
		return r.zfs().CanRollBack(ctx, name, to, newer)
	})
}

// RollBack makes an instance that does not run what it was when a snapshot was taken, and
// destroys the newer ones that the request names: all of that, with a note that it was
// done, or nothing. refused says why it cannot be. Disks that were made after the snapshot
// stay as they are.
func (r *Roots) RollBack(ctx context.Context, instance string, spec api.RollbackSpec) (refused string, err error) {
	return r.rollBack(ctx, instance, spec, func(name, to string, newer []string) (string, error) {
		refused, err := r.zfs().RollBack(ctx, name, to, newer, propRolled, spec.ID)
		if isBusy(err) {
			if all, lerr := r.zfs().List(ctx, name, "type"); lerr == nil {
				if busy := r.holders(all); busy != nil {
					err = errors.Join(busy, err)
				}
			}
		}
		return refused, err
	})
}

func (r *Roots) rollBack(ctx context.Context, instance string, spec api.RollbackSpec, fn func(name, to string, newer []string) (string, error)) (refused string, err error) {
	to, err := snapshotName(spec.Snapshot)
	var newer []string
	for _, id := range spec.Newer {
		name, nerr := snapshotName(id)
		newer, err = append(newer, name), errors.Join(err, nerr)
	}
	if err == nil {
		err = r.named(ctx, instance, func(name string) (err error) {
			refused, err = fn(name, to, newer)
			return err
		})
	}
	if err != nil {
		return "", fmt.Errorf("roll instance %s back to %s: %w", instance, spec.Name, err)
	}
	return refused, nil
}

// EndRollback keeps with an instance's dataset that a rollback was refused, so that it is
// not tried again.
func (r *Roots) EndRollback(ctx context.Context, instance, id string) error {
	err := r.named(ctx, instance, func(name string) error {
		all, err := r.zfs().List(ctx, name, propRolled)
		if err != nil {
			return err
		}
		return r.zfs().Keep(ctx, name, map[string]string{propRolled: withRolled(all[name][propRolled], "!"+id)})
	})
	if err != nil {
		return fmt.Errorf("note that a rollback of instance %s was refused: %w", instance, err)
	}
	return nil
}

// CanRollBack implements Rollbacker.
func (z ZFS) CanRollBack(ctx context.Context, root, snapshot string, newer []string) (refused string, err error) {
	return z.rollBack(ctx, root, rollbackProgram(root, snapshot, newer, "", ""))
}

// RollBack implements Rollbacker: a channel program (zfs-program(8)), which is one
// transaction. It looks before it changes anything. A volume that is busy is tried once
// more, as in Destroy.
func (z ZFS) RollBack(ctx context.Context, root, snapshot string, newer []string, prop, word string) (refused string, err error) {
	program := rollbackProgram(root, snapshot, newer, prop, word)
	if refused, err = z.rollBack(ctx, root, program); !isBusy(err) {
		return refused, err
	}
	if _, settled := (commands{}).Run(ctx, "udevadm", "settle", "--timeout=30"); settled != nil {
		return refused, err
	}
	return z.rollBack(ctx, root, program)
}

func (z ZFS) rollBack(ctx context.Context, root, program string) (refused string, err error) {
	pool, _, _ := strings.Cut(root, "/")
	out, err := z.run(ctx, strings.NewReader(program), "program", "-j", pool, "-")
	if err != nil {
		return "", err
	}
	var said struct {
		Return string `json:"return"`
	}
	if err := json.Unmarshal(out, &said); err != nil {
		return "", fmt.Errorf("read what the rollback of %s said: %w", root, err)
	}
	return said.Return, nil
}

// rollbackProgram is the channel program of a rollback. What it returns is why nothing was
// done; zfs.sync.rollback goes to the newest snapshot that is left. Without a property it
// only looks.
func rollbackProgram(root, snapshot string, newer []string, prop, word string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "local root, snap, check = %s, %s, %v\nlocal named = {}\n", luaString(root), luaString(snapshot), prop == "")
	for _, n := range newer {
		fmt.Fprintf(&b, "named[%s] = true\n", luaString(n))
	}
	b.WriteString(`
local function must(e, what)
  if e == 16 then error(what .. ": dataset is busy") end
  if e == 28 then error(what .. ": out of space") end
  if e ~= 0 then error(what .. ": error " .. e) end
end
local all, sets, gone = {root}, {}, {}
for child in zfs.list.children(root) do all[#all + 1] = child end
for _, set in ipairs(all) do
  local to = set .. "@" .. snap
  if zfs.exists(to) then
    sets[#sets + 1] = set
    local at = zfs.get_prop(to, "createtxg")
    for s in zfs.list.snapshots(set) do
      if zfs.get_prop(s, "createtxg") > at then
        local name = string.sub(s, #set + 2)
        if not named[name] then
          return "snapshot " .. s .. " is newer, and the request does not name it: see what is newer, and ask again"
        end
        if zfs.check.destroy(s) ~= 0 then
          return "the newer snapshot " .. s .. " cannot go: it is held, or something is a clone of it"
        end
        gone[#gone + 1] = s
      end
    end
  elseif set == root then
    return "there is no snapshot " .. to
  end
end
if check then return "" end
for _, set in ipairs(sets) do must(zfs.check.rollback(set), "roll back " .. set) end
for _, s in ipairs(gone) do must(zfs.sync.destroy(s), "destroy " .. s) end
for _, set in ipairs(sets) do must(zfs.sync.rollback(set), "roll back " .. set) end
`)
	fmt.Fprintf(&b, "local prop, word, keep = %s, %s, %d\n", luaString(prop), luaString(word), maxRolled)
	b.WriteString(`
local words = {}
for w in string.gmatch(zfs.get_prop(root, prop) or "", "%S+") do
  if w ~= word then words[#words + 1] = w end
end
words[#words + 1] = word
local text = ""
for i = #words > keep and #words - keep + 1 or 1, #words do text = text .. words[i] .. " " end
must(zfs.sync.set_prop(root, prop, string.sub(text, 1, -2)), "set a property of " .. root)
return ""
`)
	return b.String()
}
