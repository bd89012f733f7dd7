package firestoreinbox

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

// MaxShards is the most shards that a query can read: the limit of Firestore's
// operator in.
const MaxShards = 30

// Config is where an inbox is and how it stores messages, each field with the
// environment variable that the functions read it from.
type Config struct {
	// Project is the Google Cloud project of Firestore.
	Project string `env:"GOOGLE_CLOUD_PROJECT,required,notEmpty"`
	// Database is the Firestore database.
	Database string `env:"FIRESTORE_DATABASE,notEmpty" envDefault:"(default)"`
	// Collection is the Firestore collection of the messages.
	// Collection-chunks holds the data that does not fit their documents.
	Collection string `env:"INBOX_COLLECTION,notEmpty" envDefault:"messages"`
	// Shards is the number of index ranges that writes and lists are spread
	// over, 1 to MaxShards. Each range takes about 500 writes a second. It can
	// be raised at any time; lowering it hides messages from lists.
	Shards int `env:"INBOX_SHARDS" envDefault:"16"`
	// TTL is how long messages are stored.
	TTL time.Duration `env:"INBOX_TTL" envDefault:"720h"`
	// SearchAttributes are the names of the attributes that have an index, beside
	// inbox.AttributeReplayOf. Lists find messages by others by reading up to
	// inbox.MaxExamined messages. Only readers use it.
	SearchAttributes []string `env:"INBOX_SEARCH_ATTRIBUTES"`
	// EmulatorHost is host:port of Google's emulator, which then replaces
	// Firestore.
	EmulatorHost string `env:"FIRESTORE_EMULATOR_HOST"`
}

// Validate reports every value that cannot be right, naming its variable.
func (c Config) Validate() error {
	var errs []error
	if c.Project == "" || strings.Contains(c.Project, "/") {
		errs = append(errs, fmt.Errorf("GOOGLE_CLOUD_PROJECT %q is not a valid project ID", c.Project))
	}
	if c.Database == "" || strings.Contains(c.Database, "/") {
		errs = append(errs, fmt.Errorf("FIRESTORE_DATABASE %q is not a valid database ID, such as (default)", c.Database))
	}
	if !validCollection(c.Collection) {
		errs = append(errs, fmt.Errorf("INBOX_COLLECTION %q is not a valid collection name, such as messages", c.Collection))
	}
	if c.Shards < 1 || c.Shards > MaxShards {
		errs = append(errs, fmt.Errorf("INBOX_SHARDS is %d; it must be 1 to %d", c.Shards, MaxShards))
	}
	if c.TTL <= 0 {
		errs = append(errs, fmt.Errorf("INBOX_TTL is %v; it must be positive, such as 720h", c.TTL))
	}
	if err := validAttributes(c.SearchAttributes); err != nil {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// maxSearchAttributes is how many attributes may have an index: each is two of the
// 200 composite indexes that a database may have.
const maxSearchAttributes = 20

// validAttributes returns an error when one of the names cannot have an index. A
// single empty one is a variable that is not set.
func validAttributes(names []string) error {
	if len(names) == 1 && names[0] == "" {
		return nil
	}
	if len(names) > maxSearchAttributes {
		return fmt.Errorf("INBOX_SEARCH_ATTRIBUTES names %d attributes; name at most %d", len(names), maxSearchAttributes)
	}
	for i, name := range names {
		switch {
		case otherAttribute(name) || len(name) > 256 || !utf8.ValidString(name):
			return fmt.Errorf("INBOX_SEARCH_ATTRIBUTES names %q, which cannot have an index: a name has 1 to 256 bytes and does not begin and end with __", name)
		case slices.Contains(names[:i], name):
			return fmt.Errorf("INBOX_SEARCH_ATTRIBUTES names %q twice", name)
		}
	}
	return nil
}

var reserved = regexp.MustCompile(`^__.*__$`)

// validCollection reports whether Firestore accepts s, and s with a suffix, as
// the name of a collection.
func validCollection(s string) bool {
	return s != "" && len(s) <= 1000 && s != "." && s != ".." && utf8.ValidString(s) &&
		!strings.ContainsAny(s, "/\x00") && !reserved.MatchString(s)
}
