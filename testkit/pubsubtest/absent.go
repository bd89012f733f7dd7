package pubsubtest

import (
	"strings"

	"cloud.google.com/go/pubsub/v2/apiv1/pubsubpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// absentRows are what production has and a local server refuses by name.
var absentRows = []Row{
	{
		Name: "schemas", Behaviour: "schemas", Documented: "validate messages; a local server refuses them by name", Want: refused,
		observe: func(w *world) string {
			schemas := pubsubpb.NewSchemaServiceClient(w.Conn)
			_, create := schemas.CreateSchema(w.ctx, &pubsubpb.CreateSchemaRequest{Parent: "projects/" + w.Project, SchemaId: "schema", Schema: &pubsubpb.Schema{Type: pubsubpb.Schema_AVRO, Definition: `{"type":"record","name":"R","fields":[]}`}})
			_, list := schemas.ListSchemas(w.ctx, &pubsubpb.ListSchemasRequest{Parent: "projects/" + w.Project})
			_, topic := w.tryTopic(func(t *pubsubpb.Topic) {
				t.SchemaSettings = &pubsubpb.SchemaSettings{Schema: w.named("schemas", "schema"), Encoding: pubsubpb.Encoding_JSON}
			})
			return refusals("schema", create, list, topic)
		},
	},
	{
		Name: "transforms", Behaviour: "message transforms", Documented: "run; a local server refuses them by name", Want: refused,
		observe: func(w *world) string {
			transforms := []*pubsubpb.MessageTransform{{Transform: &pubsubpb.MessageTransform_JavascriptUdf{JavascriptUdf: &pubsubpb.JavaScriptUDF{
				FunctionName: "f", Code: "function f(message, metadata) { return message; }",
			}}}}
			_, topic := w.tryTopic(func(t *pubsubpb.Topic) { t.MessageTransforms = transforms })
			_, sub := w.trySubscribe(w.topic(), func(s *pubsubpb.Subscription) { s.MessageTransforms = transforms })
			return refusals("transform", topic, sub)
		},
	},
	{
		Name: "exactly_once", Behaviour: "exactly-once delivery", Documented: "for pull subscriptions; a local server refuses it by name", Want: refused,
		observe: func(w *world) string {
			once := func(s *pubsubpb.Subscription) { s.EnableExactlyOnceDelivery = true }
			sub := w.subscribe(w.topic())
			_, create := w.trySubscribe(w.topic(), once)
			_, update := w.updateSubscription(&pubsubpb.Subscription{Name: sub, EnableExactlyOnceDelivery: true}, "enable_exactly_once_delivery")
			return refusals("exactly", create, update)
		},
	},
	{
		Name: "exactly_once_push", Behaviour: "exactly-once delivery of a push subscription", Documented: "refused", Want: "refused",
		observe: func(w *world) string {
			_, err := w.trySubscribe(w.topic(), pushTo("https://push.invalid/"), func(s *pubsubpb.Subscription) { s.EnableExactlyOnceDelivery = true })
			return yes(err != nil, "refused", "taken")
		},
	},
	{
		Name: "bigquery", Behaviour: "BigQuery subscriptions", Documented: "write to a table; a local server refuses them by name", Want: refused,
		observe: func(w *world) string {
			_, err := w.trySubscribe(w.topic(), func(s *pubsubpb.Subscription) { s.BigqueryConfig = &pubsubpb.BigQueryConfig{Table: "p.d.t"} })
			return refusals("bigquery", err)
		},
	},
	{
		Name: "cloud_storage", Behaviour: "Cloud Storage subscriptions", Documented: "write to a bucket; a local server refuses them by name", Want: refused,
		observe: func(w *world) string {
			_, err := w.trySubscribe(w.topic(), func(s *pubsubpb.Subscription) {
				s.CloudStorageConfig = &pubsubpb.CloudStorageConfig{Bucket: "bucket"}
			})
			return refusals("storage", err)
		},
	},
	{
		Name: "ingestion", Behaviour: "ingestion into a topic", Documented: "reads from other services; a local server refuses it by name", Want: refused,
		observe: func(w *world) string {
			_, err := w.tryTopic(func(t *pubsubpb.Topic) {
				t.IngestionDataSourceSettings = &pubsubpb.IngestionDataSourceSettings{Source: &pubsubpb.IngestionDataSourceSettings_CloudStorage_{
					CloudStorage: &pubsubpb.IngestionDataSourceSettings_CloudStorage{Bucket: "bucket"},
				}}
			})
			return refusals("ingestion", err)
		},
	},
}

const refused = "UNIMPLEMENTED by name"

// refusals returns refused when every error is UNIMPLEMENTED and its message
// has this word, or what the errors are instead.
func refusals(word string, errs ...error) string {
	all := make([]string, len(errs))
	good := true
	for i, err := range errs {
		all[i] = codeOf(err)
		good = good && status.Code(err) == codes.Unimplemented && strings.Contains(strings.ToLower(err.Error()), word)
	}
	return yes(good, refused, strings.Join(all, ", "))
}
