package datadir

import (
	"encoding/binary"
	"hash/crc32"
)

// SumSize is how many bytes Seal appends.
const SumSize = 4

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Checksum returns the checksum of a key and its value.
func Checksum(key, value []byte) uint32 {
	return crc32.Update(crc32.Checksum(key, castagnoli), castagnoli, value)
}

// Seal appends the checksum of key and value to value, as append does. What is damaged on
// the disk, or is where another key was, is then found by Unseal.
func Seal(key, value []byte) []byte {
	return binary.BigEndian.AppendUint32(value, Checksum(key, value))
}

// Unseal returns what was sealed under key, and whether it is unchanged.
func Unseal(key, sealed []byte) ([]byte, bool) {
	n := len(sealed) - SumSize
	if n < 0 || binary.BigEndian.Uint32(sealed[n:]) != Checksum(key, sealed[:n]) {
		return nil, false
	}
	return sealed[:n:n], true
}
