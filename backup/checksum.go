package backup

import (
	"crypto/sha256"
	"crypto/sha512"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"hash"
	"hash/crc32"
)

// NewChecksum starts a checksum of one of the algorithms of backup_manifest:
// CRC32C, SHA224, SHA256, SHA384, SHA512. Its Sum is the checksum as the
// manifest has it. Any other name is an error.
func NewChecksum(algorithm string) (hash.Hash, error) {
	switch algorithm {
	case "CRC32C":
		return newCRC32C(), nil
	case "SHA224":
		return sha256.New224(), nil
	case "SHA256":
		return sha256.New(), nil
	case "SHA384":
		return sha512.New384(), nil
	case "SHA512":
		return sha512.New(), nil
	}
	return nil, fmt.Errorf("%q is no checksum algorithm of backup_manifest", algorithm)
}

// crc32c sums to the value's bytes in memory of a little-endian machine, which
// is what PostgreSQL writes (pg_checksum_final).
type crc32c struct{ hash.Hash32 }

func newCRC32C() hash.Hash { return crc32c{crc32.New(crc32.MakeTable(crc32.Castagnoli))} }

func (c crc32c) Sum(b []byte) []byte { return binary.LittleEndian.AppendUint32(b, c.Sum32()) }

// parseChecksum decodes a checksum of the manifest; without an algorithm there
// is none.
func parseChecksum(algorithm, text string) ([]byte, error) {
	if algorithm == "" && text == "" {
		return nil, nil
	}
	h, err := NewChecksum(algorithm)
	if err != nil {
		return nil, err
	}
	sum, err := hex.DecodeString(text)
	if err != nil || len(sum) != h.Size() {
		return nil, fmt.Errorf("%q is no %s checksum", text, algorithm)
	}
	return sum, nil
}

func sha256Hex(b []byte) string { return fmt.Sprintf("%x", sha256.Sum256(b)) }
