package publish

import (
	"errors"

	"example.com/pushinbox/shared/settings"
)

// Config is where messages go and who may send them, each field with the
// variable it is read from.
type Config struct {
	// Project is the Google Cloud project of the topic.
	Project string `env:"GOOGLE_CLOUD_PROJECT,required,notEmpty"`
	// Topic is the ID or the full name of the Pub/Sub topic.
	Topic string `env:"PUBSUB_TOPIC,required,notEmpty"`
	// Audience is the audience that callers' ID tokens must be made for.
	Audience string `env:"PUBLISH_AUDIENCE,required,notEmpty"`
	// Callers are the e-mail addresses that may publish.
	Callers []string `env:"PUBLISH_CALLERS,required,notEmpty"`
}

// Validate reports every value that cannot be right, naming its variable.
func (c Config) Validate() error {
	var errs []error
	if c.Audience == "" {
		errs = append(errs, errors.New("PUBLISH_AUDIENCE is empty; set it to this function's address"))
	}
	if len(c.Callers) == 0 {
		errs = append(errs, errors.New("PUBLISH_CALLERS is empty; list the e-mail addresses that may publish, separated by commas"))
	}
	errs = append(errs, settings.Emails("PUBLISH_CALLERS", c.Callers))
	return errors.Join(errs...)
}
