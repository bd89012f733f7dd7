package publish

import (
	"errors"
	"strings"

	"example.com/pushinbox/shared/settings"
)

// environment is what the function reads from its environment.
type environment struct{ Config }

// Validate reports every value that cannot be right, naming its variable.
func (e environment) Validate() error {
	return errors.Join(settings.Project(e.Project), settings.Required("PUBSUB_TOPIC", e.Topic, "set it to the topic's ID or full name"), e.Config.Validate())
}

// Config is where messages go and who may send them, each field with the
// variable it is read from.
type Config struct {
	// Project is the Google Cloud project of the topic.
	Project string `env:"GOOGLE_CLOUD_PROJECT"`
	// Topic is the ID or the full name of the Pub/Sub topic.
	Topic string `env:"PUBSUB_TOPIC"`
	// Audience is the audience that callers' ID tokens must name.
	Audience string `env:"PUBLISH_AUDIENCE"`
	// Callers are the e-mail addresses that may publish.
	Callers []string `env:"PUBLISH_CALLERS"`
}

// Validate reports every value that cannot be right, naming its variable.
func (c Config) Validate() error {
	return errors.Join(
		settings.Required("PUBLISH_AUDIENCE", c.Audience, "set it to this function's address"),
		settings.Required("PUBLISH_CALLERS", strings.Join(c.Callers, ","), "list the e-mail addresses that may publish, separated by commas"),
		settings.Emails("PUBLISH_CALLERS", c.Callers...),
	)
}
