package archive

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
)

const checksumField = ",\n  \"crc32c\": \"" // no JSON string holds a line break

// EncodeJSON is v as a JSON object that ends in a checksum of itself, see
// FORMAT.md.
func EncodeJSON(v any) ([]byte, error) {
	body, err := json.MarshalIndent(v, "", "  ")
	return checked(bytes.TrimSuffix(body, []byte("\n}"))), err
}

func checked(body []byte) []byte {
	return fmt.Appendf(bytes.Clone(body), "%s%08x\"\n}\n", checksumField, crc32.Checksum(body, castagnoli()))
}

// DecodeJSON reads what [EncodeJSON] made into v, and fails if the checksum is
// wrong; v is filled in then too. An object without one is not checked.
func DecodeJSON(body []byte, v any) error {
	if err := json.Unmarshal(body, v); err != nil {
		return err
	}
	if i := bytes.LastIndex(body, []byte(checksumField)); i >= 0 && !bytes.Equal(body, checked(body[:i])) {
		return errors.New("its crc32c is wrong")
	}
	return nil
}
