package settings_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"example.com/pushinbox/shared/settings"
)

type Shared struct {
	TTL    time.Duration `env:"INBOX_TTL" envDefault:"720h"`
	Shards int           `env:"INBOX_SHARDS" envDefault:"16"`
}

type all struct {
	Shared
	Own struct {
		Audience string   `env:"AUDIENCE,required,notEmpty"`
		Callers  []string `env:"CALLERS,required,notEmpty"`
		Secret   int      `env:"SECRET"`
		// Read by another part as well.
		Shards int `env:"INBOX_SHARDS" envDefault:"16"`
	}
}

func (a all) Validate() error {
	var errs []error
	if a.Shards > 30 {
		errs = append(errs, errors.New("INBOX_SHARDS is over 30"))
	}
	if a.TTL <= 0 {
		errs = append(errs, errors.New("INBOX_TTL is not positive"))
	}
	return errors.Join(errs...)
}

func TestParse(t *testing.T) {
	t.Parallel()
	got, err := settings.Parse[all](map[string]string{"AUDIENCE": "a", "CALLERS": "x,y", "INBOX_SHARDS": "3"})
	if err != nil {
		t.Fatal(err)
	}
	want := all{Shared: Shared{TTL: 720 * time.Hour, Shards: 3}}
	want.Own.Audience, want.Own.Callers, want.Own.Shards = "a", []string{"x", "y"}, 3
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestParseNamesEveryProblemOnce(t *testing.T) {
	t.Parallel()
	_, err := settings.Parse[all](map[string]string{"INBOX_TTL": "30 days", "INBOX_SHARDS": "many", "CALLERS": "", "SECRET": "hush"})
	const want = "AUDIENCE is not set; CALLERS is empty; INBOX_SHARDS is not a valid int; INBOX_TTL is not a valid time.Duration; SECRET is not a valid int"
	if err == nil || err.Error() != want {
		t.Errorf("got  %v\nwant %s", err, want)
	}
	if strings.Contains(err.Error(), "hush") {
		t.Error("a value is in the error")
	}
}

func TestParseValidates(t *testing.T) {
	t.Parallel()
	_, err := settings.Parse[all](map[string]string{"AUDIENCE": "a", "CALLERS": "x", "INBOX_SHARDS": "31", "INBOX_TTL": "-1s"})
	if want := "INBOX_SHARDS is over 30; INBOX_TTL is not positive"; err == nil || err.Error() != want {
		t.Errorf("got  %v\nwant %s", err, want)
	}
}

func TestEmails(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		addresses []string
		ok        bool
	}{
		"none":       {nil, true},
		"two":        {[]string{"a@example.com", "b@p.iam.gserviceaccount.com"}, true},
		"space":      {[]string{"a@example.com", " b@example.com"}, false},
		"empty":      {[]string{"a@example.com", ""}, false},
		"no_address": {[]string{"anyone"}, false},
	} {
		if err := settings.Emails("READERS", test.addresses); (err == nil) != test.ok || err != nil && !strings.HasPrefix(err.Error(), "READERS ") {
			t.Errorf("%s: %v", name, err)
		}
	}
}
