package pushfake

import (
	"context"
	"strconv"
	"strings"
	"time"

	"cloud.google.com/go/pubsub/v2/apiv1/pubsubpb"
	"google.golang.org/grpc"
)

// messageIDs gives the messages of pstest, which calls them m0, m1 and so on
// in every run, IDs as Pub/Sub gives them: numbers that no other run repeats.
// To an inbox that outlives the run the first message of the next one would
// otherwise be a redelivery.
type messageIDs struct{ first int64 }

func newMessageIDs() messageIDs { return messageIDs{time.Now().UnixMicro()} }

func (m messageIDs) of(id string) string {
	n, err := strconv.ParseInt(strings.TrimPrefix(id, "m"), 10, 64)
	if err != nil {
		return id
	}
	return strconv.FormatInt(m.first+n, 10)
}

// received returns messages under their new IDs. The given ones are pstest's
// own and stay as they are.
func (m messageIDs) received(messages []*pubsubpb.ReceivedMessage) []*pubsubpb.ReceivedMessage {
	renamed := make([]*pubsubpb.ReceivedMessage, len(messages))
	for i, r := range messages {
		renamed[i] = &pubsubpb.ReceivedMessage{
			AckId:           r.AckId,
			DeliveryAttempt: r.DeliveryAttempt,
			Message: &pubsubpb.PubsubMessage{
				MessageId:   m.of(r.Message.MessageId),
				Data:        r.Message.Data,
				Attributes:  r.Message.Attributes,
				PublishTime: r.Message.PublishTime,
				OrderingKey: r.Message.OrderingKey,
			},
		}
	}
	return renamed
}

// unary renames in the answers to Publish and Pull.
func (m messageIDs) unary(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (any, error) {
	answer, err := handle(ctx, req)
	switch a := answer.(type) {
	case *pubsubpb.PublishResponse:
		if a != nil {
			for i, id := range a.MessageIds {
				a.MessageIds[i] = m.of(id)
			}
		}
	case *pubsubpb.PullResponse:
		if a != nil {
			answer = &pubsubpb.PullResponse{ReceivedMessages: m.received(a.ReceivedMessages)}
		}
	}
	return answer, err
}

// stream renames in the answers to StreamingPull.
func (m messageIDs) stream(server any, s grpc.ServerStream, _ *grpc.StreamServerInfo, handle grpc.StreamHandler) error {
	return handle(server, renamingStream{s, m})
}

type renamingStream struct {
	grpc.ServerStream
	ids messageIDs
}

// SendMsg sends m under the new IDs.
func (s renamingStream) SendMsg(m any) error {
	if a, ok := m.(*pubsubpb.StreamingPullResponse); ok {
		m = &pubsubpb.StreamingPullResponse{
			ReceivedMessages:       s.ids.received(a.ReceivedMessages),
			SubscriptionProperties: a.SubscriptionProperties,
		}
	}
	return s.ServerStream.SendMsg(m)
}
