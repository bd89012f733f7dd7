package firestoreinbox

import (
	"context"
	"net/http"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"example.com/pushinbox/shared/inbox"
	"example.com/pushinbox/shared/problem"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"

	pb "cloud.google.com/go/firestore/apiv1/firestorepb"
)

// A query for messages uses one composite index: of the shard, one condition, and
// receivedAt. Firestore builds an index over the documents that are there, so it
// finds what was stored before it was declared, too. What the other conditions leave
// out is read and dropped.

const (
	// maxIndexed is how many bytes of a value an index has, see "Index limits" in
	// Firestore's documentation.
	maxIndexed = 1500
	// maxSubscriptions is how many subscriptions a short name is looked up among.
	maxSubscriptions = 20
)

// condition is an index's part of a query; nil when the query uses the index of all
// messages.
type condition = *pb.StructuredQuery_Filter

// choose returns the most selective condition of q that an index answers, and whether
// it is the only one beside the time. All others are left to Query.Matches. names are
// the subscriptions that q's short name stands for; nil when they are not known.
func (in *Inbox) choose(q *inbox.Query, names []string) (use condition, isExact bool) {
	isExact = true
	consider := func(path, value string, v *pb.Value) {
		switch {
		case !utf8.ValidString(value):
			// No message has such a value, and none has an empty source.
			use = equal(fieldSource, stringValue(""))
		case use == nil && path != "" && len(value) <= maxIndexed:
			use = equal(path, v)
		default:
			isExact = false
		}
	}
	text := func(path, value string) {
		if value != "" {
			consider(path, value, stringValue(value))
		}
	}
	text(fieldMessageID, q.MessageID)
	text(fieldOrderingKey, q.OrderingKey)
	for _, name := range in.attributes {
		if value, ok := q.Attributes[name]; ok {
			consider(AttributePath(name), value, stringValue(value))
		}
	}
	for name, value := range q.Attributes {
		if !slices.Contains(in.attributes, name) {
			consider("", name+value, nil)
		}
	}
	if q.Quarantined {
		consider(fieldIsQuarantined, "", boolValue(true))
	}
	switch {
	case strings.Contains(q.Subscription, "/") || names != nil && len(names) == 0:
		text(fieldSubscription, q.Subscription)
	case len(names) == 1:
		text(fieldSubscription, names[0])
	default:
		text("", q.Subscription)
	}
	text(fieldSource, q.Source)
	text("", q.Text)
	return use, isExact
}

// AttributePath returns the path of an attribute's field, as queries and indexes have it.
func AttributePath(name string) string {
	for i, c := range []byte(name) {
		isLetter := c == '_' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
		if !isLetter && (i == 0 || c < '0' || c > '9') {
			return fieldAttributes + ".`" + strings.NewReplacer("\\", "\\\\", "`", "\\`").Replace(name) + "`"
		}
	}
	return fieldAttributes + "." + name
}

// subscriptionsNamed returns the subscriptions that q's short name stands for, and
// the time at which they were read. It reads one document for each subscription that
// messages have. The names are nil when q has none or needs none, or when there are
// too many subscriptions.
func (in *Inbox) subscriptionsNamed(ctx context.Context, q *inbox.Query) (names []string, asOf time.Time, err error) {
	if use, _ := in.choose(&inbox.Query{
		MessageID: q.MessageID, OrderingKey: q.OrderingKey, Attributes: q.Attributes, Quarantined: q.Quarantined,
	}, nil); use != nil || q.Subscription == "" || strings.Contains(q.Subscription, "/") || !utf8.ValidString(q.Subscription) {
		return nil, time.Time{}, nil
	}
	names = []string{}
	last := ""
	for range maxSubscriptions {
		next := ""
		err := in.retry(ctx, func(ctx context.Context) error {
			return in.stream(ctx, in.nextSubscription(last), func(d *pb.Document, readTime time.Time) error {
				if asOf.IsZero() {
					asOf = readTime
				}
				next = d.GetFields()[fieldSubscription].GetStringValue()
				return errEnough
			})
		})
		switch {
		case lacksIndex(err):
			return nil, asOf, nil
		case err != nil:
			return nil, asOf, err
		case next == "":
			return names, asOf, nil
		case inbox.ShortName(next) == q.Subscription:
			names = append(names, next)
		}
		last = next
	}
	return nil, asOf, nil
}

// nextSubscription returns the query of a message of the subscription that follows
// one in the order of their names. The index of the single field answers it.
func (in *Inbox) nextSubscription(last string) *pb.StructuredQuery {
	return &pb.StructuredQuery{
		Select:  &pb.StructuredQuery_Projection{Fields: []*pb.StructuredQuery_FieldReference{field(fieldSubscription)}},
		From:    []*pb.StructuredQuery_CollectionSelector{{CollectionId: in.collection}},
		Where:   compare(fieldSubscription, pb.StructuredQuery_FieldFilter_GREATER_THAN, stringValue(last)),
		OrderBy: []*pb.StructuredQuery_Order{{Field: field(fieldSubscription), Direction: pb.StructuredQuery_ASCENDING}},
		Limit:   wrapperspb.Int32(1),
	}
}

// lacksIndex reports whether Firestore refused a query whose index is missing or not
// built yet.
func lacksIndex(err error) bool { return status.Code(err) == codes.FailedPrecondition }

// queryError returns err as callers of an inbox may see it.
func queryError(err error) error {
	if !lacksIndex(err) {
		return err
	}
	return &problem.Error{
		Status: http.StatusServiceUnavailable,
		Detail: "Firestore has no index for this list yet; run terraform apply, or wait until the indexes are built",
		Cause:  unavailable(err),
	}
}

func equal(path string, v *pb.Value) *pb.StructuredQuery_Filter {
	return compare(path, pb.StructuredQuery_FieldFilter_EQUAL, v)
}
