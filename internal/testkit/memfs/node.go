package memfs

import (
	"io/fs"
	"maps"
	"math/rand/v2"
	"time"
)

// inode is a file or directory of an [FS]: its visible state, its durable
// state, and the changes between the two, oldest first.
type inode struct {
	mode    fs.FileMode
	modTime time.Time

	// Of a file.
	data         content
	durable      content
	pendingBytes []write

	// Of a directory.
	names        map[string]*inode
	durableNames map[string]*inode
	pendingNames [][]entry // each element happens as a whole
}

// write is one unsynced change of a file's bytes; nil data means truncation
// to off.
type write struct {
	off  int64
	data []byte
}

// entry is what a directory says of a name; a nil node means that it is gone.
type entry struct {
	name string
	node *inode
}

func newFile(perm fs.FileMode, now time.Time) *inode {
	return &inode{mode: perm.Perm(), modTime: now}
}

func newDir(perm fs.FileMode, now time.Time) *inode {
	return &inode{mode: perm.Perm() | fs.ModeDir, modTime: now,
		names: map[string]*inode{}, durableNames: map[string]*inode{}}
}

func (w write) apply(c *content) {
	if w.data == nil {
		c.resize(w.off)
	} else {
		c.write(w.data, w.off)
	}
}

func apply(names map[string]*inode, change []entry) {
	for _, e := range change {
		if e.node == nil {
			delete(names, e.name)
		} else {
			names[e.name] = e.node
		}
	}
}

func (n *inode) write(now time.Time, w write) {
	n.modTime = now
	w.apply(&n.data)
	n.pendingBytes = append(n.pendingBytes, w)
}

func (n *inode) syncBytes() {
	for _, w := range n.pendingBytes {
		w.apply(&n.durable)
	}
	n.pendingBytes = nil
}

func (n *inode) change(now time.Time, change ...entry) {
	n.modTime = now
	apply(n.names, change)
	n.pendingNames = append(n.pendingNames, change)
}

func (n *inode) syncNames() {
	for _, c := range n.pendingNames {
		apply(n.durableNames, c)
	}
	n.pendingNames = nil
}

// CrashClone is the file system as the machine finds it after a power loss at
// this moment: only what is durable. The hook is not copied.
func (m *FS) CrashClone() *FS { return m.crash(nil) }

// CrashCloneKeeping is [FS.CrashClone] on a disk that had begun to write back
// what nobody synced: of the unsynced changes a random part survives, writes
// torn at 512-byte or 8 KiB borders, and changes of a directory independently
// of each other.
func (m *FS) CrashCloneKeeping(rnd *rand.Rand) *FS { return m.crash(rnd) }

func (m *FS) crash(rnd *rand.Rand) *FS {
	m.mu.Lock()
	defer m.mu.Unlock()
	c := crasher{rnd: rnd, done: map[*inode]*inode{}}
	return &FS{Now: m.Now, root: c.clone(m.root)}
}

type crasher struct {
	rnd  *rand.Rand // nil: nothing unsynced survives
	done map[*inode]*inode
}

func (c *crasher) clone(n *inode) *inode {
	if copied, ok := c.done[n]; ok {
		return copied
	}
	copied := &inode{mode: n.mode, modTime: n.modTime}
	c.done[n] = copied
	if !n.mode.IsDir() {
		copied.durable = n.durable.clone()
		for _, w := range n.pendingBytes {
			for _, part := range c.torn(w) {
				part.apply(&copied.durable)
			}
		}
		copied.data = copied.durable.clone()
		return copied
	}
	names := maps.Clone(n.durableNames)
	for _, change := range n.pendingNames {
		if c.rnd != nil && c.rnd.IntN(2) == 0 {
			apply(names, change)
		}
	}
	copied.names = map[string]*inode{}
	for name, child := range names {
		copied.names[name] = c.clone(child)
	}
	copied.durableNames = maps.Clone(copied.names)
	return copied
}

// torn is the part of an unsynced write that reached the disk.
func (c *crasher) torn(w write) []write {
	if c.rnd == nil || c.rnd.IntN(4) == 0 {
		return nil
	}
	if w.data == nil || c.rnd.IntN(3) == 0 {
		return []write{w}
	}
	border := int64(512)
	if c.rnd.IntN(2) == 0 {
		border = 8192
	}
	odds := 1 + c.rnd.IntN(9)
	var parts []write
	for len(w.data) > 0 {
		n := min(border-w.off%border, int64(len(w.data)))
		if c.rnd.IntN(10) < odds {
			parts = append(parts, write{w.off, w.data[:n]})
		}
		w.off, w.data = w.off+n, w.data[n:]
	}
	return parts
}
