package forward

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"example.com/pushinbox/local/datadir"
)

// Place remembers, in a file of this user, how far a forwarding came. OpenPlace returns
// one.
type Place struct {
	path string

	mu    sync.Mutex
	token string // the last one
	saved string // the one in the file
	at    time.Time
	wrote time.Time // when this process wrote it
}

// saveEvery is how often the file is written at most. What was sent since is sent again
// after a kill.
const saveEvery = time.Second

// maxPlace is the size of the largest file that is read, in bytes.
const maxPlace = 16 << 10

// OpenPlace returns the place of what is forwarded from an inbox, by a filter, to a
// target. dir is created. The file's name is a hash: an address may hold a secret.
func OpenPlace(dir string, what ...string) (*Place, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	sum := sha256.Sum256([]byte(strings.Join(what, "\x00")))
	p := &Place{path: filepath.Join(dir, hex.EncodeToString(sum[:16])+".json")}
	b, err := datadir.ReadFile(p.path, maxPlace)
	if errors.Is(err, fs.ErrNotExist) {
		return p, nil
	}
	if err != nil {
		return nil, err
	}
	var content placeFile
	if err := json.Unmarshal(b, &content); err != nil || content.Token == "" {
		return nil, fmt.Errorf("%s does not say where to go on; delete it, or give --since", p.path)
	}
	p.token, p.saved, p.at = content.Token, content.Token, content.SavedAt
	return p, nil
}

type placeFile struct {
	Token   string    `json:"token"`
	SavedAt time.Time `json:"savedAt"`
}

// Token returns the last token, and when it was saved; empty where there is none.
func (p *Place) Token() (string, time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.token, p.at
}

// Note notes a token, and writes it to the file unless that was done a moment ago.
func (p *Place) Note(token string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.token = token
	if time.Since(p.wrote) < saveEvery { // p.at is by a clock that may have been set back
		return nil
	}
	return p.save()
}

// Save writes the last token to the file.
func (p *Place) Save() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.save()
}

func (p *Place) save() error {
	if p.token == p.saved {
		return nil
	}
	now := time.Now().UTC()
	b, err := json.Marshal(placeFile{p.token, now})
	if err != nil {
		return err
	}
	if err := datadir.Replace(p.path, append(b, '\n')); err != nil {
		return err
	}
	p.saved, p.at, p.wrote = p.token, now, time.Now()
	return nil
}
