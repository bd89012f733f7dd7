package console

import (
	"errors"
	"fmt"
	"regexp"
	"strings"

	"example.com/pushinbox/shared/inbox/firestoreinbox"
	"example.com/pushinbox/shared/settings"
)

// environment is what the function reads from its environment.
type environment struct {
	firestoreinbox.Config
	Console Config
}

// Validate reports every value that cannot be right.
func (e environment) Validate() error {
	return errors.Join(settings.Project(e.Console.Project), settings.Required("PUBSUB_TOPIC", e.Console.Topic, "set it to the topic's ID or full name"),
		e.Config.Validate(), e.Console.Validate())
}

// Config is who may read and publish, and where messages are published, each
// field with the variable it is read from.
type Config struct {
	// Project is the Google Cloud project of the topic.
	Project string `env:"GOOGLE_CLOUD_PROJECT"`
	// Topic is the ID or the full name of the Pub/Sub topic.
	Topic string `env:"PUBSUB_TOPIC"`
	// Audience is the audience that readers' ID tokens must name.
	Audience string `env:"CONSOLE_AUDIENCE"`
	// Readers are the e-mail addresses that may read with an ID token.
	Readers []string `env:"CONSOLE_READERS"`
	// Publishers are the e-mail addresses that may publish and replay, of those
	// that may read. Without any, all of Readers may, and nobody else: a visitor
	// of the Identity-Aware Proxy then only reads.
	Publishers []string `env:"CONSOLE_PUBLISHERS"`
	// IAPAudience is the audience of the assertions of the Identity-Aware
	// Proxy in front, which then says who may read.
	IAPAudience string `env:"IAP_AUDIENCE"`
	// SearchAttributes are the keys of the attributes that have an index. The list
	// has a column for each of the first three.
	SearchAttributes []string `env:"INBOX_SEARCH_ATTRIBUTES"`
	// Deliveries are the full names of the push subscriptions of which /delivery tells;
	// without one it says how to switch it on. DeadLetters is that of the subscription
	// that keeps their dead letters, by which messages are known as such.
	Deliveries  []string `env:"DELIVERY_SUBSCRIPTIONS"`
	DeadLetters string   `env:"DEAD_LETTER_SUBSCRIPTION"`
	// DeliveryLogView is the full name of the log view that has receive's lines and
	// nothing else; without it refusals are not told.
	DeliveryLogView string `env:"DELIVERY_LOG_VIEW"`
	// IsLocal says that this is pushinbox local, whose own issuer signs pushes in
	// place of Google. No variable sets it.
	IsLocal bool
	// LocalData is the data directory of that one, where commands do not find it
	// without being told. No variable sets it.
	LocalData string
}

// The forms of full names.
var (
	subscriptionName = regexp.MustCompile(`^projects/[^/?#%]+/subscriptions/[^/?#]+$`)
	logViewName      = regexp.MustCompile(`^projects/[^/?#%]+/locations/[^/?#%]+/buckets/[^/?#%]+/views/[^/?#%]+$`)
)

// fullNames returns an error when one of the names is not of the form.
func fullNames(variable string, form *regexp.Regexp, like string, names ...string) error {
	for _, name := range names {
		if name != "" && !form.MatchString(name) {
			return fmt.Errorf("%s has %q, which is not a full name: write %s", variable, name, like)
		}
	}
	return nil
}

// Validate reports every value that cannot be right, naming its variable.
func (c Config) Validate() error {
	const together = "CONSOLE_AUDIENCE and CONSOLE_READERS go together, set both or neither"
	readers := strings.Join(c.Readers, ",")
	errs := []error{
		settings.Emails("CONSOLE_READERS", c.Readers...),
		settings.Emails("CONSOLE_PUBLISHERS", c.Publishers...),
		fullNames("DELIVERY_SUBSCRIPTIONS", subscriptionName, "projects/PROJECT/subscriptions/SUBSCRIPTION", c.Deliveries...),
		fullNames("DEAD_LETTER_SUBSCRIPTION", subscriptionName, "projects/PROJECT/subscriptions/SUBSCRIPTION", c.DeadLetters),
		fullNames("DELIVERY_LOG_VIEW", logViewName, "projects/PROJECT/locations/LOCATION/buckets/BUCKET/views/VIEW", c.DeliveryLogView),
	}
	switch {
	case c.Audience != "":
		errs = append(errs, settings.Required("CONSOLE_READERS", readers, together))
	case readers != "":
		errs = append(errs, settings.Required("CONSOLE_AUDIENCE", c.Audience, together))
	default:
		errs = append(errs, settings.Required("IAP_AUDIENCE", c.IAPAudience, "set it, or set CONSOLE_AUDIENCE and CONSOLE_READERS, so that somebody may read"))
	}
	return errors.Join(errs...)
}
