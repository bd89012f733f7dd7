package verify

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"

	"example.com/pushinbox/shared/expiry"
)

const (
	// fetchTimeout bounds one fetch, body included. It is well inside the ten
	// seconds that Pub/Sub waits for an answer by default.
	fetchTimeout = 5 * time.Second
	// patience is how long a request waits for a fetch when there is an older
	// set that would do.
	patience = time.Second
	// retryPause is how long nothing is fetched after a failure.
	retryPause = 2 * time.Second
	// lookPause is how long after a fetch for an unknown key ID there is no other:
	// anyone can invent IDs.
	lookPause = time.Minute
	// staleFor is how long a set is used past its max-age while fetches fail.
	staleFor = 4 * time.Hour
	// usualMaxAge is for answers that say nothing readable about their age,
	// and longestMaxAge the most that is believed. Google says six hours.
	usualMaxAge   = 5 * time.Minute
	longestMaxAge = 24 * time.Hour
	// maxKeysSize bounds an answer, in bytes. Google's are about 3 KB.
	maxKeysSize = 1 << 20
)

// keyTransport fetches Google's keys for idtoken. idtoken caches a parsed set for
// the max-age in the answer; keyTransport adds what it lacks: one fetch at a time,
// a check of the answer before it replaces the old set, and the old set when there
// is no new one. All failures are ErrKeysUnavailable.
type keyTransport struct {
	base http.RoundTripper
	now  func() time.Time
	// forget makes idtoken forget the sets that it keeps.
	forget func() error
	flight singleflight.Group

	mu sync.Mutex
	// sets has one entry for each of the two addresses that idtoken knows, and told until
	// when idtoken keeps what it was answered there.
	sets map[string]keySet
	told map[string]time.Time
}

// keySet is what is known of the keys at one address. The zero keySet was
// never fetched. It is replaced, not changed.
type keySet struct {
	number     uint64 // counts the sets that were fetched
	body       []byte // what the address answered, nil when it never did
	keys       []key
	freshUntil time.Time
	staleUntil time.Time
	// failure is why the last fetch failed, and retryAt when the next may start.
	failure error
	retryAt time.Time
	// lookedAt is when it was last fetched because of an unknown key ID.
	lookedAt time.Time
}

func (s keySet) has(id string) bool {
	_, ok := s.find(id)
	return ok
}

// find returns the first key with this ID, which is the one that idtoken uses.
func (s keySet) find(id string) (k key, ok bool) {
	if i := slices.IndexFunc(s.keys, func(k key) bool { return k.ID == id }); i >= 0 {
		return s.keys[i], true
	}
	return key{}, false
}

func (s keySet) usable(now time.Time) bool { return s.body != nil && !expiry.IsOver(now, s.staleUntil) }

// nextFetch is when the set should be fetched again.
func (s keySet) nextFetch() time.Time {
	if s.retryAt.After(s.freshUntil) {
		return s.retryAt
	}
	return s.freshUntil
}

func (s keySet) due(now time.Time) bool { return expiry.IsOver(now, s.nextFetch()) }

func newKeyTransport(base http.RoundTripper, now func() time.Time, forget func() error) *keyTransport {
	if base == nil {
		base = http.DefaultTransport
		if t, ok := base.(*http.Transport); ok {
			t = t.Clone()
			t.TLSHandshakeTimeout = fetchTimeout
			t.ResponseHeaderTimeout = fetchTimeout
			base = t
		}
	}
	return &keyTransport{base: base, now: now, forget: forget, sets: make(map[string]keySet), told: make(map[string]time.Time)}
}

// RoundTrip answers with the keys at the request's address. The max-age of the
// answer ends when this transport fetches again.
func (t *keyTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	set, err := t.current(r.Context(), r.URL.String())
	if err != nil {
		return nil, err
	}
	now := t.now()
	maxAge := max(0, set.nextFetch().Sub(now)/time.Second)
	t.mu.Lock()
	t.told[r.URL.String()] = time.Now().Add(maxAge * time.Second)
	t.mu.Unlock()
	return &http.Response{
		Status:     "200 OK",
		StatusCode: http.StatusOK,
		Proto:      "HTTP/1.1",
		ProtoMajor: 1,
		ProtoMinor: 1,
		Header: http.Header{
			"Cache-Control": {"max-age=" + strconv.FormatInt(int64(maxAge), 10)},
			"Content-Type":  {"application/json"},
		},
		Body:          io.NopCloser(bytes.NewReader(set.body)),
		ContentLength: int64(len(set.body)),
		Request:       r,
	}, nil
}

// current returns the set at url: a new one when it is time, else the last good
// one.
func (t *keyTransport) current(ctx context.Context, url string) (keySet, error) {
	set, now := t.set(url), t.now()
	if set.due(now) {
		if err := t.await(ctx, url, set.usable(now), keySet.due); err != nil {
			return keySet{}, err
		}
		set, now = t.set(url), t.now()
	}
	if set.usable(now) {
		return set, nil
	}
	cause := context.Cause(ctx)
	if cause == nil {
		cause = set.failure
	}
	if cause == nil {
		cause = errors.New("the keys that were fetched last are too old")
	}
	return keySet{}, fmt.Errorf("%w: %w", ErrKeysUnavailable, cause)
}

// lookAgain fetches the set at url when it has no key with this ID, although it is
// fresh: Google may have begun to use a key early. There is one such fetch in
// lookPause, and when it fails nothing changes.
func (t *keyTransport) lookAgain(ctx context.Context, url, id string) error {
	due := func(set keySet, now time.Time) bool {
		return !set.due(now) && !now.Before(set.retryAt) &&
			!set.has(id) && now.Sub(set.lookedAt) >= lookPause
	}
	if !due(t.set(url), t.now()) {
		return nil
	}
	return t.await(ctx, url, true, due)
}

// await waits while the set at url is fetched, if it is due: until ctx ends, and no
// longer than patience when there is an older set that would do.
func (t *keyTransport) await(ctx context.Context, url string, usable bool, due func(keySet, time.Time) bool) error {
	done := t.flight.DoChan(url, func() (any, error) { return nil, t.refresh(url, due) })
	var enough <-chan time.Time
	if usable {
		timer := time.NewTimer(patience)
		defer timer.Stop()
		enough = timer.C
	}
	select {
	case result := <-done:
		return result.Err
	case <-enough:
	case <-ctx.Done():
	}
	return nil
}

// wake makes idtoken forget the set at url when it is older than idtoken knows, whose
// clock stood still while the machine slept.
func (t *keyTransport) wake(url string) error {
	t.mu.Lock()
	overslept := t.sets[url].due(t.now()) && time.Now().Before(t.told[url])
	if overslept {
		delete(t.told, url)
	}
	t.mu.Unlock()
	if overslept {
		return t.forget()
	}
	return nil
}

func (t *keyTransport) set(url string) keySet {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.sets[url]
}

// number returns the number of the set at url.
func (t *keyTransport) number(url string) uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.sets[url].number
}

// refresh fetches the set again, unless another call has just done so and it is
// no longer due.
func (t *keyTransport) refresh(url string, due func(keySet, time.Time) bool) error {
	set, start := t.set(url), t.now()
	if !due(set, start) {
		return nil
	}
	early := !set.due(start)
	if early {
		set.lookedAt = start
	}
	// Not the context of the request that happened to come first: others wait
	// for the same fetch.
	ctx, cancel := context.WithTimeout(context.Background(), fetchTimeout)
	defer cancel()
	fetched, err := t.fetch(ctx, url, start)
	if err != nil {
		set.failure, set.retryAt = err, t.now().Add(retryPause)
	} else {
		fetched.lookedAt, fetched.number = set.lookedAt, set.number+1
		set = fetched
	}
	t.mu.Lock()
	t.sets[url] = set
	t.mu.Unlock()
	if early && err == nil {
		return t.forget()
	}
	return nil
}

// fetch gets the set at url. Anything but a usable one is an error: idtoken
// would keep an empty set for its max-age.
func (t *keyTransport) fetch(ctx context.Context, url string, start time.Time) (keySet, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return keySet{}, err
	}
	// A RoundTripper follows no redirects, so keys come from url or not at all.
	resp, err := t.base.RoundTrip(r)
	if err != nil {
		return keySet{}, fmt.Errorf("fetching %s: %w", url, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return keySet{}, fmt.Errorf("fetching %s: status %d", url, resp.StatusCode)
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxKeysSize+1))
	if err != nil {
		return keySet{}, fmt.Errorf("fetching %s: %w", url, err)
	}
	if len(body) > maxKeysSize {
		return keySet{}, fmt.Errorf("fetching %s: the answer is longer than %d bytes", url, maxKeysSize)
	}
	keys, err := readKeys(body)
	if err != nil {
		return keySet{}, fmt.Errorf("fetching %s: %w", url, err)
	}
	freshUntil := start.Add(lifetime(resp.Header))
	return keySet{body: body, keys: keys, freshUntil: freshUntil, staleUntil: freshUntil.Add(staleFor)}, nil
}

// key is a key in a set. Its fields are those that idtoken reads, so that what is
// read here can be read there.
type key struct {
	ID        string `json:"kid"`
	Algorithm string `json:"alg"`
	Curve     string `json:"crv"`
	Type      string `json:"kty"`
	Use       string `json:"use"`
	E         string `json:"e"`
	N         string `json:"n"`
	X         string `json:"x"`
	Y         string `json:"y"`
}

// readKeys returns the keys in a set, of which at least one has an ID.
func readKeys(body []byte) ([]key, error) {
	var set struct {
		Keys []key `json:"keys"`
	}
	if err := json.Unmarshal(body, &set); err != nil {
		return nil, fmt.Errorf("the answer is not a key set: %w", err)
	}
	keys := slices.DeleteFunc(set.Keys, func(k key) bool { return k.ID == "" })
	if len(keys) == 0 {
		return nil, errors.New("no key in the answer has an ID")
	}
	return keys, nil
}

// ecdsa returns the key as one of ES256.
func (k key) ecdsa() (*ecdsa.PublicKey, error) {
	x, err1 := segments.DecodeString(k.X)
	y, err2 := segments.DecodeString(k.Y)
	if err := errors.Join(err1, err2); err != nil {
		return nil, err
	}
	return ecdsa.ParseUncompressedPublicKey(elliptic.P256(), slices.Concat([]byte{4}, x, y))
}

// lifetime returns for how long an answer with these headers is fresh. It
// reads what idtoken does not: spaces, quotes, upper case, several
// headers and values. The shortest max-age counts.
func lifetime(header http.Header) time.Duration {
	maxAge, said := longestMaxAge, false
	for directive := range strings.SplitSeq(strings.Join(header.Values("Cache-Control"), ","), ",") {
		name, value, _ := strings.Cut(directive, "=")
		switch strings.ToLower(strings.TrimSpace(name)) {
		case "no-store", "no-cache":
			return 0
		case "max-age":
			if d, ok := seconds(value); ok {
				maxAge, said = min(maxAge, d), true
			}
		}
	}
	if !said {
		return usualMaxAge
	}
	age, _ := seconds(header.Get("Age"))
	return max(0, maxAge-age)
}

// seconds reads a header's number of seconds, at most longestMaxAge.
func seconds(s string) (time.Duration, bool) {
	n, err := strconv.ParseUint(strings.Trim(s, " \t\""), 10, 64)
	if err != nil && !errors.Is(err, strconv.ErrRange) {
		return 0, false
	}
	return time.Duration(min(n, uint64(longestMaxAge/time.Second))) * time.Second, true
}
