// Package receive is the Cloud Function behind a Pub/Sub push subscription: it
// verifies that Pub/Sub sent the push and stores the message in Firestore
// before it acknowledges.
package receive

import (
	"context"
	"net/http"
	"os"

	"github.com/GoogleCloudPlatform/functions-framework-go/functions"

	"example.com/pushinbox/shared/httpapi"
	"example.com/pushinbox/shared/inbox/firestoreinbox"
	"example.com/pushinbox/shared/pushendpoint"
	"example.com/pushinbox/shared/settings"
	"example.com/pushinbox/shared/verify"
)

func init() {
	log := httpapi.NewLogger(os.Stderr)
	functions.HTTP("receive", httpapi.Function("receive", os.Getenv("FUNCTION_TARGET"), log, func(ctx context.Context) (http.Handler, error) {
		e, err := settings.Parse[pushendpoint.Environment](nil)
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
		return pushendpoint.New(e.Push, verifier, store, log)
	}))
}
