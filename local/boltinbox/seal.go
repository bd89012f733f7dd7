package boltinbox

import (
	"bytes"
	"encoding/binary"
	"hash/fnv"

	"example.com/pushinbox/local/datadir"
	"example.com/pushinbox/shared/inbox"
)

// Every record ends with a checksum of its key and value. A chunk has it at the end
// of its key: to append it to 10 MB of values would copy them. A record has in front
// of its checksum the sum of the hashes of all other keys that belong to the
// message, so that reading the file once shows whether any of those is missing.
const digestSize = 8

// sealChunk returns the key of a chunk with the checksum.
func sealChunk(key, chunk []byte) []byte {
	return binary.BigEndian.AppendUint32(key[:len(key):len(key)], datadir.Checksum(key, chunk))
}

// unsealChunk returns the key that sealChunk was given, and whether it and the chunk
// are unchanged.
func unsealChunk(sealed, chunk []byte) (key []byte, ok bool) {
	key = sealed[:min(len(sealed), chunkKeySize)]
	return key, len(sealed) == chunkKeySize+datadir.SumSize && binary.BigEndian.Uint32(sealed[chunkKeySize:]) == datadir.Checksum(key, chunk)
}

// unsealRecord returns a record as encode returned it, and its digest.
func unsealRecord(key, sealed []byte) (record []byte, digest uint64, ok bool) {
	b, ok := datadir.Unseal(key, sealed)
	n := len(b) - digestSize
	if !ok || n < 0 {
		return nil, 0, false
	}
	return b[:n:n], binary.BigEndian.Uint64(b[n:]), true
}

// hashKey returns what a key, and a value that matters, adds to a digest.
func hashKey(bucket, key, value []byte) uint64 {
	h := fnv.New64a()
	for _, b := range [...][]byte{bucket, {byte(len(key))}, key, value} {
		_, _ = h.Write(b)
	}
	return h.Sum64()
}

// digest returns the digest of a message whose data has size bytes.
func digest(id []byte, at order, index [][]byte, size int) uint64 {
	sum := hashKey(bucketIDs, id, at[:])
	for _, key := range index {
		sum += hashKey(bucketIndex, key, nil)
	}
	for i := range chunks(size) {
		sum += hashKey(bucketChunks, chunkKey(at, i), nil)
	}
	return sum
}

// chunks returns how many chunks a message has whose data has size bytes.
func chunks(size int) int { return (max(size-inbox.PreviewSize, 0) + chunkSize - 1) / chunkSize }

// parseOrder returns the order that a key is or begins with.
func parseOrder(key []byte) (at order) {
	copy(at[:], key)
	return at
}

// isOwn reports whether a record, of a version without checksums, is that of the
// message that it names.
func isOwn(record []byte, m *inbox.Message) bool {
	return bytes.Equal(record[:idSize], rawID(m))
}
