package datadir

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"math"
	"os"
)

// This is the form of bbolt's files, so that a damaged one can be read without
// bbolt, which panics on some damage, also in goroutines where nobody can recover,
// and does not end on other. All numbers have the machine's byte order.
const (
	pageHeader = 16 // ID (8 bytes), kind (2), number of entries (2), further pages (4)
	pageEntry  = 16
	branchPage = 1
	leafPage   = 2
	listPage   = 16 // of the free pages
	metaSize   = 64
	metaMagic  = 0xED0CDAED
	metaForm   = 2
	maxDepth   = 64
	noFreeList = math.MaxUint64
	isBucket   = 1 // in the flags of an entry
)

var native = binary.NativeEndian

// Visitor is called for what Walk finds in a bbolt file. The bytes are valid until
// it returns.
type Visitor struct {
	// Bucket is called for each bucket, before what is in it.
	Bucket func(path []string, sequence uint64)
	// Entry is called for each key of a bucket, in the order of the keys.
	Entry func(path []string, key, value []byte)
}

// Walk reads a whole bbolt file of size bytes, calls v for what is in it, and
// returns what is wrong with its pages, at most the first few of it. It goes on
// behind what cannot be read, and ends on any file. Bits that are wrong within a
// key or value are for the visitor to notice.
func Walk(file io.ReaderAt, size int64, v Visitor) []error {
	w := &walker{file: file, v: v}
	m, err := readMetas(file)
	if err != nil {
		w.wrong(err)
	}
	if m == nil {
		return w.errs
	}
	w.meta = *m
	if whole := uint64(size) / uint64(m.pageSize); whole < m.pages {
		w.wrong(fmt.Errorf("it is cut short: it has %d of %d bytes", size, m.pages*uint64(m.pageSize)))
		w.pages = whole
	}
	w.seen = make([]bool, w.pages)
	w.page(m.root, nil, nil, nil, 0)
	if m.freeList != noFreeList {
		w.freeList(m.freeList)
	}
	return w.errs
}

type meta struct {
	pageSize              uint32
	root, freeList, pages uint64
	transaction           uint64
}

// readMetas returns the newer one of the two heads that the file has, nil when
// none is whole, and an error when one is not.
func readMetas(file io.ReaderAt) (*meta, error) {
	first := readMeta(file, 0)
	var second *meta
	if first != nil {
		second = readMeta(file, int64(first.pageSize))
	} else {
		for at := int64(1024); at <= 64<<10 && second == nil; at *= 2 {
			second = readMeta(file, at)
		}
	}
	switch {
	case first == nil && second == nil:
		return nil, errors.New("it has no head")
	case first == nil:
		return second, ErrHead
	case second == nil:
		return first, ErrHead
	case first.transaction > second.transaction:
		return first, nil
	}
	return second, nil
}

var ErrHead = errors.New("one of its two heads is damaged: what was written last may be missing")

func readMeta(file io.ReaderAt, at int64) *meta {
	b := make([]byte, metaSize)
	if _, err := file.ReadAt(b, at+pageHeader); err != nil {
		return nil
	}
	sum := fnv.New64a()
	_, _ = sum.Write(b[:metaSize-8])
	m := &meta{
		pageSize: native.Uint32(b[8:]), root: native.Uint64(b[16:]), freeList: native.Uint64(b[32:]),
		pages: native.Uint64(b[40:]), transaction: native.Uint64(b[48:]),
	}
	if native.Uint32(b) != metaMagic || native.Uint32(b[4:]) != metaForm || native.Uint64(b[metaSize-8:]) != sum.Sum64() ||
		m.pageSize < 1024 || m.pageSize > 64<<10 {
		return nil
	}
	return m
}

type walker struct {
	meta
	file io.ReaderAt
	v    Visitor
	seen []bool
	errs []error
}

const maxErrors = 20

func (w *walker) wrong(err error) {
	if len(w.errs) < maxErrors {
		w.errs = append(w.errs, err)
	}
}

// take reads a page with the further pages that belong to it, each of which must
// be new.
func (w *walker) take(id uint64) ([]byte, error) {
	if id < 2 || id >= w.pages {
		return nil, errors.New("it is not one of the file's")
	}
	head := make([]byte, pageHeader)
	if _, err := w.file.ReadAt(head, int64(id)*int64(w.pageSize)); err != nil {
		return nil, err
	}
	n := uint64(native.Uint32(head[12:])) + 1
	if native.Uint64(head) != id || n > w.pages-id {
		return nil, errors.New("its head is damaged")
	}
	for i := range n {
		if w.seen[id+i] {
			return nil, errors.New("two others point to it")
		}
	}
	for i := range n {
		w.seen[id+i] = true
	}
	b := make([]byte, n*uint64(w.pageSize))
	_, err := w.file.ReadAt(b, int64(id)*int64(w.pageSize))
	return b, err
}

// page goes over a page whose keys must be from low on and below high.
func (w *walker) page(id uint64, path []string, low, high []byte, depth int) {
	b, err := w.take(id)
	if err == nil && depth > maxDepth {
		err = errors.New("it lies too deep")
	}
	if err == nil {
		err = w.entries(b, path, low, high, depth)
	}
	if err != nil {
		w.wrong(fmt.Errorf("page %d is damaged: %w", id, err))
	}
}

// entries goes over the entries of a page. Keys and values follow each other
// without a gap, as bbolt writes them, which shows where a number is wrong.
func (w *walker) entries(b []byte, path []string, low, high []byte, depth int) (err error) {
	if len(b) < pageHeader {
		return errors.New("it is too short")
	}
	kind, n := native.Uint16(b[8:]), int(native.Uint16(b[10:]))
	if kind != leafPage && (kind != branchPage || n == 0) {
		return fmt.Errorf("its kind is %d", kind)
	}
	next := pageHeader + n*pageEntry
	if next > len(b) {
		return fmt.Errorf("its number of entries, %d, is wrong", n)
	}
	// entry returns where the key of entry i begins and ends and where its value
	// ends; ok is false when that is not within the page.
	entry := func(i int) (from, to, end int, flags uint32, child uint64, ok bool) {
		at := pageHeader + i*pageEntry
		var pos, keySize, size uint32
		if e := b[at : at+pageEntry]; kind == branchPage {
			pos, keySize, child = native.Uint32(e), native.Uint32(e[4:]), native.Uint64(e[8:])
		} else {
			flags, pos, keySize, size = native.Uint32(e), native.Uint32(e[4:]), native.Uint32(e[8:]), native.Uint32(e[12:])
		}
		from = at + int(pos)
		to = from + int(keySize)
		end = to + int(size)
		return from, to, end, flags, child, keySize > 0 && end <= len(b)
	}
	for i := range n {
		from, to, end, flags, child, ok := entry(i)
		if !ok {
			return fmt.Errorf("its entry %d is out of bounds", i)
		}
		if from != next {
			err = fmt.Errorf("its entry %d is not where it should be", i)
		}
		next = end
		k, value := b[from:to:to], b[to:end:end]
		if bytes.Compare(k, low) < 0 || i > 0 && bytes.Equal(k, low) || high != nil && bytes.Compare(k, high) >= 0 {
			err = fmt.Errorf("its entry %d is out of order", i)
		}
		low = k
		switch {
		case kind == branchPage:
			below := high
			if i+1 < n {
				if from, to, _, _, _, ok := entry(i + 1); ok {
					below = b[from:to:to]
				}
			}
			w.page(child, path, k, below, depth+1)
		case flags == isBucket:
			if e := w.bucket(append(path[:len(path):len(path)], string(k)), value, depth); e != nil {
				err = e
			}
		case flags != 0:
			err = fmt.Errorf("its entry %d has the flags %#x", i, flags)
		case w.v.Entry != nil:
			w.v.Entry(path, k, value)
		}
	}
	return err
}

// bucket goes over a bucket, which lies in pages of its own or, a small one, within
// the value.
func (w *walker) bucket(path []string, value []byte, depth int) error {
	if len(value) < 16 || len(path) > maxDepth {
		return errors.New("a bucket is cut")
	}
	root, sequence := native.Uint64(value), native.Uint64(value[8:])
	if w.v.Bucket != nil {
		w.v.Bucket(path, sequence)
	}
	if root != 0 {
		w.page(root, path, nil, nil, depth+1)
		return nil
	}
	return w.entries(value[16:], path, nil, nil, depth+1)
}

// freeList checks that the file does not give away pages that are in use.
func (w *walker) freeList(id uint64) {
	b, err := w.take(id)
	if err == nil && native.Uint16(b[8:]) != listPage {
		err = errors.New("it is not the list of the free pages")
	}
	if err != nil {
		w.wrong(fmt.Errorf("page %d is damaged: %w", id, err))
		return
	}
	n, ids := uint64(native.Uint16(b[10:])), b[pageHeader:]
	if n == math.MaxUint16 {
		n, ids = native.Uint64(ids), ids[8:]
	}
	if n > uint64(len(ids)/8) {
		w.wrong(fmt.Errorf("page %d is damaged: its number of entries, %d, is wrong", id, n))
		return
	}
	for i := range n {
		free := native.Uint64(ids[8*i:])
		if free < 2 || free >= w.pages || w.seen[free] {
			w.wrong(fmt.Errorf("page %d is damaged: it says that page %d is free", id, free))
			return
		}
		w.seen[free] = true
	}
}

// Salvage calls visit for everything in a bbolt file of size bytes that looks like
// a key and value, whether anything points to it or not. Much of it may be old or
// nonsense: visit has to know by a checksum what is true.
func Salvage(file io.ReaderAt, size int64, visit func(key, value []byte)) {
	pageSize := int64(os.Getpagesize())
	if m, _ := readMetas(file); m != nil {
		pageSize = int64(m.pageSize)
	}
	b := make([]byte, pageSize)
	for page := 2 * pageSize; page+pageSize <= size; page += pageSize {
		if _, err := file.ReadAt(b, page); err != nil {
			return
		}
		for at := int64(pageHeader); at+pageEntry <= pageSize; at += pageEntry {
			from, keySize, valueSize := int64(native.Uint32(b[at+4:])), int64(native.Uint32(b[at+8:])), int64(native.Uint32(b[at+12:]))
			from += page + at
			if keySize == 0 || keySize > maxSalvageKey || valueSize > maxSalvageValue || from+keySize+valueSize > size || from < page+at+pageEntry {
				continue
			}
			kv := make([]byte, keySize+valueSize)
			if _, err := file.ReadAt(kv, from); err == nil {
				visit(kv[:keySize:keySize], kv[keySize:])
			}
		}
	}
}

const (
	maxSalvageKey   = 64
	maxSalvageValue = 1 << 20
)
