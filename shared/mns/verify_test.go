package mns_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/md5"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"example.com/pushinbox/local/mnsfake"
	"example.com/pushinbox/local/mnskey"
	"example.com/pushinbox/shared/httpapi"
	"example.com/pushinbox/shared/inbox"
	"example.com/pushinbox/shared/mns"
	"example.com/pushinbox/shared/problem"
	"example.com/pushinbox/testkit/asleep"
	"example.com/pushinbox/testkit/mnsattack"
	"example.com/pushinbox/testkit/roundtrip"
)

const owner = "1000000000000000"

// endpoint does what an endpoint must do with this package, and nothing else.
type endpoint struct {
	verifier *mns.Verifier
	policy   mns.Policy
	secret   string
	stored   []*inbox.Message
}

func newEndpoint(t testing.TB, transport http.RoundTripper, secret string) *endpoint {
	t.Helper()
	v, err := mns.NewVerifier(&mns.VerifierOptions{Transport: transport})
	if err != nil {
		t.Fatal(err)
	}
	return &endpoint{verifier: v, policy: mns.Policy{Owners: []string{owner}, Unnamed: secret != ""}, secret: secret}
}

// prove proves a request and its body.
func prove(v *mns.Verifier, r *http.Request, body []byte) (mns.Signer, error) {
	signer, err := v.Verify(r)
	if err == nil {
		err = mns.CheckBody(r, body)
	}
	return signer, err
}

func (e *endpoint) push(w http.ResponseWriter, r *http.Request) error {
	if err := httpapi.AllowMethods(w, r, http.MethodPost); err != nil {
		return err
	}
	body, err := httpapi.ReadBody(w, r, mns.MaxBodySize, 1)
	if err != nil {
		return err
	}
	path, err := mns.Endpoint(r, e.secret)
	if err != nil {
		return err
	}
	signer, err := prove(e.verifier, r, body)
	if err != nil {
		return err
	}
	n, err := mns.Decode(r.Header, body, nil)
	if err != nil {
		return err
	}
	if err := e.policy.Check(n); err != nil {
		return err
	}
	m := n.Message(signer, path)
	if err := m.Validate(); err != nil {
		return err
	}
	e.stored = append(e.stored, m)
	w.WriteHeader(http.StatusCreated)
	return nil
}

// serve answers a client's request as a server would have got it.
func (e *endpoint) serve(t testing.TB, r *http.Request) int {
	t.Helper()
	got, err := received(r)
	if err != nil {
		t.Fatal(err)
	}
	w := httptest.NewRecorder()
	if err := e.push(w, got.WithContext(r.Context())); err != nil {
		status, detail := problem.Of(err)
		if detail == "" || strings.Contains(detail, "%") {
			t.Errorf("the detail is %q", detail)
		}
		return status
	}
	return w.Code
}

// received sends r through HTTP's own writer and reader, so that its headers and
// its target are what a server makes of them.
func received(r *http.Request) (*http.Request, error) {
	var wire bytes.Buffer
	if err := r.Write(&wire); err != nil {
		return nil, err
	}
	return http.ReadRequest(bufio.NewReader(&wire))
}

func newOrigin(t testing.TB, bits int) *mnsattack.Origin {
	t.Helper()
	o, err := mnsattack.NewOrigin(bits)
	if err != nil {
		t.Fatal(err)
	}
	return o
}

var formats = []string{mnsattack.XML, mnsattack.JSON, mnsattack.Simplified}

// Where the endpoint may be. All must refuse the same.
var places = map[string]struct{ url, secret string }{
	"without_secret":  {"https://mns.example/notifications", ""},
	"secret_in_path":  {"https://mns.example/topic-1/abcdefghijklmnop", "abcdefghijklmnop"},
	"secret_in_query": {"https://mns.example/topic-1?token=abcdefghijklmnop", "abcdefghijklmnop"},
}

func TestHostile(t *testing.T) {
	t.Parallel()
	for place, where := range places {
		t.Run(place, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				origin := newOrigin(t, 512)
				e := newEndpoint(t, origin, where.secret)
				target := origin.Target(where.url, owner)
				target.Secret = where.secret
				cases := mnsattack.Cases(target)
				seen := make(map[string]bool)
				for _, c := range cases {
					if seen[c.Name] {
						t.Errorf("two cases are called %s", c.Name)
					}
					seen[c.Name] = true
					if got := e.serve(t, c.Request); got != c.Status {
						t.Errorf("%s: answered %d, want %d", c.Name, got, c.Status)
					}
				}
				if len(e.stored) != 0 {
					t.Errorf("%d were stored", len(e.stored))
				}
				if strays := origin.Strays(); strays != nil {
					t.Errorf("fetched %q", strays)
				}
				// The cases mean nothing if a good push is refused, too.
				for _, format := range formats {
					if got := e.serve(t, mnsattack.Good(target, format)); got != http.StatusCreated {
						t.Errorf("a good push in %s: answered %d", format, got)
					}
				}
				t.Logf("%d requests", len(cases))
			})
		})
	}
}

// What needs no certificate to be refused must not have one fetched.
func TestCheapChecksComeFirst(t *testing.T) {
	t.Parallel()
	origin := newOrigin(t, 512)
	e := newEndpoint(t, origin, "abcdefghijklmnop")
	target := origin.Target("https://mns.example/abcdefghijklmnop", owner)
	target.Secret = "abcdefghijklmnop"
	needsKey := regexp.MustCompile(`^(signature|signed|header|made|owner|content_type|target|xml|json|simplified|body|digest)_|^date_altered$`)
	cheap := regexp.MustCompile(`^(signature_(unpadded|twice_in_one|of_one_byte|of_10_kb|cut)|header_doubled.*|content_type_doubled|digest_(missing|doubled|empty|removed))$`)
	n := 0
	for _, c := range mnsattack.Cases(target) {
		if needsKey.MatchString(c.Name) && !cheap.MatchString(c.Name) {
			continue
		}
		n++
		before := origin.Asked()
		e.serve(t, c.Request)
		if origin.Asked() != before {
			t.Errorf("%s: the certificate was fetched", c.Name)
			return
		}
	}
	if n < 100 {
		t.Errorf("only %d cases are cheap", n)
	}
}

func TestHostileCertificates(t *testing.T) {
	t.Parallel()
	for _, bits := range []int{512, 2048} {
		t.Run(fmt.Sprint(bits), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				origin := newOrigin(t, bits)
				target := origin.Target("https://mns.example/notifications", owner)
				e := newEndpoint(t, origin, "")
				cases, err := origin.Cases(target)
				if err != nil {
					t.Fatal(err)
				}
				for _, c := range cases {
					start := time.Now()
					if got := e.serve(t, c.Request); got != c.Status {
						t.Errorf("%s: answered %d, want %d", c.Name, got, c.Status)
					}
					if took := time.Since(start); took > 2*time.Second {
						t.Errorf("%s: answered after %v", c.Name, took)
					}
					time.Sleep(3 * time.Second) // within the fetches of a minute
				}
				if len(e.stored) != 0 {
					t.Errorf("%d were stored", len(e.stored))
				}
				if strays := origin.Strays(); strays != nil {
					t.Errorf("fetched %q", strays)
				}
				if got := e.serve(t, mnsattack.Good(target, mnsattack.XML)); got != http.StatusCreated {
					t.Errorf("a good push: answered %d", got)
				}
				t.Logf("%d requests", len(cases))
			})
		})
	}
}

// draft is a push whose string to sign is written out here.
type draft struct {
	url, contentType, digest, date string
	body                           string
	headers                        string // in order, as signed
}

func (d draft) request(sign func(string) string) *http.Request {
	r, err := http.NewRequest(http.MethodPost, d.url, strings.NewReader(d.body))
	if err != nil {
		panic(err)
	}
	for line := range strings.SplitSeq(d.headers, "\n") {
		name, value, _ := strings.Cut(line, ":")
		r.Header.Set(name, value)
	}
	r.Header.Set("Date", d.date)
	r.Header.Set("Content-Md5", d.digest)
	if d.contentType != "" {
		r.Header.Set("Content-Type", d.contentType)
	}
	_, rest, _ := strings.Cut(strings.TrimPrefix(d.url, "https://"), "/")
	r.Header.Set("Authorization", sign("POST\n"+d.digest+"\n"+d.contentType+"\n"+d.date+"\n"+d.headers+"\n/"+rest))
	got, err := received(r)
	if err != nil {
		panic(err)
	}
	return got
}

// simplified is a push of "I am test message 0.", whose MD5 is known.
func simplified(now time.Time) draft {
	return draft{
		url:         "https://mns.example/notifications",
		contentType: "text/plain;charset=utf-8",
		digest:      "075C3D4AEB2D2F2D6A4C17C9D6DBBEBB",
		date:        now.UTC().Format(http.TimeFormat),
		body:        "I am test message 0.",
		headers: "x-mns-message-id:F6EA56633844DBFC-1-154BDFB8059-200000004\n" +
			"x-mns-request-id:573AE020B2B71CFC6801A6EF\n" +
			"x-mns-signing-cert-url:" + base64.StdEncoding.EncodeToString([]byte(mnsattack.GoodURL)) + "\n" +
			"x-mns-version:2015-06-06",
	}
}

// signatureBits returns the size of the key that signed r.
func signatureBits(t *testing.T, r *http.Request) int {
	t.Helper()
	signature, err := base64.StdEncoding.DecodeString(r.Header.Get("Authorization"))
	if err != nil {
		t.Fatal(err)
	}
	return len(signature) * 8
}

func TestVerifyEveryKeySize(t *testing.T) {
	t.Parallel()
	for _, bits := range []int{512, 1024, 2048, 3072, 4096} {
		t.Run(fmt.Sprint(bits), func(t *testing.T) {
			t.Parallel()
			origin := newOrigin(t, bits)
			now := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
			block, _ := pem.Decode(origin.Key.Certificate)
			sum := sha256.Sum256(block.Bytes)
			v, err := mns.NewVerifier(&mns.VerifierOptions{Transport: origin, Now: func() time.Time { return now }, Pins: []string{hex.EncodeToString(sum[:])}})
			if err != nil {
				t.Fatal(err)
			}
			d := simplified(now)
			r := d.request(origin.Key.Sign)
			if got := signatureBits(t, r); got != bits {
				t.Errorf("signed with %d bits", got)
			}
			got, err := prove(v, r, []byte(d.body))
			if err != nil {
				t.Fatal(err)
			}
			want := mns.Signer{
				CertificateURL: mnsattack.GoodURL,
				Date:           now,
				RequestID:      "573AE020B2B71CFC6801A6EF",
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestVerifyAccepts(t *testing.T) {
	t.Parallel()
	origin := newOrigin(t, 512)
	now := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	sum := md5.Sum([]byte("I am test message 0."))
	for name, change := range map[string]func(*draft){
		"digest_upper_hex":           func(*draft) {},
		"digest_lower_hex":           func(d *draft) { d.digest = strings.ToLower(d.digest) },
		"digest_base64_of_lower_hex": func(d *draft) { d.digest = base64.StdEncoding.EncodeToString([]byte(strings.ToLower(d.digest))) },
		"digest_base64_of_upper_hex": func(d *draft) { d.digest = base64.StdEncoding.EncodeToString([]byte(d.digest)) },
		"digest_base64_of_bytes":     func(d *draft) { d.digest = base64.StdEncoding.EncodeToString(sum[:]) },
		"no_content_type":            func(d *draft) { d.contentType = "" },
		"query":                      func(d *draft) { d.url += "?a=1&b=%20c" },
		"escaped_path":               func(d *draft) { d.url = "https://mns.example/%6eotifications//x/./%C3%BC" },
		"date_15_minutes_old":        func(d *draft) { d.date = now.Add(-15 * time.Minute).Format(http.TimeFormat) },
		"date_15_minutes_ahead":      func(d *draft) { d.date = now.Add(15 * time.Minute).Format(http.TimeFormat) },
		"date_in_rfc_850":            func(d *draft) { d.date = "Monday, 23-Nov-26 12:00:00 GMT" },
		"http_address": func(d *draft) {
			d.headers = strings.Replace(d.headers, base64.StdEncoding.EncodeToString([]byte(mnsattack.GoodURL)),
				base64.StdEncoding.EncodeToString([]byte("http"+strings.TrimPrefix(mnsattack.GoodURL, "https"))), 1)
		},
		// The order is that of the lines, as in MNS's samples, not that of the names.
		"more_headers": func(d *draft) { d.headers = "x-mns-a-b:2\nx-mns-a:1\n" + d.headers + "\nx-mns-z:ü" },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			v, err := mns.NewVerifier(&mns.VerifierOptions{Transport: origin, Now: func() time.Time { return now }})
			if err != nil {
				t.Fatal(err)
			}
			d := simplified(now)
			change(&d)
			got, err := prove(v, d.request(origin.Key.Sign), []byte(d.body))
			if err != nil {
				t.Fatal(err)
			}
			if got.CertificateURL != mnsattack.GoodURL {
				t.Errorf("the certificate is from %s", got.CertificateURL)
			}
		})
	}
	if strays := origin.Strays(); strays != nil {
		t.Errorf("fetched %q", strays)
	}
}

func TestVerifyWithPins(t *testing.T) {
	t.Parallel()
	origin := newOrigin(t, 512)
	block, _ := pem.Decode(origin.Key.Certificate)
	sum := sha256.Sum256(block.Bytes)
	pin := hex.EncodeToString(sum[:])
	for name, tt := range map[string]struct {
		pins []string
		want error
	}{
		"this_one":      {[]string{pin}, nil},
		"in_capitals":   {[]string{strings.ToUpper(pin)}, nil},
		"among_others":  {[]string{strings.Repeat("0", 64), pin}, nil},
		"another":       {[]string{strings.Repeat("0", 64)}, mns.ErrCertificate},
		"none_is_given": {nil, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			v, err := mns.NewVerifier(&mns.VerifierOptions{Transport: origin, Pins: tt.pins})
			if err != nil {
				t.Fatal(err)
			}
			d := simplified(time.Now())
			if _, err := prove(v, d.request(origin.Key.Sign), []byte(d.body)); !errors.Is(err, tt.want) {
				t.Errorf("error is %v, want %v", err, tt.want)
			}
		})
	}
	for _, pin := range []string{"", "x", pin[:62], pin + "00"} {
		if _, err := mns.NewVerifier(&mns.VerifierOptions{Pins: []string{pin}}); err == nil {
			t.Errorf("the pin %q was taken", pin)
		}
	}
}

// host is a certificate host that changes.
type host struct {
	mu    sync.Mutex
	asked int
	round func(*http.Request) (*http.Response, error)
}

func (h *host) RoundTrip(r *http.Request) (*http.Response, error) {
	h.mu.Lock()
	h.asked++
	round := h.round
	h.mu.Unlock()
	return round(r)
}

func (h *host) becomes(round func(*http.Request) (*http.Response, error)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.round = round
}

func (h *host) count() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.asked
}

func refuses(*http.Request) (*http.Response, error) { return nil, errors.New("connection refused") }

func answers(code int, body []byte) func(*http.Request) (*http.Response, error) {
	return func(*http.Request) (*http.Response, error) {
		return &http.Response{StatusCode: code, Body: io.NopCloser(bytes.NewReader(body))}, nil
	}
}

// verify verifies a push that names a certificate's address, now.
func verify(t testing.TB, v *mns.Verifier, key *mnskey.Key, address string) error {
	t.Helper()
	d := simplified(time.Now())
	if address != "" {
		d.headers = strings.Replace(d.headers, base64.StdEncoding.EncodeToString([]byte(mnsattack.GoodURL)), base64.StdEncoding.EncodeToString([]byte(address)), 1)
	}
	_, err := prove(v, d.request(key.Sign), []byte(d.body))
	return err
}

func newKey(t testing.TB) *mnskey.Key {
	t.Helper()
	key, err := mnskey.New(512, 65537)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func newVerifier(t testing.TB, transport http.RoundTripper) *mns.Verifier {
	t.Helper()
	v, err := mns.NewVerifier(&mns.VerifierOptions{Transport: transport})
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func want(t *testing.T, what string, got, want error) {
	t.Helper()
	if !errors.Is(got, want) {
		t.Errorf("%s: error is %v, want %v", what, got, want)
	}
}

func TestCertificateIsFetchedOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		key := newKey(t)
		h := &host{}
		h.becomes(func(r *http.Request) (*http.Response, error) {
			time.Sleep(time.Second)
			return answers(200, key.Certificate)(r)
		})
		v := newVerifier(t, h)
		var wg sync.WaitGroup
		for range 80 {
			wg.Go(func() { want(t, "at once", verify(t, v, key, ""), nil) })
		}
		wg.Wait()
		time.Sleep(6*time.Hour - 2*time.Second)
		want(t, "within six hours", verify(t, v, key, ""), nil)
		if n := h.count(); n != 1 {
			t.Errorf("%d fetches, want 1", n)
		}
		time.Sleep(2 * time.Second)
		want(t, "after six hours", verify(t, v, key, ""), nil)
		if n := h.count(); n != 2 {
			t.Errorf("%d fetches, want 2", n)
		}
	})
}

func TestCertificateIsReplaced(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		before, after := newKey(t), newKey(t)
		h := &host{round: answers(200, before.Certificate)}
		v := newVerifier(t, h)
		want(t, "the first", verify(t, v, before, ""), nil)
		h.becomes(answers(200, after.Certificate))
		time.Sleep(6 * time.Hour)
		want(t, "the second", verify(t, v, after, ""), nil)
		want(t, "the first again", verify(t, v, before, ""), mns.ErrSignature)
	})
}

// A machine that slept for longer than a certificate is fresh fetches it again, although
// its other clock stood still.
func TestCertificateAfterSleep(t *testing.T) {
	t.Parallel()
	before, after := newKey(t), newKey(t)
	h := &host{round: answers(200, before.Certificate)}
	var slept time.Duration
	v, err := mns.NewVerifier(&mns.VerifierOptions{Transport: h, Now: func() time.Time { return asleep.After(slept) }})
	if err != nil {
		t.Fatal(err)
	}
	want(t, "before", verify(t, v, before, ""), nil)
	h.becomes(answers(200, after.Certificate))
	slept = 7 * time.Hour
	d := simplified(time.Now().Add(slept))
	_, err = prove(v, d.request(before.Sign), []byte(d.body))
	want(t, "by the key before", err, mns.ErrSignature)
}

// A host that fails in one way or another is asked no more often than it should
// be, and a certificate that was good is used in the meantime, for a week.
func TestCertificateHostFails(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		round func(*http.Request) (*http.Response, error)
		want  error
		pause time.Duration
	}{
		"hangs":       {roundtrip.Hangs, mns.ErrUnavailable, 5 * time.Second},
		"is_down":     {refuses, mns.ErrUnavailable, 5 * time.Second},
		"status_500":  {answers(500, nil), mns.ErrUnavailable, 5 * time.Second},
		"status_429":  {answers(429, nil), mns.ErrUnavailable, 5 * time.Second},
		"status_404":  {answers(404, nil), mns.ErrCertificate, time.Minute},
		"status_302":  {answers(302, nil), mns.ErrCertificate, time.Minute},
		"not_a_file":  {answers(200, []byte("x")), mns.ErrCertificate, time.Minute},
		"empty_file":  {answers(200, nil), mns.ErrCertificate, time.Minute},
		"large_file":  {answers(200, make([]byte, 1<<20)), mns.ErrCertificate, time.Minute},
		"never_obeys": {func(*http.Request) (*http.Response, error) { time.Sleep(20 * time.Second); return refuses(nil) }, mns.ErrUnavailable, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				key := newKey(t)
				h := &host{round: tt.round}
				v := newVerifier(t, h)
				start := time.Now()
				want(t, "at first", verify(t, v, key, ""), tt.want)
				if took := time.Since(start); took > 2*time.Second {
					t.Errorf("answered after %v", took)
				}
				asked := time.Now()
				want(t, "again", verify(t, v, key, ""), tt.want)
				if tt.pause == 0 {
					time.Sleep(time.Minute)
					return // the transport's own fault
				}
				time.Sleep(tt.pause - time.Since(asked) - time.Second)
				want(t, "within the pause", verify(t, v, key, ""), tt.want)
				if n := h.count(); n != 1 {
					t.Errorf("asked %d times within the pause", n)
				}
				h.becomes(answers(200, key.Certificate))
				time.Sleep(time.Second)
				want(t, "well again", verify(t, v, key, ""), nil)
				got := time.Now()

				h.becomes(tt.round)
				time.Sleep(6 * time.Hour)
				want(t, "with an old certificate", verify(t, v, key, ""), nil)
				time.Sleep(7*24*time.Hour - time.Since(got.Add(6*time.Hour)) - time.Second)
				want(t, "at the end of the week", verify(t, v, key, ""), nil)
				time.Sleep(time.Second)
				want(t, "after the week", verify(t, v, key, ""), tt.want)
			})
		})
	}
}

func TestVerifyEndsWithItsRequest(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		key := newKey(t)
		v := newVerifier(t, &host{round: roundtrip.Hangs})
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		defer cancel()
		d := simplified(time.Now())
		start := time.Now()
		_, err := prove(v, d.request(key.Sign).WithContext(ctx), []byte(d.body))
		want(t, "a cancelled request", err, mns.ErrUnavailable)
		want(t, "a cancelled request", err, context.DeadlineExceeded)
		if took := time.Since(start); took != 300*time.Millisecond {
			t.Errorf("answered after %v", took)
		}
		time.Sleep(2 * time.Second) // the fetch itself goes on for the next request
	})
}

const knownRegion = "https://mns-cert.oss-cn-shanghai.aliyuncs.com/x509_public_certificate.pem"

// flood verifies n pushes that name regions that do not exist, all at once, and
// returns when the fetches for them are under way. The caller waits for the rest.
func flood(t *testing.T, v *mns.Verifier, key *mnskey.Key, n int) *sync.WaitGroup {
	t.Helper()
	var wg sync.WaitGroup
	for range n {
		address := fmt.Sprintf("https://mns-cert.oss-cn-x%d.aliyuncs.com/x509_public_certificate.pem", rand.Uint64())
		wg.Go(func() { want(t, "a made up region", verify(t, v, key, address), mns.ErrUnavailable) })
	}
	synctest.Wait()
	return &wg
}

// Anyone can name regions that do not exist. That must cost neither many fetches
// nor the good pushes.
func TestMadeUpRegions(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		key := newKey(t)
		var underWay, most atomic.Int32
		h := &host{}
		h.becomes(func(r *http.Request) (*http.Response, error) {
			if a := r.URL.String(); a == knownRegion || a == mnsattack.GoodURL {
				return answers(200, key.Certificate)(r)
			}
			most.Store(max(most.Load(), underWay.Add(1)))
			defer underWay.Add(-1)
			return roundtrip.Hangs(r)
		})
		v := newVerifier(t, h)
		want(t, "a region", verify(t, v, key, knownRegion), nil)
		start := time.Now()
		for i := range 60 {
			wg := flood(t, v, key, 10)
			want(t, "the same region meanwhile", verify(t, v, key, knownRegion), nil)
			if i == 30 {
				want(t, "the usual address, new meanwhile", verify(t, v, key, ""), nil)
			}
			wg.Wait()
			time.Sleep(time.Second)
		}
		// Two good ones, 30 at once, and then one every two seconds.
		if n, bound := h.count(), 2+30+int(time.Since(start)/(2*time.Second)); n > bound {
			t.Errorf("%d fetches, want %d at most", n, bound)
		}
		if most.Load() > 4 {
			t.Errorf("%d fetches at once", most.Load())
		}
	})
}

// TestStrangersLeaveRoom uses up what strangers can use up, and then sends the first
// push of an address that nothing is known about.
func TestStrangersLeaveRoom(t *testing.T) {
	t.Parallel()
	const (
		mainHost = "https://mnstest.oss-cn-hangzhou.aliyuncs.com/"
		region   = "https://mns-cert.oss-cn-shanghai.aliyuncs.com/"
		newOne   = "https://mns-cert.oss-cn-new-1.aliyuncs.com/"
		usual    = "x509_public_certificate.pem"
		rotated  = "x509_public_certificate.2027.pem"
	)
	regions := func(int) string {
		return fmt.Sprintf("https://mns-cert.oss-cn-x%d.aliyuncs.com/%s", rand.Uint64(), usual)
	}
	namesAt := func(host string) func(int) string {
		return func(int) string { return fmt.Sprintf("%sx%d.pem", host, rand.Uint64()) }
	}
	for name, tt := range map[string]struct {
		strangers func(int) string
		requests  int
		before    string // a push of this address came first
		address   string
		want      error
	}{
		"regions_before_the_main_host":            {regions, 150, "", mainHost + usual, nil},
		"regions_before_a_region":                 {regions, 150, "", region + usual, nil},
		"regions_before_a_rotated_name":           {regions, 150, "", mainHost + rotated, nil},
		"regions_before_a_name_of_a_region":       {regions, 150, "", region + rotated, nil},
		"regions_before_a_learned_region":         {regions, 150, newOne + usual, newOne + rotated, nil},
		"regions_before_one_that_nobody_knows":    {regions, 150, "", newOne + usual, mns.ErrUnavailable},
		"names_before_the_usual_one":              {namesAt(mainHost), 150, "", mainHost + usual, nil},
		"names_of_a_region_before_the_usual_one":  {namesAt(region), 150, "", region + usual, nil},
		"names_before_a_region":                   {namesAt(mainHost), 150, "", region + usual, nil},
		"names_before_a_rotated_name_of_a_region": {namesAt(mainHost), 150, "", region + rotated, nil},
		"thirty_names_before_a_rotated_one":       {namesAt(mainHost), 30, "", mainHost + rotated, nil},
		"many_names_before_a_rotated_one":         {namesAt(mainHost), 150, "", mainHost + rotated, mns.ErrUnavailable},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				key := newKey(t)
				h := &host{}
				h.becomes(func(r *http.Request) (*http.Response, error) {
					if a := r.URL.String(); a == tt.address || a == tt.before {
						return answers(200, key.Certificate)(r)
					}
					return answers(404, nil)(r)
				})
				v := newVerifier(t, h)
				if tt.before != "" {
					want(t, "the push before", verify(t, v, key, tt.before), nil)
				}
				for i := range tt.requests {
					if err := verify(t, v, key, tt.strangers(i)); err == nil {
						t.Fatal("a stranger's push was accepted")
					}
				}
				if n := h.count(); n > 62 {
					t.Errorf("%d fetches for strangers at once", n)
				}
				want(t, "the first push", verify(t, v, key, tt.address), tt.want)
				time.Sleep(2 * time.Second)
				want(t, "the push two seconds later", verify(t, v, key, tt.address), nil)
			})
		})
	}
}

// A certificate that was good is renewed in the middle of it, too.
func TestMadeUpRegionsDoNotKeepACertificateOld(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		before, after := newKey(t), newKey(t)
		h := &host{round: answers(200, before.Certificate)}
		v := newVerifier(t, h)
		want(t, "a region", verify(t, v, before, knownRegion), nil)
		time.Sleep(6 * time.Hour)
		h.becomes(roundtrip.Hangs)
		wg := flood(t, v, before, 10)
		h.becomes(answers(200, after.Certificate))
		want(t, "the same region with a new certificate", verify(t, v, after, knownRegion), nil)
		wg.Wait()
	})
}

func TestNewVerifierWithoutOptions(t *testing.T) {
	t.Parallel()
	if _, err := mns.NewVerifier(nil); err != nil {
		t.Error(err)
	}
}

func TestEndpoint(t *testing.T) {
	t.Parallel()
	const secret = "s3cr3t/with odd+chars"
	for name, tt := range map[string]struct {
		target string
		secret string
		path   string
		want   error
	}{
		"none_wanted":       {"/a/b", "", "/a/b", nil},
		"none_wanted_root":  {"/", "", "/", nil},
		"last_segment":      {"/a/s3cr3t%2Fwith%20odd+chars", secret, "/a", nil},
		"only_segment":      {"/s3cr3t%2Fwith%20odd+chars", secret, "/", nil},
		"query":             {"/a/b?token=s3cr3t%2Fwith+odd%2Bchars", secret, "/a/b", nil},
		"query_among":       {"/a?x=1&token=s3cr3t%2Fwith+odd%2Bchars", secret, "/a", nil},
		"wrong":             {"/a/wrong", secret, "", mns.ErrSecret},
		"absent":            {"/", secret, "", mns.ErrSecret},
		"as_two_segments":   {"/s3cr3t/with%20odd+chars", secret, "", mns.ErrSecret},
		"not_the_last":      {"/s3cr3t%2Fwith%20odd+chars/a", secret, "", mns.ErrSecret},
		"query_twice":       {"/a?token=s3cr3t%2Fwith+odd%2Bchars&token=x", secret, "", mns.ErrSecret},
		"query_malformed":   {"/a?token=%zz", secret, "", mns.ErrSecret},
		"query_other_named": {"/a?secret=s3cr3t%2Fwith+odd%2Bchars", secret, "", mns.ErrSecret},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path, err := mns.Endpoint(httptest.NewRequest(http.MethodPost, tt.target, nil), tt.secret)
			if tt.want == nil {
				if err != nil || path != tt.path {
					t.Errorf("got %q, %v, want %q", path, err, tt.path)
				}
				return
			}
			if !errors.Is(err, tt.want) {
				t.Errorf("error is %v, want %v", err, tt.want)
			}
			if err != nil && strings.Contains(err.Error(), "s3cr3t") {
				t.Errorf("the secret is in %q", err)
			}
		})
	}
}

// BenchmarkVerify is a push whose certificate is known, as all but the first are,
// beside the size of the certificate's key.
func BenchmarkVerify(b *testing.B) {
	for _, bits := range []int{512, 2048, 4096} {
		b.Run(fmt.Sprint(bits), func(b *testing.B) {
			origin := newOrigin(b, bits)
			v := newVerifier(b, origin)
			d := simplified(time.Now())
			r, body := d.request(origin.Key.Sign), []byte(d.body)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := prove(v, r, body); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// What the stand-in signs, this package verifies: two readings of the same facts.
func TestVerifyStandIn(t *testing.T) {
	t.Parallel()
	for _, bits := range []int{512, 1024, 2048} {
		for _, header := range []http.Header{simplifiedHeader(), {"Content-Type": {"text/xml;charset=utf-8"}}} {
			signer, err := mnsfake.NewSigner(bits)
			if err != nil {
				t.Fatal(err)
			}
			v := newVerifier(t, signer.Transport())
			body := []byte("I am test message 0.")
			r, err := http.NewRequest(http.MethodPost, "https://mns.example/a?b=c", bytes.NewReader(body))
			if err != nil {
				t.Fatal(err)
			}
			r.Header = header
			signer.Sign(r.Header, http.MethodPost, "/a?b=c", body, time.Now())
			got, err := received(r)
			if err != nil {
				t.Fatal(err)
			}
			if s, err := prove(v, got, body); err != nil || signatureBits(t, got) != bits {
				t.Errorf("%d bits: %+v, %v", bits, s, err)
			}
			if !slices.Equal(got.Header["X-Mns-Message-Id"], r.Header["X-Mns-Message-Id"]) {
				t.Error("the request was changed")
			}
		}
	}
}
