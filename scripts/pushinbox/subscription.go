package main

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"cloud.google.com/go/pubsub/v2/apiv1/pubsubpb"
	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/durationpb"
)

// pushSettings are those of a push subscription that decide how a message is
// delivered.
type pushSettings struct {
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

// terraformDefaults are those of terraform/variables.tf, so that a local run
// delivers as the deployed subscription does. A test compares the two.
var terraformDefaults = pushSettings{
	AckDeadline: 60 * time.Second,
	MinBackoff:  10 * time.Second,
	MaxBackoff:  600 * time.Second,
	MaxAttempts: 100,
	Ordering:    false,
}

// calendarSync are the settings of the subscription in terraform/calendar.tf.
var calendarSync = pushSettings{
	AckDeadline: 600 * time.Second,
	MinBackoff:  5 * time.Second,
	MaxBackoff:  120 * time.Second,
}

// settingsOf returns the settings of a subscription.
func settingsOf(sub *pubsubpb.Subscription) pushSettings {
	return pushSettings{
		AckDeadline: time.Duration(sub.AckDeadlineSeconds) * time.Second,
		MinBackoff:  sub.GetRetryPolicy().GetMinimumBackoff().AsDuration(),
		MaxBackoff:  sub.GetRetryPolicy().GetMaximumBackoff().AsDuration(),
		MaxAttempts: int(sub.GetDeadLetterPolicy().GetMaxDeliveryAttempts()),
		Ordering:    sub.EnableMessageOrdering,
	}
}

// subscription returns a subscription with these settings.
func (p pushSettings) subscription(topic, name string, push *pubsubpb.PushConfig) *pubsubpb.Subscription {
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
func (p pushSettings) String() string {
	deadLetters := "no dead letters"
	if p.MaxAttempts > 0 {
		deadLetters = fmt.Sprintf("dead letters after %d attempts", p.MaxAttempts)
	}
	ordering := "off"
	if p.Ordering {
		ordering = "on"
	}
	return fmt.Sprintf("ack deadline %ds, retries after %s to %s, %s, ordering %s",
		p.AckDeadline/time.Second, short(p.MinBackoff), short(p.MaxBackoff), deadLetters, ordering)
}

// short returns d without the zeros that Duration.String ends with: "10m" and
// not "10m0s".
func short(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	return s
}

// flags lets a call choose the settings. Each refusal names what is allowed.
func (p *pushSettings) flags(cmd *cobra.Command) {
	cmd.Flags().Var(&ranged{p.attempts, p.setAttempts, "N"}, "max-attempts", "after how many failed pushes a message is a dead letter, 5 to 100")
	cmd.Flags().Var(&ranged{p.backoff, p.setBackoff, "MIN,MAX"}, "retry-backoff", "how long after a failed push a message is pushed again, at first and at most, 0s to 600s")
	cmd.Flags().Var(&ranged{p.deadline, p.setDeadline, "DURATION"}, "ack-deadline", "how long an answer to a push may take, 10s to 600s")
	cmd.Flags().BoolVar(&p.Ordering, "ordering", p.Ordering, "push the messages of an ordering key one at a time and in order")
}

func (p *pushSettings) attempts() string { return strconv.Itoa(p.MaxAttempts) }

func (p *pushSettings) setAttempts(s string) error {
	n, err := strconv.Atoi(s)
	if err != nil || n < 5 || n > 100 {
		return errors.New("it must be 5 to 100, Pub/Sub's limits")
	}
	p.MaxAttempts = n
	return nil
}

func (p *pushSettings) backoff() string { return short(p.MinBackoff) + "," + short(p.MaxBackoff) }

func (p *pushSettings) setBackoff(s string) error {
	first, second, _ := strings.Cut(s, ",")
	least, err := time.ParseDuration(first)
	most, err2 := time.ParseDuration(second)
	if errors.Join(err, err2) != nil || least < 0 || most > 600*time.Second || least > most {
		return errors.New("it must be two durations of 0s to 600s, Pub/Sub's limits, the lower one first, such as 1s,5s")
	}
	p.MinBackoff, p.MaxBackoff = least, most
	return nil
}

func (p *pushSettings) deadline() string { return fmt.Sprintf("%ds", p.AckDeadline/time.Second) }

func (p *pushSettings) setDeadline(s string) error {
	d, err := time.ParseDuration(s)
	if err != nil || d < 10*time.Second || d > 600*time.Second || d%time.Second != 0 {
		return errors.New("it must be 10s to 600s in whole seconds, Pub/Sub's limits")
	}
	p.AckDeadline = d
	return nil
}

// ranged is the value of a flag whose refusals say what is allowed.
type ranged struct {
	get  func() string
	set  func(string) error
	kind string
}

// String, Set and Type make it a flag's value.
func (r *ranged) String() string {
	if r.get == nil {
		return "" // cobra asks a zero value, too
	}
	return r.get()
}

func (r *ranged) Set(s string) error { return r.set(s) }

func (r *ranged) Type() string { return r.kind }
