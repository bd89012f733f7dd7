package mns

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"example.com/pushinbox/shared/inbox/firestoreinbox"
	"example.com/pushinbox/shared/mns"
	"example.com/pushinbox/shared/settings"
)

// environment is what the function reads from its environment.
type environment struct {
	firestoreinbox.Config
	MNS Config
}

// Validate reports every value that cannot be right.
func (e environment) Validate() error {
	return errors.Join(settings.Project(e.Config.Project), e.Config.Validate(), e.MNS.Validate())
}

// Config is whose pushes are accepted, each field with the variable it is read
// from.
type Config struct {
	// Project is the Google Cloud project that the log's traces belong to.
	Project string `env:"GOOGLE_CLOUD_PROJECT"`
	// Owners are the IDs of the Alibaba Cloud accounts whose topics may push.
	// MNS signs the pushes of every account.
	Owners []string `env:"MNS_TOPIC_OWNERS"`
	// Topics and Subscriptions are the names that may push; empty means all of
	// the owners'.
	Topics        []string `env:"MNS_TOPICS"`
	Subscriptions []string `env:"MNS_SUBSCRIPTIONS"`
	// Pins are the SHA-256 digests, in hex, of the signing certificates (as DER)
	// that are trusted; empty means any that MNS's own addresses have.
	Pins []string `env:"MNS_CERTIFICATE_PINS"`
	// Secret, when set, must be the last segment of the endpoint's path or its
	// ?token= too. The known certificate's key has 512 bits, so that a signature
	// alone is weak evidence.
	Secret string `env:"MNS_SECRET"`
	// Body is what publishers do to the bodies of messages, raw or base64, for each
	// topic or subscription: raw,TOPIC=base64,TOPIC/SUBSCRIPTION=raw.
	Body mns.Encodings `env:"MNS_BODY" envDefault:"raw"`
}

var (
	// Characters that no proxy rewrites: MNS signs the path as it sends it.
	secretForm = regexp.MustCompile(`^[A-Za-z0-9._~-]{16,128}$`)
	pinForm    = regexp.MustCompile(`^[0-9A-Fa-f]{64}$`)
)

// Validate reports every value that cannot be right, naming its variable.
func (c Config) Validate() error {
	errs := []error{
		settings.Required("MNS_TOPIC_OWNERS", strings.Join(c.Owners, ","), "set it to the ID of the Alibaba Cloud account that owns the topics"),
		names("MNS_TOPIC_OWNERS", c.Owners), names("MNS_TOPICS", c.Topics), names("MNS_SUBSCRIPTIONS", c.Subscriptions),
	}
	if slices.ContainsFunc(c.Pins, func(pin string) bool { return !pinForm.MatchString(pin) }) {
		errs = append(errs, errors.New("MNS_CERTIFICATE_PINS has an item that is not a SHA-256 digest of 64 hex digits"))
	}
	if c.Secret != "" && !secretForm.MatchString(c.Secret) {
		errs = append(errs, errors.New("MNS_SECRET is not 16 to 128 letters, digits and -._~: create one with openssl rand -hex 32"))
	}
	for name := range c.Body {
		topic, subscription, _ := strings.Cut(name, "/")
		if topic != "" && len(c.Topics) > 0 && !slices.Contains(c.Topics, topic) ||
			subscription != "" && len(c.Subscriptions) > 0 && !slices.Contains(c.Subscriptions, subscription) {
			errs = append(errs, fmt.Errorf("MNS_BODY names %q, which may not push here: see MNS_TOPICS, MNS_SUBSCRIPTIONS", name))
		}
	}
	return errors.Join(errs...)
}

// names reports a list of names with one that MNS does not allow.
func names(variable string, names []string) error {
	if slices.ContainsFunc(names, func(name string) bool { return name == "" || strings.ContainsAny(name, " \t/") }) {
		return errors.New(variable + " has an empty name, or one with a space or a slash: separate names with commas alone")
	}
	return nil
}
