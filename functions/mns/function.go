// Package mns is the Cloud Function behind an HttpEndpoint subscription of
// Alibaba Cloud MNS (SMQ): it verifies that MNS sent the push, for a topic of
// ours, and stores the message in Firestore before it answers.
package mns

import (
	"context"
	"net/http"
	"os"

	"github.com/GoogleCloudPlatform/functions-framework-go/functions"

	"example.com/pushinbox/shared/httpapi"
	"example.com/pushinbox/shared/inbox/firestoreinbox"
	"example.com/pushinbox/shared/mns"
	"example.com/pushinbox/shared/settings"
)

func init() {
	log := httpapi.NewLogger(os.Stderr)
	functions.HTTP("mns", httpapi.Function("mns", os.Getenv("FUNCTION_TARGET"), log, func(ctx context.Context) (http.Handler, error) {
		e, err := settings.Parse[environment](nil)
		if err != nil {
			return nil, err
		}
		verifier, err := mns.NewVerifier(&mns.VerifierOptions{Pins: e.MNS.Pins})
		if err != nil {
			return nil, err
		}
		store, err := firestoreinbox.Open(ctx, e.Config)
		if err != nil {
			return nil, err
		}
		return New(e.MNS, verifier, store, log)
	}))
}
