package pubsubserver

import (
	"encoding/base64"
	"maps"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"cloud.google.com/go/pubsub/v2/apiv1/pubsubpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/fieldmaskpb"
)

func invalid(format string, args ...any) error {
	return status.Errorf(codes.InvalidArgument, format, args...)
}

func unimplemented(what string) error {
	return status.Errorf(codes.Unimplemented, "%s is not implemented by this local Pub/Sub.", what)
}

func notFound(name string) error {
	return status.Errorf(codes.NotFound, "Resource not found (resource=%s).", name)
}

func alreadyExists(name string) error {
	return status.Errorf(codes.AlreadyExists, "Resource already exists in the project (resource=%s).", name)
}

func failedPrecondition(format string, args ...any) error {
	return status.Errorf(codes.FailedPrecondition, format, args...)
}

// Kinds of resources, as they are in names.
const (
	kindTopic        = "topics"
	kindSubscription = "subscriptions"
	kindSnapshot     = "snapshots"
)

const deletedTopic = "_deleted-topic_"

// Lengths are checked beside the expressions: Go writes a repetition out, and those
// of classes of Unicode take 8 MB and 12 ms at every start.
var (
	resourceID = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9._~+%-]*$`)
	labelKey   = regexp.MustCompile(`^[\p{Ll}\p{Lo}][\p{Ll}\p{Lo}\p{N}_-]*$`)
	labelValue = regexp.MustCompile(`^[\p{Ll}\p{Lo}\p{N}_-]*$`)
)

const maxLabel = 63 // characters

// checkName checks the name of a resource that exists or is to be created.
func checkName(kind, name string) error {
	const refer = "Refer to https://cloud.google.com/pubsub/docs/pubsub-basics#resource_names for more information."
	part := strings.Split(name, "/")
	switch {
	case len(part) != 4 || part[0] != "projects" || part[1] == "" || part[2] != kind:
		return invalid("Invalid resource name given (name=%s): it must have the form projects/PROJECT/%s/ID. %s", name, kind, refer)
	case !hasIDForm(part[3]):
		return invalid("Invalid resource name given (name=%s): %q must start with a letter, have 3 to 255 characters, and only letters, digits and -_.~+%%. %s", name, part[3], refer)
	case !IsID(part[3]):
		return invalid("Invalid resource name given (name=%s): %q must not start with \"goog\". %s", name, part[3], refer)
	}
	return nil
}

func hasIDForm(id string) bool { return len(id) >= 3 && len(id) <= 255 && resourceID.MatchString(id) }

// IsID reports whether Pub/Sub accepts the ID of a topic, subscription or snapshot: 3 to 255
// letters, digits and -_.~+%, of which the first is a letter, and not "goog" at the start.
func IsID(id string) bool { return hasIDForm(id) && !strings.HasPrefix(id, "goog") }

func checkProject(name string) error {
	if id, ok := strings.CutPrefix(name, "projects/"); !ok || id == "" || strings.Contains(id, "/") {
		return invalid("Invalid project name given (name=%s): it must have the form projects/PROJECT.", name)
	}
	return nil
}

func checkLabels(labels map[string]string) error {
	if len(labels) > 64 {
		return invalid("There are %d labels; the limit is 64.", len(labels))
	}
	for _, k := range slices.Sorted(maps.Keys(labels)) {
		v := labels[k]
		if utf8.RuneCountInString(k) > maxLabel || utf8.RuneCountInString(v) > maxLabel || !labelKey.MatchString(k) || !labelValue.MatchString(v) {
			return invalid("Label %q=%q is not valid: a key has 1 to 63 and a value up to 63 lowercase letters, digits, - and _; a key starts with a letter.", k, labels[k])
		}
	}
	return nil
}

// checkDuration checks a duration that is set.
func checkDuration(field string, d *durationpb.Duration, least, most time.Duration) error {
	if d == nil {
		return nil
	}
	if err := d.CheckValid(); err != nil || d.AsDuration() < least || most > 0 && d.AsDuration() > most {
		limit := "at least " + least.String()
		if most > 0 {
			limit = "between " + least.String() + " and " + most.String()
		}
		return invalid("Invalid %s given (value=%s): it must be %s.", field, d.AsDuration(), limit)
	}
	return nil
}

const (
	day            = 24 * time.Hour
	minRetention   = 10 * time.Minute
	maxRetention   = 31 * day
	minAckDeadline = 10
	maxAckDeadline = 600
	// defaultMinBackoff is that of a retry policy without one, whose default maximum is
	// maxRetryBackoff.
	defaultMinBackoff = 10 * time.Second
	maxRetryBackoff   = 600 * time.Second
)

// checkTopic checks a topic's settings and fills in what is left out.
func checkTopic(t *pubsubpb.Topic) error {
	if err := checkName(kindTopic, t.Name); err != nil {
		return err
	}
	switch {
	case t.SchemaSettings != nil:
		return unimplemented("Topic.schema_settings (schemas)")
	case t.IngestionDataSourceSettings != nil:
		return unimplemented("Topic.ingestion_data_source_settings")
	case len(t.MessageTransforms) > 0:
		return unimplemented("Topic.message_transforms")
	case t.KmsKeyName != "":
		return unimplemented("Topic.kms_key_name (customer-managed encryption keys)")
	case len(t.Tags) > 0:
		return unimplemented("Topic.tags")
	case t.MessageStoragePolicy != nil && len(t.MessageStoragePolicy.AllowedPersistenceRegions) == 0:
		return invalid("Invalid message_storage_policy given: allowed_persistence_regions must not be empty.")
	}
	t.SatisfiesPzs, t.State = false, pubsubpb.Topic_ACTIVE
	if err := checkLabels(t.Labels); err != nil {
		return err
	}
	return checkDuration("message_retention_duration", t.MessageRetentionDuration, minRetention, maxRetention)
}

// checkSubscription checks a subscription's settings and fills in what is left
// out. That its topics exist is for the caller to check.
func checkSubscription(sub *pubsubpb.Subscription) error {
	if err := checkName(kindSubscription, sub.Name); err != nil {
		return err
	}
	switch {
	case sub.BigqueryConfig != nil:
		return unimplemented("Subscription.bigquery_config")
	case sub.CloudStorageConfig != nil:
		return unimplemented("Subscription.cloud_storage_config")
	case sub.BigtableConfig != nil:
		return unimplemented("Subscription.bigtable_config")
	case sub.EnableExactlyOnceDelivery:
		return unimplemented("Subscription.enable_exactly_once_delivery")
	case len(sub.MessageTransforms) > 0:
		return unimplemented("Subscription.message_transforms")
	case len(sub.Tags) > 0:
		return unimplemented("Subscription.tags")
	}
	// Set in answers alone.
	sub.TopicMessageRetentionDuration, sub.AnalyticsHubSubscriptionInfo = nil, nil
	sub.State = pubsubpb.Subscription_ACTIVE
	if sub.AckDeadlineSeconds == 0 {
		sub.AckDeadlineSeconds = minAckDeadline
	}
	if n := sub.AckDeadlineSeconds; n < minAckDeadline || n > maxAckDeadline {
		return invalid("Invalid ack_deadline_seconds given (value=%d): it must be between %d and %d.", n, minAckDeadline, maxAckDeadline)
	}
	if sub.MessageRetentionDuration == nil {
		sub.MessageRetentionDuration = durationpb.New(7 * day)
	}
	if sub.ExpirationPolicy == nil {
		sub.ExpirationPolicy = &pubsubpb.ExpirationPolicy{Ttl: durationpb.New(31 * day)}
	}
	if p := sub.DeadLetterPolicy; p != nil {
		if p.MaxDeliveryAttempts == 0 {
			p.MaxDeliveryAttempts = 5
		}
		if n := p.MaxDeliveryAttempts; n < 5 || n > 100 {
			return invalid("Invalid dead_letter_policy.max_delivery_attempts given (value=%d): it must be between 5 and 100.", n)
		}
		if err := checkName(kindTopic, p.DeadLetterTopic); err != nil {
			return err
		}
	}
	if p := sub.RetryPolicy; p != nil {
		if p.MinimumBackoff == nil {
			p.MinimumBackoff = durationpb.New(defaultMinBackoff)
		}
		if p.MaximumBackoff == nil {
			p.MaximumBackoff = durationpb.New(maxRetryBackoff)
		}
	}
	if _, err := parseFilter(sub.Filter); err != nil {
		return invalid("Invalid filter given (filter=%s): %v. Refer to https://cloud.google.com/pubsub/docs/subscription-message-filter for the syntax.", sub.Filter, err)
	}
	for _, err := range []error{
		checkDuration("message_retention_duration", sub.MessageRetentionDuration, minRetention, maxRetention),
		checkDuration("expiration_policy.ttl", sub.ExpirationPolicy.Ttl, day, 0),
		checkDuration("retry_policy.minimum_backoff", sub.RetryPolicy.GetMinimumBackoff(), 0, maxRetryBackoff),
		checkDuration("retry_policy.maximum_backoff", sub.RetryPolicy.GetMaximumBackoff(), 0, maxRetryBackoff),
		checkLabels(sub.Labels),
		checkPush(sub),
	} {
		if err != nil {
			return err
		}
	}
	if p := sub.RetryPolicy; p != nil && p.MinimumBackoff.AsDuration() > p.MaximumBackoff.AsDuration() {
		return invalid("Invalid retry_policy given: minimum_backoff %s is greater than maximum_backoff %s.", p.MinimumBackoff.AsDuration(), p.MaximumBackoff.AsDuration())
	}
	return nil
}

const versionAttribute = "x-goog-version"

func checkPush(sub *pubsubpb.Subscription) error {
	if sub.PushConfig == nil {
		sub.PushConfig = &pubsubpb.PushConfig{}
	}
	p := sub.PushConfig
	if p.PushEndpoint == "" {
		// Without an endpoint nothing else is kept, as with Pub/Sub.
		sub.PushConfig = &pubsubpb.PushConfig{}
		return nil
	}
	endpoint, err := url.Parse(p.PushEndpoint)
	if err != nil || endpoint.Hostname() == "" || endpoint.Scheme != "http" && endpoint.Scheme != "https" || endpoint.Fragment != "" {
		return invalid("Invalid push endpoint given (endpoint=%s): it must be an https or http URL.", p.PushEndpoint)
	}
	for _, k := range slices.Sorted(maps.Keys(p.Attributes)) {
		switch v := p.Attributes[k]; {
		case k != versionAttribute:
			return invalid("Invalid push_config.attributes given (key=%s): only %s is supported.", k, versionAttribute)
		case v == "v1beta1":
			return unimplemented("Push format v1beta1")
		case v != "v1" && v != "v1beta2":
			return invalid("Invalid push_config.attributes given (%s=%s): the value must be v1 or v1beta2.", k, v)
		}
	}
	if oidc := p.GetOidcToken(); oidc != nil && !strings.Contains(oidc.ServiceAccountEmail, "@") {
		return invalid("Invalid push_config.oidc_token.service_account_email given (value=%s): it must be the e-mail address of a service account.", oidc.ServiceAccountEmail)
	}
	return nil
}

var (
	mutableTopic = []string{
		"labels", "message_storage_policy", "message_retention_duration", "kms_key_name", "schema_settings",
		"ingestion_data_source_settings", "message_transforms",
	}
	mutableSubscription = []string{
		"ack_deadline_seconds", "bigquery_config", "bigtable_config", "cloud_storage_config", "dead_letter_policy",
		"enable_exactly_once_delivery", "expiration_policy", "labels", "message_retention_duration",
		"message_transforms", "push_config", "retain_acked_messages", "retry_policy",
	}
	mutableSnapshot = []string{"expire_time", "labels"}
)

// update returns old with the fields that the mask names taken from changed.
func update[M proto.Message](old, changed M, mask *fieldmaskpb.FieldMask, mutable []string) (M, error) {
	result := proto.CloneOf(old)
	kind := string(result.ProtoReflect().Descriptor().Name())
	request := "Update" + kind + "Request"
	if len(mask.GetPaths()) == 0 {
		return old, invalid("The update_mask in the %s must be set, and must contain a non-empty paths list.", request)
	}
	src := proto.CloneOf(changed).ProtoReflect()
	for _, path := range mask.Paths {
		parts := strings.Split(path, ".")
		known := result.ProtoReflect().Descriptor().Fields().ByName(protoreflect.Name(parts[0])) != nil
		if known && !slices.Contains(mutable, parts[0]) {
			return old, invalid("Invalid update_mask provided in the %s: the '%s' field in the %s is not mutable.", request, path, kind)
		}
		if !known || !setPath(result.ProtoReflect(), src, parts) {
			return old, invalid("Invalid update_mask provided in the %s: '%s' is not a known %s field. Note that field paths must be of the form 'push_config' rather than 'pushConfig'.", request, path, kind)
		}
	}
	return result, nil
}

// setPath copies one field and reports whether it exists.
func setPath(dst, src protoreflect.Message, path []string) bool {
	field := dst.Descriptor().Fields().ByName(protoreflect.Name(path[0]))
	switch {
	case field == nil:
		return false
	case len(path) > 1:
		if field.Message() == nil || field.IsList() || field.IsMap() {
			return false
		}
		return setPath(dst.Mutable(field).Message(), src.Get(field).Message(), path[1:])
	case src.Has(field):
		dst.Set(field, src.Get(field))
	default:
		dst.Clear(field)
	}
	return true
}

const maxPage = 1000

// page returns a page of names, sorted, and the token of the next.
func page(names []string, size int32, token string) ([]string, string, error) {
	if size < 0 {
		return nil, "", invalid("Invalid page_size given (value=%d): it must not be negative.", size)
	}
	if size == 0 || size > maxPage {
		size = maxPage
	}
	after, err := base64.RawURLEncoding.DecodeString(token)
	if err != nil {
		return nil, "", invalid("Invalid page_token given (value=%s): it must be the next_page_token of an answer.", token)
	}
	slices.Sort(names)
	first, found := slices.BinarySearch(names, string(after))
	if found {
		first++
	}
	names = names[first:]
	if len(names) <= int(size) {
		return names, "", nil
	}
	names = names[:size]
	return names, base64.RawURLEncoding.EncodeToString([]byte(names[size-1])), nil
}
