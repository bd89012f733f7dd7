package operations

import (
	"context"
	"encoding/json"
	"errors"
	"os"

	"example.com/pushinbox/local/datadir"
)

// FileLog is the log of operations of a local run: a file that only this user reads,
// with a JSON object a line.
type FileLog struct{ Path string }

var _ Log = FileLog{}

// Write implements Log.
func (l FileLog) Write(ctx context.Context, e Entry) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	b, err := json.Marshal(e)
	if err != nil {
		return err
	}
	file, err := datadir.OpenFile(l.Path, os.O_CREATE|os.O_WRONLY|os.O_APPEND)
	if err != nil {
		return err
	}
	_, err = file.Write(append(b, '\n')) // in one call, since others write too
	return errors.Join(err, file.Close())
}
