package pushfake

import (
	"context"
	"strconv"
	"sync"
	"time"

	"cloud.google.com/go/pubsub/v2"
	"cloud.google.com/go/pubsub/v2/apiv1/pubsubpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/stats"
	"google.golang.org/grpc/status"
)

// The topic that says which run of the emulator this is, and its label.
const (
	runTopic = "pushinbox-run"
	runLabel = "run"
)

// maxReconnectDelay bounds the wait between two tries to connect to the emulator.
// gRPC's own is two minutes.
const maxReconnectDelay = time.Second

// Emulator is a connection to Google's emulator of Pub/Sub. That numbers messages
// from 1 in every run, so that to an inbox the first message after a restart would
// be a redelivery. By this connection messages have IDs that no other run repeats:
// numbers, as Pub/Sub's, of which the emulator's are the last digits. A topic in
// the emulator, pushinbox-run, says which run it is.
type Emulator struct {
	// Client is a client of the emulator. Close closes it.
	Client *pubsub.Client

	mu          sync.Mutex
	connections int   // that there have been: a restart needs another one
	run         int64 // of the latest connection; 0: not yet known
}

// DialEmulator returns a connection to the emulator at host, HOST:PORT, for a
// project. It does not wait for the emulator.
func DialEmulator(ctx context.Context, host, project string) (*Emulator, error) {
	e := &Emulator{}
	client, err := Dial(ctx, host, project,
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: maxReconnectDelay},
			MinConnectTimeout: 5 * time.Second,
		}),
		grpc.WithUnaryInterceptor(e.unary), grpc.WithStatsHandler(connections{e}))
	if err != nil {
		return nil, err
	}
	e.Client = client
	return e, nil
}

// Close ends the connection.
func (e *Emulator) Close() error { return e.Client.Close() }

// Run returns a number that tells this run of the emulator from others: the time
// at which this project was first seen in it, in microseconds. It fails soon when
// the emulator does not answer.
func (e *Emulator) Run(ctx context.Context) (int64, error) {
	name := "projects/" + e.Client.Project() + "/topics/" + runTopic
	topic, err := e.Client.TopicAdminClient.GetTopic(ctx, &pubsubpb.GetTopicRequest{Topic: name}, once)
	if status.Code(err) == codes.NotFound {
		topic, err = e.Client.TopicAdminClient.CreateTopic(ctx, &pubsubpb.Topic{
			Name: name, Labels: map[string]string{runLabel: strconv.FormatInt(time.Now().UnixMicro(), 10)},
		}, once)
	}
	if status.Code(err) == codes.AlreadyExists { // another process was faster
		topic, err = e.Client.TopicAdminClient.GetTopic(ctx, &pubsubpb.GetTopicRequest{Topic: name}, once)
	}
	if err != nil {
		return 0, err
	}
	return strconv.ParseInt(topic.Labels[runLabel], 10, 64)
}

// Has reports whether the emulator has the subscription with this full name. It
// fails soon, as Run does.
func (e *Emulator) Has(ctx context.Context, subscription string) (bool, error) {
	_, err := e.Client.SubscriptionAdminClient.GetSubscription(ctx, &pubsubpb.GetSubscriptionRequest{Subscription: subscription}, once)
	if status.Code(err) == codes.NotFound {
		return false, nil
	}
	return err == nil, err
}

// current returns the run of the latest connection, and how many there have been.
func (e *Emulator) current(ctx context.Context) (run int64, connections int, err error) {
	for range 3 { // asking may make a connection, of which nobody knows yet where it leads
		e.mu.Lock()
		run, connections = e.run, e.connections
		e.mu.Unlock()
		if run != 0 {
			return run, connections, nil
		}
		if run, err = e.Run(ctx); err != nil {
			return 0, 0, err
		}
		e.mu.Lock()
		if connections == e.connections {
			e.run = run
		}
		e.mu.Unlock()
	}
	return 0, 0, errRestarted
}

var errRestarted = status.Error(codes.Unavailable, "Pub/Sub's emulator was restarted")

// unary renames in the answers to Publish and Pull.
func (e *Emulator) unary(ctx context.Context, method string, request, answer any, conn *grpc.ClientConn, invoke grpc.UnaryInvoker, o ...grpc.CallOption) error {
	published, isPublish := answer.(*pubsubpb.PublishResponse)
	pulled, isPull := answer.(*pubsubpb.PullResponse)
	if !isPublish && !isPull {
		return invoke(ctx, method, request, answer, conn, o...)
	}
	run, connections, err := e.current(ctx)
	if err != nil {
		return err
	}
	if err := invoke(ctx, method, request, answer, conn, o...); err != nil {
		return err
	}
	e.mu.Lock()
	same := connections == e.connections
	e.mu.Unlock()
	if !same { // nobody knows which run answered
		return errRestarted
	}
	ids := messageIDs{run}
	if isPublish {
		for i, id := range published.MessageIds {
			published.MessageIds[i] = ids.of(id)
		}
	} else {
		pulled.ReceivedMessages = ids.received(pulled.ReceivedMessages)
	}
	return nil
}

// connections counts the connections of an emulator. It hears of one before any
// call can use it.
type connections struct{ emulator *Emulator }

func (c connections) HandleConn(_ context.Context, s stats.ConnStats) {
	if _, begins := s.(*stats.ConnBegin); begins {
		c.emulator.mu.Lock()
		c.emulator.connections++
		c.emulator.run = 0
		c.emulator.mu.Unlock()
	}
}

func (connections) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }
func (connections) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context   { return ctx }
func (connections) HandleRPC(context.Context, stats.RPCStats)                         {}
