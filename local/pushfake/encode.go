package pushfake

import (
	"net/http"

	"cloud.google.com/go/pubsub/v2/apiv1/pubsubpb"
)

// Encode returns the headers, but for the credential, and the body with which a
// subscription of these settings pushes a message. An attempt of 0 leaves the delivery
// attempt out.
func Encode(s *pubsubpb.Subscription, m *pubsubpb.PubsubMessage, attempt int) (http.Header, []byte) {
	e := encoding{
		subscription: s.Name,
		userAgent:    defaultAgent,
		unwrapped:    s.PushConfig.GetNoWrapper() != nil,
		metadata:     s.PushConfig.GetNoWrapper().GetWriteMetadata(),
		attempts:     attempt > 0,
	}
	return e.encode(m, attempt)
}
