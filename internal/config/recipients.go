package config

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"filippo.io/age"
	"filippo.io/age/agessh"
)

// setRecipients reads public keys with commas between them: age1... as
// age-keygen prints them, or SSH keys, ssh-ed25519 or ssh-rsa.
func setRecipients(dst *[]age.Recipient, s string) error {
	if s == "" {
		return nil
	}
	for text := range strings.SplitSeq(s, ",") {
		r, err := parseRecipient(strings.TrimSpace(text))
		if err != nil {
			return err
		}
		*dst = append(*dst, r)
	}
	_, err := age.Encrypt(io.Discard, *dst...) // not all kinds go together
	return err
}

func parseRecipient(text string) (age.Recipient, error) {
	if strings.HasPrefix(text, "AGE-SECRET-KEY-") {
		return nil, errors.New("there is a secret key: want the public one, age-keygen -y tells it")
	}
	if strings.HasPrefix(text, "ssh-") {
		return agessh.ParseRecipient(text)
	}
	list, err := age.ParseRecipients(strings.NewReader(text))
	if err != nil {
		return nil, fmt.Errorf("%q is no public key: want one like age1... or ssh-ed25519 AAAA", text)
	}
	return list[0], nil
}
