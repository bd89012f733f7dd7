package stack

import (
	"context"
	"fmt"
	"net/url"
	"strings"
	"time"

	"cloud.google.com/go/pubsub/v2/apiv1/pubsubpb"
	"google.golang.org/protobuf/proto"

	"example.com/pushinbox/shared/delivery"
)

// unknownPrincipal is who paused a subscription without leaving a record.
const unknownPrincipal = "somebody, without pushinbox"

// keepPaused reports whether a subscription was paused in an earlier run. Its record
// gets the push configuration that this run would give it, whose address may be
// another one, so that resume restores that. there is nil where the subscription is
// still to be created.
//
// A subscription of --push without an endpoint and a record is one of an earlier run
// that was not given again, and is now.
func (p *ownPubSub) keepPaused(ctx context.Context, there, wanted *pubsubpb.Subscription) (bool, error) {
	if there.GetPushConfig().GetPushEndpoint() != "" {
		return false, nil
	}
	record, err := p.records.Get(ctx, wanted.Name)
	if err != nil {
		return false, fmt.Errorf("whether %s is paused cannot be known: %w", wanted.Name, err)
	}
	if record == nil || record.Kind != delivery.Pause {
		if there == nil || there.Labels["pushinbox"] != "" {
			return false, nil
		}
		now := time.Now().UTC()
		record = &delivery.Operation{Kind: delivery.Pause, Subscription: wanted.Name, Principal: unknownPrincipal, At: now, LostFrom: p.lostFrom(there, now)}
	}
	if err := rewrite(record, wanted.PushConfig); err != nil {
		return false, err
	}
	if err := p.records.Put(ctx, record); err != nil {
		return false, err
	}
	p.warn(fmt.Sprintf("%s is paused since %s by %s: nothing is pushed; go on with: pushinbox delivery resume --subscription %s",
		wanted.Name, record.At.Format(time.RFC3339), record.Principal, wanted.Name[strings.LastIndex(wanted.Name, "/")+1:]))
	return true, nil
}

// lostFrom returns when the first message that waits, or will wait, is lost.
func (p *ownPubSub) lostFrom(sub *pubsubpb.Subscription, now time.Time) time.Time {
	if _, oldest, err := p.store.Backlog(sub.Name); err == nil && !oldest.IsZero() {
		now = oldest.UTC()
	}
	return now.Add(sub.MessageRetentionDuration.AsDuration())
}

// rewrite has a record restore push, with the attributes that it has. What has a token
// that cannot be left out of the record stays as it is.
func rewrite(record *delivery.Operation, push *pubsubpb.PushConfig) error {
	before := new(pubsubpb.PushConfig)
	if err := proto.Unmarshal(record.PushConfig, before); err != nil {
		return fmt.Errorf("the record of the pause of %s cannot be read: %w", record.Subscription, err)
	}
	push = proto.CloneOf(push)
	push.Attributes = before.Attributes
	for _, address := range []*string{&push.PushEndpoint, oidcAudience(push)} {
		hidden, ok := withMarker(*address)
		if !ok {
			if len(record.PushConfig) == 0 {
				return fmt.Errorf("the token in the push endpoint of %s is written in a way that cannot be restored", record.Subscription)
			}
			return nil
		}
		*address = hidden
	}
	recorded, err := proto.MarshalOptions{Deterministic: true}.Marshal(push)
	record.PushConfig = recorded
	return err
}

// oidcAudience returns where the audience of a push configuration is.
func oidcAudience(push *pubsubpb.PushConfig) *string {
	if oidc := push.GetOidcToken(); oidc != nil {
		return &oidc.Audience
	}
	return new(string)
}

// withMarker returns an address with a marker in place of its shared token, itself
// escaped where the token is, as the package operations has it.
func withMarker(address string) (hidden string, ok bool) {
	base, query, found := strings.Cut(address, "?")
	if !found {
		return address, true
	}
	parts := strings.Split(query, "&")
	for i, part := range parts {
		name, raw, hasValue := strings.Cut(part, "=")
		plainName, err1 := url.QueryUnescape(name)
		plain, err2 := url.QueryUnescape(raw)
		switch {
		case err1 != nil || plainName == "token" && err2 != nil:
			return "", false
		case plainName != "token" || !hasValue || raw == "":
		case raw == plain:
			parts[i] = name + "=" + delivery.TokenMarker
		case raw == url.QueryEscape(plain):
			parts[i] = name + "=" + strings.ReplaceAll(delivery.TokenMarker, "-", "%2D")
		default:
			return "", false
		}
	}
	return base + "?" + strings.Join(parts, "&"), true
}

// IsPaused reports whether a subscription of this run, as in Pushes and Endpoints, was
// paused in an earlier one. Google's emulator is not told what is pushed.
func (s *Stack) IsPaused(sub *pubsubpb.Subscription) bool {
	return s.own != nil && sub.PushConfig.GetPushEndpoint() == ""
}
