package verify

import (
	"context"
	"net/http"
	"testing"
	"time"

	"google.golang.org/api/idtoken"
	"google.golang.org/api/option"
)

// distinctTokens returns n valid tokens that differ. Making one costs a
// signature, so there are fewer than a benchmark has rounds, and caches are
// emptied when they come round again.
func distinctTokens(n int) []string {
	tokens := make([]string, n)
	for i := range tokens {
		d := idToken()
		d.claims["jti"], d.claims["exp"] = nonce(), time.Now().Add(24*time.Hour).Unix()
		tokens[i] = d.token()
	}
	return tokens
}

func bareValidator(b *testing.B) *idtoken.Validator {
	b.Helper()
	v, err := idtoken.NewValidator(context.Background(), option.WithHTTPClient(&http.Client{Transport: serveKeys}))
	if err != nil {
		b.Fatal(err)
	}
	return v
}

// BenchmarkIDToken_known is a push whose token came before, as nearly all do.
// It must stay under 1 µs and allocate nothing.
func BenchmarkIDToken_known(b *testing.B) {
	v := newVerifier(b, nil)
	r := push("Bearer " + distinctTokens(1)[0])
	b.ReportAllocs()
	for b.Loop() {
		if _, err := v.IDToken(r, policy); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkIDToken_new is a push whose token was never seen, beside a bare
// idtoken.Validate of the same token. The two take turns, so that whatever
// else the machine does hits both. "ratio" must stay under 1.25.
func BenchmarkIDToken_new(b *testing.B) {
	bare, v := bareValidator(b), newVerifier(b, nil)
	tokens := distinctTokens(512)
	requests := make([]*http.Request, len(tokens))
	for i, token := range tokens {
		requests[i] = push("Bearer " + token)
	}
	validate := func(i int) time.Duration {
		start := time.Now()
		if _, err := bare.Validate(context.Background(), tokens[i], audience); err != nil {
			b.Fatal(err)
		}
		return time.Since(start)
	}
	verify := func(i int) time.Duration {
		start := time.Now()
		if _, err := v.IDToken(requests[i], policy); err != nil {
			b.Fatal(err)
		}
		return time.Since(start)
	}
	validate(0)
	verify(0)
	var bareTime, ourTime time.Duration
	rounds := 0
	for b.Loop() {
		i := rounds % len(tokens)
		if i == 0 {
			v.google.known.Purge()
		}
		// Who goes second finds the token in the processor's cache.
		if rounds%2 == 0 {
			bareTime += validate(i)
			ourTime += verify(i)
		} else {
			ourTime += verify(i)
			bareTime += validate(i)
		}
		rounds++
	}
	b.ReportMetric(0, "ns/op") // of both together, which means nothing
	b.ReportMetric(float64(bareTime.Nanoseconds())/float64(rounds), "idtoken-ns/token")
	b.ReportMetric(float64(ourTime.Nanoseconds())/float64(rounds), "verify-ns/token")
	b.ReportMetric(float64(ourTime)/float64(bareTime), "ratio")
}
