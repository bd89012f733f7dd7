// Package publish is the Cloud Function that publishes messages to the topic
// for callers with a Google ID token.
package publish

import (
	"context"
	"net/http"
	"os"

	"github.com/GoogleCloudPlatform/functions-framework-go/functions"

	"example.com/pushinbox/shared/httpapi"
	"example.com/pushinbox/shared/publisher"
	"example.com/pushinbox/shared/settings"
	"example.com/pushinbox/shared/verify"
)

func init() {
	log := httpapi.NewLogger(os.Stderr)
	functions.HTTP("publish", httpapi.Function("publish", os.Getenv("FUNCTION_TARGET"), log, func(ctx context.Context) (http.Handler, error) {
		e, err := settings.Parse[environment](nil)
		if err != nil {
			return nil, err
		}
		verifier, err := verify.New(nil)
		if err != nil {
			return nil, err
		}
		topic, err := publisher.Open(ctx, e.Project, e.Topic)
		if err != nil {
			return nil, err
		}
		return New(e.Config, verifier, topic, log)
	}))
}
