package pushfake

import (
	"context"
	"errors"
	"fmt"
	"math"

	"cloud.google.com/go/pubsub/v2"
	"google.golang.org/api/option"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

// Dial returns a client of the Pub/Sub at host, HOST:PORT, which wants no credentials,
// such as that of pushinbox local or Google's emulator, whatever PUBSUB_EMULATOR_HOST
// says. It does not wait for it. Closing the client ends the connection.
func Dial(ctx context.Context, host, project string, o ...grpc.DialOption) (*pubsub.Client, error) {
	o = append(o, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(math.MaxInt32)))
	conn, err := grpc.NewClient(host, o...)
	if err != nil {
		return nil, fmt.Errorf("pushfake: connecting to Pub/Sub: %w", err)
	}
	client, err := pubsub.NewClient(ctx, project, option.WithGRPCConn(conn), option.WithTelemetryDisabled())
	if err != nil {
		return nil, errors.Join(fmt.Errorf("pushfake: connecting to Pub/Sub: %w", err), conn.Close())
	}
	return client, nil
}
