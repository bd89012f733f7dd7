package verify

import (
	"bytes"
	"context"
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
	base   http.RoundTripper
	now    func() time.Time
	flight singleflight.Group

	mu sync.Mutex
	// sets has one entry for each of the two addresses that idtoken knows.
	sets map[string]keySet
}

// keySet is what is known of the keys at one address. The zero keySet was
// never fetched. It is replaced, not changed.
type keySet struct {
	body       []byte // what the address answered, nil when it never did
	ids        []string
	freshUntil time.Time
	staleUntil time.Time
	// failure is why the last fetch failed, and retryAt when the next may start.
	failure error
	retryAt time.Time
}

func (s keySet) usable(now time.Time) bool { return s.body != nil && now.Before(s.staleUntil) }

// nextFetch is when the set should be fetched again.
func (s keySet) nextFetch() time.Time {
	if s.retryAt.After(s.freshUntil) {
		return s.retryAt
	}
	return s.freshUntil
}

func newKeyTransport(base http.RoundTripper, now func() time.Time) *keyTransport {
	if base == nil {
		base = http.DefaultTransport
		if t, ok := base.(*http.Transport); ok {
			t = t.Clone()
			t.TLSHandshakeTimeout = fetchTimeout
			t.ResponseHeaderTimeout = fetchTimeout
			base = t
		}
	}
	return &keyTransport{base: base, now: now, sets: make(map[string]keySet)}
}

// RoundTrip answers with the keys at the request's address. The max-age of the
// answer ends when this transport fetches again.
func (t *keyTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	url := r.URL.String()
	set, now := t.set(url), t.now()
	if !now.Before(set.nextFetch()) {
		done := t.flight.DoChan(url, func() (any, error) {
			t.refresh(url)
			return nil, nil
		})
		var enough <-chan time.Time
		if set.usable(now) {
			timer := time.NewTimer(patience)
			defer timer.Stop()
			enough = timer.C
		}
		select {
		case <-done:
		case <-enough:
		case <-r.Context().Done():
		}
		set, now = t.set(url), t.now()
	}
	if !set.usable(now) {
		cause := context.Cause(r.Context())
		if cause == nil {
			cause = set.failure
		}
		if cause == nil {
			cause = errors.New("the keys that were fetched last are too old")
		}
		return nil, fmt.Errorf("%w: %w", ErrKeysUnavailable, cause)
	}
	maxAge := max(0, set.nextFetch().Sub(now)/time.Second)
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

// has reports whether the last good set from url has a key with this ID.
func (t *keyTransport) has(url, id string) bool {
	return slices.Contains(t.set(url).ids, id)
}

func (t *keyTransport) set(url string) keySet {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.sets[url]
}

// refresh fetches the set again, unless another call has just done so.
func (t *keyTransport) refresh(url string) {
	set, start := t.set(url), t.now()
	if start.Before(set.nextFetch()) {
		return
	}
	// Not the context of the request that happened to come first: others wait
	// for the same fetch.
	ctx, cancel := context.WithTimeout(context.Background(), fetchTimeout)
	defer cancel()
	fetched, err := t.fetch(ctx, url, start)
	if err != nil {
		set.failure, set.retryAt = err, t.now().Add(retryPause)
	} else {
		set = fetched
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.sets[url] = set
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
	ids, err := keyIDs(body)
	if err != nil {
		return keySet{}, fmt.Errorf("fetching %s: %w", url, err)
	}
	freshUntil := start.Add(lifetime(resp.Header))
	return keySet{body: body, ids: ids, freshUntil: freshUntil, staleUntil: freshUntil.Add(staleFor)}, nil
}

// keyIDs returns the IDs of the keys in a set that idtoken can read. The
// fields are those that idtoken reads, so that what passes here parses there.
func keyIDs(body []byte) ([]string, error) {
	var set struct {
		Keys []struct {
			ID        string `json:"kid"`
			Algorithm string `json:"alg"`
			Curve     string `json:"crv"`
			Type      string `json:"kty"`
			Use       string `json:"use"`
			E         string `json:"e"`
			N         string `json:"n"`
			X         string `json:"x"`
			Y         string `json:"y"`
		} `json:"keys"`
	}
	if err := json.Unmarshal(body, &set); err != nil {
		return nil, fmt.Errorf("the answer is not a key set: %w", err)
	}
	var ids []string
	for _, key := range set.Keys {
		if key.ID != "" {
			ids = append(ids, key.ID)
		}
	}
	if len(ids) == 0 {
		return nil, errors.New("no key in the answer has an ID")
	}
	return ids, nil
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
