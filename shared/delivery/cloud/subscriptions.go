package cloud

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"sync"

	"example.com/pushinbox/shared/delivery"
	"example.com/pushinbox/shared/googleerror"
)

// subscription is what Pub/Sub says of one.
type subscription struct {
	Topic      string
	PushConfig struct{ PushEndpoint string }
	Detached   bool

	isMissing bool
	err       error
}

// fetchSubscriptions asks Pub/Sub for all subscriptions at once. Each has its own error.
func (s *Source) fetchSubscriptions(ctx context.Context) ([]subscription, error) {
	found := make([]subscription, len(s.names))
	var all sync.WaitGroup
	for i, name := range s.names {
		all.Go(func() {
			sub := &found[i]
			err := s.rest.call(ctx, http.MethodGet, "https://pubsub.googleapis.com/v1/"+strings.ReplaceAll(name, "%", "%25"), nil, sub) // of all that a name may have, only this means something in a URL
			var e *googleerror.Error
			if errors.As(err, &e) && e.Status == http.StatusNotFound {
				sub.isMissing = true
				return
			}
			sub.err = asked("Pub/Sub", name, "pubsub.subscriptions.get", "roles/pubsub.viewer", err)
		})
	}
	all.Wait()
	return found, nil
}

// describe sets state, endpoint and topic of d.
func (s *subscription) describe(d *delivery.Subscription) {
	if s.err != nil {
		return
	}
	if s.Topic != delivery.DeletedTopic {
		d.Topic = s.Topic
	}
	d.Endpoint = delivery.HideToken(s.PushConfig.PushEndpoint)
	isPushed := d.Endpoint != ""
	switch {
	case s.isMissing:
		d.State = delivery.Missing
	case s.Topic == delivery.DeletedTopic:
		d.State = delivery.TopicGone
	case s.Detached:
		d.State = delivery.Detached
	case isPushed && d.DeadLetters:
		d.State = delivery.Redriving
	case isPushed:
		d.State = delivery.Delivering
	case d.DeadLetters:
		d.State = delivery.Waiting
	default:
		d.State = delivery.Paused
	}
}
