package firestoreinbox

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Config is what Open needs, each field with the environment variable that
// the functions read it from.
type Config struct {
	// Project is the Google Cloud project of Firestore.
	Project string `env:"GOOGLE_CLOUD_PROJECT,required,notEmpty"`
	// Database is the Firestore database.
	Database string `env:"FIRESTORE_DATABASE,notEmpty" envDefault:"(default)"`
	// Collection is the Firestore collection of the messages.
	Collection string `env:"INBOX_COLLECTION,notEmpty" envDefault:"messages"`
	// Shards is how many shards writes and lists are spread over, 1 to
	// MaxShards. It can be raised later, never lowered.
	Shards int `env:"INBOX_SHARDS" envDefault:"16"`
	// TTL is how long messages are kept.
	TTL time.Duration `env:"INBOX_TTL" envDefault:"720h"`
	// EmulatorHost is host:port of Google's emulator, to be used instead of
	// Firestore.
	EmulatorHost string `env:"FIRESTORE_EMULATOR_HOST"`
}

// Validate reports every value that cannot be right, naming its variable.
func (c Config) Validate() error {
	var errs []error
	if c.Shards < 1 || c.Shards > MaxShards {
		errs = append(errs, fmt.Errorf("INBOX_SHARDS is %d; it must be 1 to %d", c.Shards, MaxShards))
	}
	if c.TTL <= 0 {
		errs = append(errs, fmt.Errorf("INBOX_TTL is %v; it must be positive, such as 720h", c.TTL))
	}
	return errors.Join(errs...)
}

// Open connects to Firestore, or to its emulator when FIRESTORE_EMULATOR_HOST
// is set, and returns the inbox there. Closing the inbox closes the connection.
func Open(ctx context.Context, c Config) (*Inbox, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	return New(ctx, c.Project, c.Database, &Options{
		Collection:   c.Collection,
		Shards:       c.Shards,
		TTL:          c.TTL,
		EmulatorHost: c.EmulatorHost,
	})
}
