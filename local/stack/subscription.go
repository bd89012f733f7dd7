package stack

import (
	"fmt"
	"strings"
	"time"

	"cloud.google.com/go/pubsub/v2/apiv1/pubsubpb"
	"google.golang.org/protobuf/types/known/durationpb"
)

// PushSettings are those of a push subscription that decide how a message is
// delivered.
type PushSettings struct {
	// AckDeadline is how long an answer may take, 10 to 600 whole seconds.
	AckDeadline time.Duration
	// MinBackoff and MaxBackoff are how long after a failed push the message is
	// pushed again, at first and at most: 0 to 600 s.
	MinBackoff, MaxBackoff time.Duration
	// MaxAttempts is after how many failed pushes a message goes to the
	// dead-letter topic, 5 to 100; 0 where there is no such topic.
	MaxAttempts int
	// Ordering says that the messages of an ordering key are pushed one at a
	// time and in order.
	Ordering bool
}

// TerraformDefaults are those of terraform/variables.tf, so that a local run
// delivers as the deployed subscription does. A test compares the two.
var TerraformDefaults = PushSettings{
	AckDeadline: 60 * time.Second,
	MinBackoff:  10 * time.Second,
	MaxBackoff:  600 * time.Second,
	MaxAttempts: 100,
	Ordering:    false,
}

// calendarSync are the settings of the subscription in terraform/calendar.tf.
var calendarSync = PushSettings{
	AckDeadline: 600 * time.Second,
	MinBackoff:  5 * time.Second,
	MaxBackoff:  120 * time.Second,
}

// settingsOf returns the settings of a subscription.
func settingsOf(sub *pubsubpb.Subscription) PushSettings {
	return PushSettings{
		AckDeadline: time.Duration(sub.AckDeadlineSeconds) * time.Second,
		MinBackoff:  sub.GetRetryPolicy().GetMinimumBackoff().AsDuration(),
		MaxBackoff:  sub.GetRetryPolicy().GetMaximumBackoff().AsDuration(),
		MaxAttempts: int(sub.GetDeadLetterPolicy().GetMaxDeliveryAttempts()),
		Ordering:    sub.EnableMessageOrdering,
	}
}

// subscription returns a subscription with these settings.
func (p PushSettings) subscription(topic, name string, push *pubsubpb.PushConfig) *pubsubpb.Subscription {
	sub := &pubsubpb.Subscription{
		Topic:                 topic,
		Name:                  name,
		PushConfig:            push,
		AckDeadlineSeconds:    int32(p.AckDeadline / time.Second),
		EnableMessageOrdering: p.Ordering,
		RetryPolicy: &pubsubpb.RetryPolicy{
			MinimumBackoff: durationpb.New(p.MinBackoff), MaximumBackoff: durationpb.New(p.MaxBackoff),
		},
	}
	if p.MaxAttempts > 0 {
		sub.DeadLetterPolicy = &pubsubpb.DeadLetterPolicy{MaxDeliveryAttempts: int32(p.MaxAttempts)}
	}
	return sub
}

// String returns the settings in one line, for people.
func (p PushSettings) String() string {
	deadLetters := "no dead letters"
	if p.MaxAttempts > 0 {
		deadLetters = fmt.Sprintf("dead letters after %d attempts", p.MaxAttempts)
	}
	ordering := "off"
	if p.Ordering {
		ordering = "on"
	}
	return fmt.Sprintf("ack deadline %ds, retries after %s to %s, %s, ordering %s",
		p.AckDeadline/time.Second, Short(p.MinBackoff), Short(p.MaxBackoff), deadLetters, ordering)
}

// Short returns d without the zeros that Duration.String ends with: "10m" and
// not "10m0s".
func Short(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	return s
}

// signedPush has pushes signed by the push account.
func signedPush(audience string) *pubsubpb.PushConfig {
	return &pubsubpb.PushConfig{AuthenticationMethod: &pubsubpb.PushConfig_OidcToken_{
		OidcToken: &pubsubpb.PushConfig_OidcToken{ServiceAccountEmail: PushAccount, Audience: audience},
	}}
}
