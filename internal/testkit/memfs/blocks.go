package memfs

import (
	"bytes"
	"slices"
)

const blockSize = 8192

// content is the bytes of a file in blocks that never change once they are
// stored, so that copies of a file share them. A nil block is zeros, and so is
// what a block holds behind the end of the file.
type content struct {
	size   int64
	blocks [][]byte
}

func (c content) clone() content { return content{c.size, slices.Clone(c.blocks)} }

// write stores p, which must not change any more.
func (c *content) write(p []byte, off int64) {
	if end := off + int64(len(p)); end > c.size {
		c.resize(end)
	}
	for len(p) > 0 {
		i, from := off/blockSize, off%blockSize
		n := min(blockSize-from, int64(len(p)))
		if n == blockSize {
			c.blocks[i] = p[:n:n]
		} else {
			block := make([]byte, blockSize)
			copy(block, c.blocks[i])
			copy(block[from:], p[:n])
			c.blocks[i] = block
		}
		p, off = p[n:], off+n
	}
}

func (c *content) resize(size int64) {
	count := int((size + blockSize - 1) / blockSize)
	if size < c.size {
		c.blocks = c.blocks[:count:count]
		if keep := size % blockSize; keep > 0 && c.blocks[count-1] != nil {
			block := make([]byte, blockSize)
			copy(block, c.blocks[count-1][:keep])
			c.blocks[count-1] = block
		}
	}
	for len(c.blocks) < count {
		c.blocks = append(c.blocks, nil)
	}
	c.size = size
}

// read copies from off on to p and returns how much there is.
func (c content) read(p []byte, off int64) int {
	if off >= c.size {
		return 0
	}
	p = p[:min(int64(len(p)), c.size-off)]
	for done := 0; done < len(p); {
		i, from := (off+int64(done))/blockSize, (off+int64(done))%blockSize
		part := p[done:min(len(p), done+int(blockSize-from))]
		if block := c.blocks[i]; block != nil {
			copy(part, block[from:])
		} else {
			clear(part)
		}
		done += len(part)
	}
	return len(p)
}

// keep returns the bytes of p in memory that does not change. All zeros are
// the same: much of what is written is files filled with them.
func (m *FS) keep(p []byte) []byte {
	if len(m.zeros) < len(p) {
		m.zeros = make([]byte, len(p))
	}
	if zeros := m.zeros[:len(p):len(p)]; bytes.Equal(p, zeros) {
		return zeros
	}
	kept := make([]byte, len(p))
	copy(kept, p)
	return kept
}
