//go:build !unix

package emulator

import (
	"errors"
	"io"
)

func spawn([]string, io.Writer) (stop func(), exited <-chan struct{}, err error) {
	return nil, nil, errors.New("emulators are started on Unix only")
}
