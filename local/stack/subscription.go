package stack

import (
	"fmt"
	"strings"
	"time"

	"cloud.google.com/go/pubsub/v2/apiv1/pubsubpb"
	"google.golang.org/protobuf/types/known/durationpb"
)

// TerraformDefaults returns a subscription with the defaults of
// terraform/variables.tf, so that a local run delivers as the deployed
// subscription does. A test compares the two.
func TerraformDefaults() *pubsubpb.Subscription {
	return &pubsubpb.Subscription{
		AckDeadlineSeconds: 60,
		RetryPolicy:        RetryPolicy(10*time.Second, 600*time.Second),
		DeadLetterPolicy:   &pubsubpb.DeadLetterPolicy{MaxDeliveryAttempts: 100},
	}
}

// calendarSync returns a subscription with the settings in terraform/calendar.tf.
func calendarSync() *pubsubpb.Subscription {
	return &pubsubpb.Subscription{AckDeadlineSeconds: 600, RetryPolicy: RetryPolicy(5*time.Second, 120*time.Second)}
}

// RetryPolicy says how long after a failed push the message is pushed again, at
// first and at most.
func RetryPolicy(minimum, maximum time.Duration) *pubsubpb.RetryPolicy {
	return &pubsubpb.RetryPolicy{MinimumBackoff: durationpb.New(minimum), MaximumBackoff: durationpb.New(maximum)}
}

// Describe returns the settings of a subscription in one line, for people.
func Describe(sub *pubsubpb.Subscription) string {
	deadLetters, ordering := "no dead letters", "off"
	if p := sub.DeadLetterPolicy; p != nil {
		deadLetters = fmt.Sprintf("dead letters after %d attempts", p.MaxDeliveryAttempts)
	}
	if sub.EnableMessageOrdering {
		ordering = "on"
	}
	return fmt.Sprintf("ack deadline %ds, retries after %s to %s, %s, ordering %s", sub.AckDeadlineSeconds,
		short(sub.RetryPolicy.GetMinimumBackoff()), short(sub.RetryPolicy.GetMaximumBackoff()), deadLetters, ordering)
}

// short returns d as "10m" where Duration.String has "10m0s".
func short(d *durationpb.Duration) string {
	s := d.AsDuration().String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	return s
}
