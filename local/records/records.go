// Package records keeps the records of operations under way on a local run, as JSON
// files that only this user can read, so that a command and the run itself see the
// same ones.
package records

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"example.com/pushinbox/local/datadir"
	"example.com/pushinbox/shared/delivery"
)

const (
	// folder is the folder of the files in a data directory.
	folder = "operations"
	// maxFile is the size of the largest file that is read, in bytes.
	maxFile = 256 << 10
	// partLife is more than the writing of a file takes.
	partLife = 10 * time.Second
)

// Records are the records of one data directory. Open returns them.
type Records struct{ dir string }

var _ delivery.Records = (*Records)(nil)

// file is what a file has.
type file struct {
	delivery.Operation
	PushConfig []byte `json:"pushConfig"`
}

// Open returns the records in a data directory. Their folder is created by the first
// Put. What a Put that was killed has left is taken away.
func Open(dataDir string) *Records {
	r := &Records{filepath.Join(dataDir, folder)}
	entries, _ := os.ReadDir(r.dir) // there may be none
	for _, e := range entries {
		if !e.Type().IsRegular() || !strings.HasSuffix(e.Name(), datadir.PartSuffix) {
			continue
		}
		if info, err := e.Info(); err == nil && time.Since(info.ModTime()) > partLife {
			_ = os.Remove(filepath.Join(r.dir, e.Name())) // the next Open tries again
		}
	}
	return r
}

func (r *Records) path(subscription string) string {
	return filepath.Join(r.dir, delivery.RecordID(subscription)+".json")
}

// Get implements delivery.Records.
func (r *Records) Get(ctx context.Context, subscription string) (*delivery.Operation, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	path := r.path(subscription)
	b, err := datadir.ReadFile(path, maxFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var f file
	if err := json.Unmarshal(b, &f); err != nil {
		return nil, fmt.Errorf("%s is not the record of an operation: %w; move it away", path, err)
	}
	o := f.Operation
	o.PushConfig = f.PushConfig
	return &o, nil
}

// Put implements delivery.Records. The record is durable, and whole for whoever
// reads it.
func (r *Records) Put(ctx context.Context, o *delivery.Operation) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := os.Mkdir(r.dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	b, err := json.MarshalIndent(file{*o, o.PushConfig}, "", "  ")
	if err != nil {
		return err
	}
	return datadir.ReplaceDurably(r.path(o.Subscription), append(b, '\n'))
}

// Delete implements delivery.Records.
func (r *Records) Delete(ctx context.Context, subscription string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	path := r.path(subscription)
	err := os.Remove(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return datadir.SyncDir(path)
}
