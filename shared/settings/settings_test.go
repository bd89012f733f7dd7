package settings_test

import (
	"errors"
	"maps"
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
		Project  string   `env:"GOOGLE_CLOUD_PROJECT,required"`
		Audience string   `env:"AUDIENCE"`
		Callers  []string `env:"CALLERS"`
		Secret   int      `env:"SECRET"`
		Token    string   `env:"TOKEN"`
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
	return errors.Join(append(errs,
		settings.Required("AUDIENCE", a.Own.Audience, "set it to the address"),
		settings.Required("CALLERS", strings.Join(a.Own.Callers, ","), "list who may call"),
		settings.Emails("CALLERS", a.Own.Callers...))...)
}

// good returns variables that Parse accepts, with these changes.
func good(changes map[string]string) map[string]string {
	vars := map[string]string{"GOOGLE_CLOUD_PROJECT": "p", "AUDIENCE": "https://a", "CALLERS": "x@example.com,y@example.com"}
	maps.Copy(vars, changes)
	return vars
}

func TestParse(t *testing.T) {
	t.Parallel()
	got, err := settings.Parse[all](good(map[string]string{"INBOX_SHARDS": "3"}))
	if err != nil {
		t.Fatal(err)
	}
	want := all{Shared: Shared{TTL: 720 * time.Hour, Shards: 3}}
	want.Own.Project, want.Own.Audience, want.Own.Callers, want.Own.Shards = "p", "https://a", []string{"x@example.com", "y@example.com"}, 3
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestParseNamesEveryProblemOnce(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		vars map[string]string
		want string
	}{
		"of_every_kind": {
			map[string]string{"INBOX_TTL": "30 days", "INBOX_SHARDS": "many", "CALLERS": "", "SECRET": "hush", "TOKEN": " hush"},
			"AUDIENCE is not set, or is empty: set it to the address; CALLERS is not set, or is empty: list who may call; " +
				"GOOGLE_CLOUD_PROJECT is not set, or is empty; INBOX_SHARDS is not a valid whole number, such as 16; " +
				"INBOX_TTL is not a valid duration, such as 10s, 5m or 720h; SECRET is not a valid whole number, such as 16; " +
				"TOKEN has a space before or after it: remove it",
		},
		"only_validated": {
			good(map[string]string{"INBOX_SHARDS": "31", "INBOX_TTL": "-1s"}),
			"INBOX_SHARDS is over 30; INBOX_TTL is not positive",
		},
		"malformed_and_validated": {
			good(map[string]string{"INBOX_SHARDS": "31", "INBOX_TTL": "720", "CALLERS": "user:x@example.com"}),
			`CALLERS lists "user:x@example.com", which has the prefix "user:": write "x@example.com"; INBOX_SHARDS is over 30; INBOX_TTL is not a valid duration, such as 10s, 5m or 720h`,
		},
		"two_complaints_about_one": {
			good(map[string]string{"CALLERS": "x@example.com, y@example.com"}),
			`CALLERS lists " y@example.com", which has a space before or after it: remove it`,
		},
		"space_before":       {good(map[string]string{"AUDIENCE": " https://a"}), "AUDIENCE has a space before or after it: remove it"},
		"space_after":        {good(map[string]string{"AUDIENCE": "https://a\u00a0"}), "AUDIENCE has a space before or after it: remove it"},
		"line_end":           {good(map[string]string{"TOKEN": "hush\n"}), "TOKEN has a line end or another control character: remove it"},
		"carriage_return":    {good(map[string]string{"TOKEN": "hush\r"}), "TOKEN has a line end or another control character: remove it"},
		"double_quotes":      {good(map[string]string{"TOKEN": `"hush"`}), "TOKEN has quotes around it: remove them"},
		"one_quote":          {good(map[string]string{"TOKEN": "hush'"}), "TOKEN has quotes around it: remove them"},
		"typographic_quotes": {good(map[string]string{"TOKEN": "“hush”"}), "TOKEN has quotes around it: remove them"},
		"byte_order_mark":    {good(map[string]string{"TOKEN": "\ufeffhush"}), "TOKEN has an invisible character: type it again"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := settings.Parse[all](test.vars)
			if err == nil || err.Error() != test.want {
				t.Errorf("got  %v\nwant %s", err, test.want)
			}
			if err != nil && strings.Contains(err.Error(), "hush") {
				t.Error("a value is in the error")
			}
		})
	}
}

func TestEmails(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		addresses []string
		want      string // "" when they are fine
	}{
		"none":            {nil, ""},
		"not_set":         {[]string{""}, ""},
		"two":             {[]string{"a@example.com", "b@p.iam.gserviceaccount.com"}, ""},
		"apostrophe":      {[]string{"o'neil@example.com"}, ""},
		"space":           {[]string{"a@example.com", " b@example.com"}, "has a space before or after it"},
		"space_inside":    {[]string{"a b@example.com"}, "is not a valid e-mail address"},
		"line_end":        {[]string{"a@example.com\n"}, "has a line end"},
		"quotes":          {[]string{`"a@example.com"`}, "has quotes"},
		"quoted_list":     {[]string{`"a@example.com`, `b@example.com"`}, "has quotes"},
		"empty_item":      {[]string{"a@example.com", ""}, "has an empty item"},
		"comma_alone":     {[]string{"", ""}, "has an empty item"},
		"no_address":      {[]string{"anyone"}, "is not a valid e-mail address"},
		"two_ats":         {[]string{"a@b@example.com"}, "is not a valid e-mail address"},
		"no_name":         {[]string{"@example.com"}, "is not a valid e-mail address"},
		"no_domain":       {[]string{"a@"}, "is not a valid e-mail address"},
		"capitals":        {[]string{"Ada@Example.com"}, `write "ada@example.com"`},
		"service_account": {[]string{"serviceAccount:a@example.com"}, `has the prefix "serviceAccount:": write "a@example.com"`},
		"user":            {[]string{"user:a@example.com"}, `has the prefix "user:": write "a@example.com"`},
		"group":           {[]string{"group:a@example.com"}, `has the prefix "group:"`},
		"domain":          {[]string{"domain:example.com"}, `has the prefix "domain:"`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			err := settings.Emails("READERS", test.addresses...)
			if (err == nil) != (test.want == "") || err != nil && (!strings.HasPrefix(err.Error(), "READERS ") || !strings.Contains(err.Error(), test.want)) {
				t.Errorf("got %v, want %s", err, test.want)
			}
		})
	}
}
