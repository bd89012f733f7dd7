// Package console is the Cloud Function through which people and programs read
// the inbox: lists, single messages, a live tail, and publishing and replaying
// for those who may.
package console

import (
	"context"
	"net/http"
	"os"

	"github.com/GoogleCloudPlatform/functions-framework-go/functions"

	"example.com/pushinbox/shared/delivery"
	"example.com/pushinbox/shared/delivery/cloud"
	"example.com/pushinbox/shared/delivery/firestorerecords"
	"example.com/pushinbox/shared/httpapi"
	"example.com/pushinbox/shared/inbox/firestoreinbox"
	"example.com/pushinbox/shared/publisher"
	"example.com/pushinbox/shared/settings"
	"example.com/pushinbox/shared/verify"
)

func init() {
	log := httpapi.NewLogger(os.Stderr)
	functions.HTTP("console", httpapi.Function("console", os.Getenv("FUNCTION_TARGET"), log, func(ctx context.Context) (http.Handler, error) {
		e, err := settings.Parse[environment](nil)
		if err != nil {
			return nil, err
		}
		verifier, err := verify.New(nil)
		if err != nil {
			return nil, err
		}
		store, err := firestoreinbox.Open(ctx, e.Config)
		if err != nil {
			return nil, err
		}
		topic, err := publisher.Open(ctx, e.Console.Project, e.Console.Topic)
		if err != nil {
			return nil, err
		}
		source, err := openDelivery(ctx, e)
		if err != nil {
			return nil, err
		}
		return New(e.Console, verifier, store, topic, source, log)
	}))
}

// openDelivery returns the source that tells of the delivery, or nil where no push
// subscription is named. Nothing is asked before somebody looks.
func openDelivery(ctx context.Context, e environment) (delivery.Source, error) {
	c := cloud.Config{Subscriptions: e.Console.Deliveries, DeadLetters: e.Console.DeadLetters, LogView: e.Console.DeliveryLogView}
	if len(c.Subscriptions) == 0 {
		return nil, nil
	}
	records, err := firestorerecords.Open(ctx, e.Config)
	if err != nil {
		return nil, err
	}
	return cloud.New(c, records, nil)
}
