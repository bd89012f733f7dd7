package pushendpoint

import (
	"errors"
	"fmt"
	"time"

	"example.com/pushinbox/shared/inbox/firestoreinbox"
	"example.com/pushinbox/shared/settings"
)

// Environment is what a function with a push endpoint reads from its environment.
type Environment struct {
	firestoreinbox.Config
	Push Config
}

// Validate reports every value that cannot be right.
func (e Environment) Validate() error {
	return errors.Join(settings.Project(e.Config.Project), e.Config.Validate(), e.Push.Validate())
}

// DefaultAckDeadline is how long Pub/Sub waits for an answer to a push when
// the subscription does not say it.
const DefaultAckDeadline = 10 * time.Second

// The ack deadlines that Pub/Sub allows.
const (
	minAckDeadline = 10 * time.Second
	maxAckDeadline = 600 * time.Second
)

// Config is whose pushes are accepted, each field with the variable it is read
// from.
type Config struct {
	// Project is the Google Cloud project that the log's traces belong to.
	Project string `env:"GOOGLE_CLOUD_PROJECT"`
	// Audience is the audience of the push subscription's token.
	Audience string `env:"PUSH_AUDIENCE"`
	// ServiceAccount is the e-mail of the account that signs the pushes.
	ServiceAccount string `env:"PUSH_SERVICE_ACCOUNT"`
	// VerificationToken, when set, must be the endpoint's ?token= too.
	VerificationToken string `env:"PUBSUB_VERIFICATION_TOKEN"`
	// AckDeadline is how long Pub/Sub waits for an answer: the shortest ack
	// deadline of the subscriptions that push here.
	AckDeadline time.Duration `env:"PUSH_ACK_DEADLINE" envDefault:"10s"`
}

// Validate reports every value that cannot be right, naming its variable.
func (c Config) Validate() error {
	var deadline error
	if c.AckDeadline < minAckDeadline || c.AckDeadline > maxAckDeadline {
		deadline = fmt.Errorf("PUSH_ACK_DEADLINE is %v; it must be 10s to 600s, Pub/Sub's limits", c.AckDeadline)
	}
	return errors.Join(
		settings.Required("PUSH_AUDIENCE", c.Audience, "set it to the audience of the push subscription"),
		settings.Required("PUSH_SERVICE_ACCOUNT", c.ServiceAccount, "set it to the e-mail address of the account that signs the pushes"),
		settings.Emails("PUSH_SERVICE_ACCOUNT", c.ServiceAccount),
		deadline,
	)
}
