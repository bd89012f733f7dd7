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
	"slices"
	"strings"
	"sync"
	"time"

	"example.com/pushinbox/local/datadir"
	"example.com/pushinbox/shared/inbox"
)

// Place remembers, in a file of this user, how far a forwarding came. OpenPlace returns
// one.
type Place struct {
	path  string
	token string          // of the file, as it was opened
	at    time.Time       // when that was written
	ahead map[string]bool // of the file, too

	mu    sync.Mutex
	saved placeFile
	wrote time.Time // when this process wrote the file
}

// saveEvery is how often the file is written at most. What was sent since is sent again
// after a kill.
const saveEvery = time.Second

// maxPlace is the size of the largest file that is read, in bytes.
const maxPlace = 1 << 20

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
	if err := json.Unmarshal(b, &p.saved); err != nil || p.saved.Token == "" {
		return nil, fmt.Errorf("%s does not say where to go on; delete it, or give --since", p.path)
	}
	p.token, p.at, p.ahead = p.saved.Token, p.saved.SavedAt, make(map[string]bool)
	for _, token := range p.saved.Ahead {
		p.ahead[token] = true
	}
	return p, nil
}

type placeFile struct {
	Token string `json:"token"`
	// Ahead are the tokens of messages after it that are done.
	Ahead   []string  `json:"ahead,omitempty"`
	SavedAt time.Time `json:"savedAt"`
}

// Token returns the token to go on from, and when it was saved; empty where there is none.
func (p *Place) Token() (string, time.Time) { return p.token, p.at }

// WasDone reports whether a message after the token, by its own, was done before the place
// was opened. A message of another inbox has another token.
func (p *Place) WasDone(token string) bool { return p.ahead[token] }

// Forget forgets what was done, where one does not go on from the token.
func (p *Place) Forget() { p.ahead = nil }

// Note writes what done returns, such as a Forwarder's Done, to the file, unless that was
// done a moment ago.
func (p *Place) Note(done func() (token string, ahead []string)) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if time.Since(p.wrote) < saveEvery { // SavedAt is by a clock that may have been set back
		return nil
	}
	return p.save(done())
}

// Save is Note, at once.
func (p *Place) Save(done func() (token string, ahead []string)) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.save(done())
}

func (p *Place) save(token string, ahead []string) error {
	if token == "" {
		return nil
	}
	for done := range p.ahead { // which may not all have come again
		if !isBefore(done, token) {
			ahead = append(ahead, done)
		}
	}
	slices.Sort(ahead)
	ahead = slices.Compact(ahead)
	ahead = ahead[:min(len(ahead), maxAhead)]
	if token == p.saved.Token && slices.Equal(ahead, p.saved.Ahead) {
		return nil
	}
	file := placeFile{token, ahead, time.Now().UTC()}
	b, err := json.Marshal(file)
	if err != nil {
		return err
	}
	if err := datadir.Replace(p.path, append(b, '\n')); err != nil {
		return err
	}
	p.saved, p.wrote = file, time.Now()
	return nil
}

// isBefore reports whether a token is of an earlier time than another one. What has the same
// time has an order that only the inbox knows.
func isBefore(token, other string) bool {
	a, err := inbox.ParseToken(token)
	b, otherErr := inbox.ParseToken(other)
	return err == nil && otherErr == nil && a.Commit.Before(b.Commit)
}
