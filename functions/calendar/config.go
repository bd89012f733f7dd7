package calendar

import (
	"errors"
	"net/url"
	"regexp"
	"strings"

	"example.com/pushinbox/shared/calendar/firestorestate"
	"example.com/pushinbox/shared/inbox/firestoreinbox"
	"example.com/pushinbox/shared/settings"
)

// environment is what the function reads from its environment.
type environment struct {
	firestoreinbox.Config
	State    firestorestate.Config
	Calendar Config
}

// Validate reports every value that cannot be right.
func (e environment) Validate() error {
	return errors.Join(settings.Project(e.Calendar.Project),
		settings.Required("CALENDAR_SYNC_TOPIC", e.Calendar.SyncTopic, "set it to the ID or the full name of the topic whose messages are pushed to /sync"),
		e.Config.Validate(), e.State.Validate(), e.Calendar.Validate())
}

// Config is who may do what and where notifications go, each field with the
// variable it is read from.
type Config struct {
	// Project is the Google Cloud project of the topic.
	Project string `env:"GOOGLE_CLOUD_PROJECT"`
	// Address is where Google sends notifications: the https URL of this
	// function with /notifications after it.
	Address string `env:"CALENDAR_ADDRESS"`
	// Audience is the audience that operators' ID tokens must name.
	Audience string `env:"CALENDAR_AUDIENCE"`
	// Operators are the e-mail addresses that may watch, stop, renew, sync and
	// list: Cloud Scheduler's account, the one that signs the pushes to /sync,
	// and people.
	Operators []string `env:"CALENDAR_OPERATORS"`
	// SyncTopic is the ID or the full name of the Pub/Sub topic whose messages
	// are pushed to /sync.
	SyncTopic string `env:"CALENDAR_SYNC_TOPIC"`
	// Subject is the user whose calendars are read, by domain-wide delegation;
	// empty reads those that are shared with the function's own account.
	Subject string `env:"CALENDAR_SUBJECT"`
	// SiteVerification is the name of the file, such as google0123456789abcdef.html,
	// by which Google sees whose site this is; empty for none.
	SiteVerification string `env:"CALENDAR_SITE_VERIFICATION"`
}

var siteVerification = regexp.MustCompile(`^google[0-9a-f]{1,64}\.html$`)

// Validate reports every value that cannot be right, naming its variable.
func (c Config) Validate() error {
	errs := []error{
		settings.Required("CALENDAR_ADDRESS", c.Address, "set it to this function's https URL with "+pathNotifications+" after it"),
		settings.Required("CALENDAR_AUDIENCE", c.Audience, "set it to this function's address"),
		settings.Required("CALENDAR_OPERATORS", strings.Join(c.Operators, ","), "list the e-mail addresses that may watch a calendar and sync it, separated by commas"),
		settings.Emails("CALENDAR_OPERATORS", c.Operators...),
		settings.Emails("CALENDAR_SUBJECT", c.Subject),
	}
	if u, err := url.Parse(c.Address); err != nil || u.Scheme != "https" || u.Host == "" || !strings.HasSuffix(u.Path, pathNotifications) {
		errs = append(errs, errors.New("CALENDAR_ADDRESS is not an https URL that ends in "+pathNotifications))
	}
	if c.SiteVerification != "" && !siteVerification.MatchString(c.SiteVerification) {
		errs = append(errs, errors.New("CALENDAR_SITE_VERIFICATION is not the name of Google's file, such as google0123456789abcdef.html"))
	}
	return errors.Join(errs...)
}
