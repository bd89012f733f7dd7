package pubsubserver

import (
	"context"

	"cloud.google.com/go/pubsub/v2/apiv1/pubsubpb"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/emptypb"
)

// ActAs returns s for callers that may not have pushes signed in the name of every service
// account: may returns an error, with a status, when the caller with this context may not act
// as one, which in production is the permission iam.serviceAccounts.actAs. s itself asks nobody.
func (s *Server) ActAs(may func(ctx context.Context, account string) error) pubsubpb.SubscriberServer {
	return actingServer{s, may}
}

type actingServer struct {
	*Server
	may func(ctx context.Context, account string) error
}

type mayActAs struct{}

func (s actingServer) with(ctx context.Context) context.Context {
	return context.WithValue(ctx, mayActAs{}, s.may)
}

// CreateSubscription creates a subscription.
func (s actingServer) CreateSubscription(ctx context.Context, in *pubsubpb.Subscription) (*pubsubpb.Subscription, error) {
	return s.Server.CreateSubscription(s.with(ctx), in)
}

// UpdateSubscription changes the settings that the mask names, at once.
func (s actingServer) UpdateSubscription(ctx context.Context, r *pubsubpb.UpdateSubscriptionRequest) (*pubsubpb.Subscription, error) {
	return s.Server.UpdateSubscription(s.with(ctx), r)
}

// ModifyPushConfig changes how a subscription is pushed, at once.
func (s actingServer) ModifyPushConfig(ctx context.Context, r *pubsubpb.ModifyPushConfigRequest) (*emptypb.Empty, error) {
	return s.Server.ModifyPushConfig(s.with(ctx), r)
}

// checkActAs refuses a push configuration that has pushes signed in the name of a service
// account as which the caller may not act. One that is as before is no change of the caller's.
func checkActAs(ctx context.Context, before, after *pubsubpb.PushConfig) error {
	account := after.GetOidcToken().GetServiceAccountEmail()
	may, limited := ctx.Value(mayActAs{}).(func(context.Context, string) error)
	if !limited || account == "" || proto.Equal(before, after) {
		return nil
	}
	return may(ctx, account)
}
