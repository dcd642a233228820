package sandbox

import (
	"crypto/rand"
	"encoding/base32"
	"encoding/binary"
	"strings"
	"time"
)

// ID names one sandbox for ever: "sbx_" and 26 characters, sortable by time of
// creation, 80 bits of them random. Host resources carry it in their names.
type ID string

// TenantID names an isolated customer of this installation, "tnt_…".
type TenantID string

// Ref names immutable content, "sha256:" and 64 hex digits: an image or a
// memory snapshot. Blobs cross package and machine borders only as a Ref.
type Ref string

// crockford is the alphabet of ULIDs in lower case: digits sort before
// letters, and no letter can be mistaken for a digit.
var crockford = base32.NewEncoding("0123456789abcdefghjkmnpqrstvwxyz").WithPadding(base32.NoPadding)

// NewID returns a fresh sandbox ID.
func NewID() ID { return ID(NewName("sbx_")) }

// NewName returns prefix and 26 characters that sort by time: 48 bits of
// milliseconds, 16 of what is less than one, 64 random.
func NewName(prefix string) string {
	var b [16]byte
	now := time.Now()
	part := now.UnixNano() % int64(time.Millisecond)
	binary.BigEndian.PutUint64(b[:8], uint64(now.UnixMilli())<<16|uint64(part<<16/int64(time.Millisecond)))
	_, _ = rand.Read(b[8:]) // crypto/rand.Read never fails (Go 1.24)
	return prefix + crockford.EncodeToString(b[:])
}

// NewLine returns prefix and 26 characters that sort by the microsecond, for the
// lines of a log: 64 bits of microseconds, 64 random.
func NewLine(prefix string) string {
	var b [16]byte
	binary.BigEndian.PutUint64(b[:8], uint64(time.Now().UnixMicro()))
	_, _ = rand.Read(b[8:])
	return prefix + crockford.EncodeToString(b[:])
}

// NewSlug returns a short DNS label that starts with a letter, so that
// "{port}-{slug}" host names can be taken apart again.
func NewSlug() string {
	var b [10]byte
	_, _ = rand.Read(b[:])
	return "s" + crockford.EncodeToString(b[:])[:11]
}

// ValidID tells whether s has the form of a sandbox ID. Use it before an ID
// from outside becomes part of a path or a name.
func ValidID(s string) bool {
	rest, ok := strings.CutPrefix(s, "sbx_")
	if !ok || len(rest) != 26 {
		return false
	}
	_, err := crockford.DecodeString(rest)
	return err == nil
}
