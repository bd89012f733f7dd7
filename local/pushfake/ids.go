package pushfake

import (
	"strconv"
	"strings"

	"cloud.google.com/go/pubsub/v2/apiv1/pubsubpb"
)

// messageIDs gives the messages of one run of Google's emulator, which numbers them
// from 1 in every run, IDs that no other run repeats. To an inbox that outlives the
// run the first message of the next one would otherwise be a redelivery.
type messageIDs struct{ first int64 }

func (m messageIDs) of(id string) string {
	n, err := strconv.ParseInt(strings.TrimPrefix(id, "m"), 10, 64) // pstest writes m0
	if err != nil {
		return id
	}
	return strconv.FormatInt(m.first+n, 10)
}

// received returns messages under their new IDs. The given ones stay as they are.
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
