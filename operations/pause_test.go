package operations

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cloud.google.com/go/pubsub/v2/apiv1/pubsubpb"
	"google.golang.org/protobuf/types/known/durationpb"

	"example.com/pushinbox/shared/delivery"
)

// oidc returns a method of authentication.
func oidc(audience string) *pubsubpb.PushConfig_OidcToken_ {
	return &pubsubpb.PushConfig_OidcToken_{OidcToken: &pubsubpb.PushConfig_OidcToken{ServiceAccountEmail: "push@p.iam.gserviceaccount.com", Audience: audience}}
}

func unwrapped(metadata bool) *pubsubpb.PushConfig_NoWrapper_ {
	return &pubsubpb.PushConfig_NoWrapper_{NoWrapper: &pubsubpb.PushConfig_NoWrapper{WriteMetadata: metadata}}
}

// shapes are the forms that a push configuration has.
func shapes(endpoint string) map[string]*pubsubpb.PushConfig {
	withToken := endpoint + "?token=" + marker
	return map[string]*pubsubpb.PushConfig{
		"wrapped":              {PushEndpoint: endpoint},
		"unwrapped":            {PushEndpoint: endpoint, Wrapper: unwrapped(true)},
		"bare":                 {PushEndpoint: endpoint, Wrapper: unwrapped(false)},
		"signed":               {PushEndpoint: endpoint, AuthenticationMethod: oidc("")},
		"signed_for_audience":  {PushEndpoint: endpoint, AuthenticationMethod: oidc("https://receive.example.com/"), Wrapper: unwrapped(true)},
		"attributes":           {PushEndpoint: endpoint, Attributes: map[string]string{"x-goog-version": "v1"}},
		"token":                {PushEndpoint: withToken, AuthenticationMethod: oidc("https://receive.example.com")},
		"token_in_everything":  {PushEndpoint: withToken + "&a=b", AuthenticationMethod: oidc(withToken), Attributes: map[string]string{"x-goog-version": "v1"}, Wrapper: unwrapped(true)},
		"pubsub_wrapper_named": {PushEndpoint: endpoint, Wrapper: &pubsubpb.PushConfig_PubsubWrapper_{PubsubWrapper: &pubsubpb.PushConfig_PubsubWrapper{}}},
	}
}

// TestShapesComeBackToTheBit pauses and resumes each form, and looks for the token
// in everything that is left behind.
func TestShapesComeBackToTheBit(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, w *world) {
		for shape, c := range shapes(w.receiver.url) {
			name := w.subscribe("s-"+shape, c)
			before := bits(t, w.push(name))
			paused, err := w.operator(nil).Pause(t.Context(), name)
			w.check(err)
			if c := w.push(name); c.GetPushEndpoint() != "" {
				t.Errorf("%s is still pushed to %s", shape, c.PushEndpoint)
			}
			if text := fmt.Sprintf("%+v %s", paused, readAll(t, w.data)); strings.Contains(text, marker) {
				t.Errorf("%s: the token is in %s", shape, text)
			}
			resumed, err := w.operator(nil).Resume(t.Context(), name, nil)
			w.check(err)
			if after := bits(t, w.push(name)); after != before {
				t.Errorf("%s came back as\n%q, was\n%q", shape, after, before)
			}
			if text := fmt.Sprintf("%+v", resumed); strings.Contains(text, marker) {
				t.Errorf("%s: the token is in %s", shape, text)
			}
			if o := w.record(name); o != nil {
				t.Errorf("%s: the record is left: %+v", shape, o)
			}
		}
	})
}

// readAll returns all that is in the files of a directory.
func readAll(t *testing.T, dir string) string {
	t.Helper()
	var all strings.Builder
	err := filepath.WalkDir(dir, func(path string, entry os.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		all.Write(b)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all.String()
}

// TestPauseKeepsMessages holds back 100 messages, all of which arrive later.
func TestPauseKeepsMessages(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, w *world) {
		name := w.subscribe("inbox", &pubsubpb.PushConfig{PushEndpoint: w.receiver.url})
		w.publish("inbox", 1, func(int) map[string]string { return map[string]string{"first": "1"} })
		w.receiver.wait(t, name, 1)
		_, err := w.operator(nil).Pause(t.Context(), name)
		w.check(err)
		w.publish("inbox", 100, nil)
		if n := w.waiting(name, 100); n != 100 {
			t.Errorf("%d of 100 messages wait while it is paused", n)
		}
		_, err = w.operator(nil).Resume(t.Context(), name, nil)
		w.check(err)
		w.receiver.wait(t, name, 100)
	})
}

// waiting pulls until want messages were seen, gives them back and returns how many
// there were.
func (w *world) waiting(subscription string, want int) int {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), 20*time.Second)
	defer cancel()
	seen := make(map[string]bool)
	var leased []string
	for len(seen) < want && ctx.Err() == nil {
		answer, err := w.client.SubscriptionAdminClient.Pull(ctx, &pubsubpb.PullRequest{Subscription: subscription, MaxMessages: 1000})
		if err != nil {
			break
		}
		for _, m := range answer.ReceivedMessages {
			seen[m.Message.MessageId] = true
			leased = append(leased, m.AckId)
		}
	}
	if len(leased) > 0 {
		w.check(w.client.SubscriptionAdminClient.ModifyAckDeadline(w.t.Context(), &pubsubpb.ModifyAckDeadlineRequest{Subscription: subscription, AckIds: leased}))
	}
	return len(seen)
}

// TestKilledAtEachStep kills pause before and after each of its steps, then resume
// likewise, and then resumes: the configuration is as it was, whatever happened.
func TestKilledAtEachStep(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, w *world) {
		name := w.subscribe("inbox", shapes(w.receiver.url)["token_in_everything"])
		before := bits(t, w.push(name))
		tried := 0
		for pausing := 1; ; pausing++ {
			whole := false
			for i := range 2 {
				k := &knife{at: pausing, after: i == 1}
				whole = k.run(t, func() error { _, err := k.operator(w).Pause(t.Context(), name); return err })
				for resuming := 1; ; resuming++ {
					k := &knife{at: resuming, after: i == 1}
					if k.run(t, func() error { _, err := k.operator(w).Resume(t.Context(), name, nil); return err }) {
						break
					}
					// Both orders: who resumes what is half resumed, and who pauses it again.
					if resuming%2 == 0 {
						if _, err := w.operator(nil).Pause(t.Context(), name); err != nil {
							t.Fatalf("pause after resume was killed at step %d: %v", resuming, err)
						}
					}
					tried++
				}
				if _, err := w.operator(nil).Resume(t.Context(), name, nil); err != nil {
					t.Fatalf("pause was killed at step %d: %v", pausing, err)
				}
				if after := bits(t, w.push(name)); after != before {
					t.Fatalf("pause was killed at step %d: came back as\n%q, was\n%q", pausing, after, before)
				}
				if o := w.record(name); o != nil {
					t.Fatalf("pause was killed at step %d: the record is left: %+v", pausing, o)
				}
				tried++
			}
			if whole {
				break
			}
		}
		t.Logf("%d interruptions", tried)
		if tried < 40 {
			t.Errorf("only %d interruptions were tried", tried)
		}
	})
}

// TestPauseRefusesWhatCouldNotBeResumed changes one thing each time.
func TestPauseRefusesWhatCouldNotBeResumed(t *testing.T) {
	t.Parallel()
	w := ownWorld(t)
	full := shapes(w.receiver.url)["token"]
	name := w.subscribe("inbox", full)
	escaped := w.subscribe("escaped", &pubsubpb.PushConfig{PushEndpoint: w.receiver.url + "?token=%41" + marker[1:]})
	other := w.subscribe("other", &pubsubpb.PushConfig{PushEndpoint: w.receiver.url, Attributes: map[string]string{"x-goog-version": "v1"}})
	pulled := w.subscribe("pulled", nil)
	denied := errors.New("iam.serviceAccounts.actAs is denied")
	for test, c := range map[string]struct {
		name   string
		change func(*Options)
	}{
		"no_act_as":          {name, func(o *Options) { o.ActAs = func(context.Context, string) error { return denied } }},
		"no_token_source":    {name, func(o *Options) { o.Token = nil }},
		"token_not_readable": {name, func(o *Options) { o.Token = func(context.Context) (string, error) { return "", denied } }},
		"token_empty":        {name, func(o *Options) { o.Token = func(context.Context) (string, error) { return "", nil } }},
		"token_differs":      {name, func(o *Options) { o.Token = func(context.Context) (string, error) { return marker + "2", nil } }},
		"odd_escapes":        {escaped, nil},
		"records_fail":       {other, func(o *Options) { o.Records = failingRecords{o.Records} }},
		"not_pushed":         {pulled, nil},
		"not_there":          {name + "2", nil},
	} {
		t.Run(test, func(t *testing.T) {
			var before string
			if test != "not_there" {
				before = bits(t, w.push(c.name))
			}
			_, err := w.operator(c.change).Pause(t.Context(), c.name)
			if !errors.Is(err, ErrRefused) {
				t.Fatalf("the error is %v", err)
			}
			if strings.Contains(err.Error(), marker) {
				t.Errorf("the error has the token: %v", err)
			}
			if test == "not_there" {
				return
			}
			if bits(t, w.push(c.name)) != before || w.record(c.name) != nil {
				t.Error("something was changed")
			}
		})
	}
}

// failingRecords writes nothing.
type failingRecords struct{ delivery.Records }

func (failingRecords) Put(context.Context, *delivery.Operation) error { return errors.New("disk full") }

func TestPauseAgainTellsOfTheFirst(t *testing.T) {
	t.Parallel()
	w := ownWorld(t)
	name := w.subscribe("inbox", &pubsubpb.PushConfig{PushEndpoint: w.receiver.url})
	_, err := w.operator(nil).Pause(t.Context(), name)
	w.check(err)
	again, err := w.operator(func(o *Options) { o.Principal = "second@example.com" }).Pause(t.Context(), name)
	w.check(err)
	if !again.Already || again.Operation.Principal != "operator@example.com" || again.Endpoint != w.receiver.url {
		t.Errorf("the second pause says %+v", again)
	}
}

// TestLostFrom holds the date to the retention, less the age of what waits.
func TestLostFrom(t *testing.T) {
	t.Parallel()
	w := ownWorld(t)
	now := time.Date(2026, 11, 26, 3, 0, 0, 0, time.UTC)
	for test, c := range map[string]struct {
		retention, oldest time.Duration
		want              time.Time
	}{
		"by_default":        {0, 0, now.Add(7 * 24 * time.Hour)},
		"ten_days":          {10 * 24 * time.Hour, 0, now.Add(10 * 24 * time.Hour)},
		"two_days_old":      {3 * 24 * time.Hour, 2 * 24 * time.Hour, now.Add(24 * time.Hour)},
		"older_than_it_can": {time.Hour, 3 * time.Hour, now},
	} {
		op := w.operator(func(o *Options) {
			o.Backlog = func(context.Context, string) (*Backlog, error) {
				return &Backlog{At: now.Add(-time.Hour), Messages: int64(c.oldest / time.Hour), Oldest: c.oldest - time.Hour}, nil
			}
		})
		sub := &pubsubpb.Subscription{}
		if c.retention > 0 {
			sub.MessageRetentionDuration = durationpb.New(c.retention)
		}
		if got := op.lostFrom(t.Context(), sub, now); !got.Equal(c.want) {
			t.Errorf("%s: %v, want %v", test, got, c.want)
		}
	}
}

// TestResume tries what resume finds besides a pause.
func TestResume(t *testing.T) {
	t.Parallel()
	w := ownWorld(t)
	as := func(endpoint string) *pubsubpb.PushConfig { return &pubsubpb.PushConfig{PushEndpoint: endpoint} }
	rebuilt := as(w.receiver.url + "/rebuilt")
	rebuild := func(context.Context) (*pubsubpb.PushConfig, error) { return rebuilt, nil }
	pulled := w.subscribe("pulled", nil)
	if _, err := w.operator(nil).Resume(t.Context(), pulled, nil); !errors.Is(err, ErrRefused) {
		t.Errorf("without record and Terraform: %v", err)
	}
	resumed, err := w.operator(nil).Resume(t.Context(), pulled, rebuild)
	w.check(err)
	if got := w.push(pulled); !samePush(got, rebuilt) || !resumed.Rebuilt {
		t.Errorf("without record: %v, %+v", got, resumed)
	}
	if resumed, err = w.operator(nil).Resume(t.Context(), pulled, rebuild); err != nil || !resumed.Already || resumed.Differs {
		t.Errorf("not paused: %+v, %v", resumed, err)
	}
	// Terraform has ended the pause, with another endpoint.
	name := w.subscribe("inbox", as(w.receiver.url))
	_, err = w.operator(nil).Pause(t.Context(), name)
	w.check(err)
	w.check(w.operator(nil).setPush(t.Context(), name, rebuilt))
	if resumed, err = w.operator(nil).Resume(t.Context(), name, nil); err != nil || !resumed.Already || !resumed.Differs {
		t.Errorf("resumed by others: %+v, %v", resumed, err)
	}
	if w.record(name) != nil {
		t.Error("the record of a pause that is over is left")
	}
	// Its right was taken away meanwhile.
	signed := w.subscribe("signed", shapes(w.receiver.url)["signed"])
	_, err = w.operator(nil).Pause(t.Context(), signed)
	w.check(err)
	denied := w.operator(func(o *Options) { o.ActAs = func(context.Context, string) error { return errors.New("denied") } })
	if _, err := denied.Resume(t.Context(), signed, nil); !errors.Is(err, ErrRefused) || w.record(signed) == nil {
		t.Errorf("without the right: %v", err)
	}
}

// TestConcealEscapes holds that a token that is written with escapes comes back so.
func TestConcealEscapes(t *testing.T) {
	t.Parallel()
	for raw, token := range map[string]string{"a%2Fb-c-d-e-f": "a/b-c-d-e-f", "a+b": "a b", "plain": "plain"} {
		c := &pubsubpb.PushConfig{PushEndpoint: "https://r.example/?token=" + raw + "&x=%zz&token"}
		recorded, got, err := Conceal(c)
		if err != nil || got != token || strings.Contains(string(recorded), raw) {
			t.Errorf("%s: %q, %q, %v", raw, recorded, got, err)
			continue
		}
		read, hasToken, err := recordedConfig(recorded)
		if err != nil || !hasToken {
			t.Errorf("%s: %v, %t", raw, err, hasToken)
			continue
		}
		if back, err := reveal(read, token); err != nil || back.PushEndpoint != c.PushEndpoint {
			t.Errorf("%s came back as %v, %v", raw, back, err)
		}
	}
	for _, address := range []string{"https://r.example/?token=a&token=b", "https://r.example/?%zz=s", "https://r.example/?token=%41"} {
		if recorded, _, err := Conceal(&pubsubpb.PushConfig{PushEndpoint: address}); err == nil {
			t.Errorf("%s is written down as %q", address, recorded)
		}
	}
	in := &pubsubpb.PushConfig{PushEndpoint: "https://r.example/?token=" + marker, Attributes: map[string]string{"a": "x" + marker}}
	if _, _, err := Conceal(in); err == nil {
		t.Error("a token in an attribute is written down")
	}
}

// FuzzConceal conceals the token of any push configuration, and reveals it again.
func FuzzConceal(f *testing.F) {
	f.Add("https://receive.example/wrapped?token="+marker, "https://receive.example", "a", "b")
	f.Add("https://receive.example/?a=b&token=a%2Bb%2Fmarker#x", "https://receive.example/?token=a%2Bb%2Fmarker", "x-goog-version", "v1")
	f.Add("?token=TOKEN-IS-NOT-RECORDED&token=", "?%74oken=%41", "token", marker)
	f.Fuzz(func(t *testing.T, endpoint, audience, key, value string) {
		for _, s := range []*string{&endpoint, &audience, &key, &value} {
			*s = strings.ToValidUTF8(*s, "")
		}
		c := &pubsubpb.PushConfig{PushEndpoint: endpoint, AuthenticationMethod: oidc(audience), Attributes: map[string]string{key: value}}
		recorded, token, err := Conceal(c)
		if err != nil || endpoint == "" {
			return
		}
		if len(token) >= guarded && strings.Contains(string(recorded), token) {
			t.Fatalf("%q has the token %q", recorded, token)
		}
		there, hasToken, err := recordedConfig(recorded)
		if err != nil || hasToken != (token != "") {
			t.Fatalf("%v is recorded as %v, with a token: %v, %v", c, there, hasToken, err)
		}
		if back, err := reveal(there, token); err != nil || bits(t, back) != bits(t, c) {
			t.Fatalf("%v comes back as %v, %v", c, back, err)
		}
	})
}
