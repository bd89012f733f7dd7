package rest

import (
	"net/http"
	"slices"
	"strings"

	"cloud.google.com/go/iam/apiv1/iampb"
	"cloud.google.com/go/pubsub/v2/apiv1/pubsubpb"
	"google.golang.org/genproto/googleapis/api/annotations"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// route is one HTTP route and the method that answers it. The fields of the
// request's message come from the path and the body, which is all of it ("*"),
// one field, or nothing; then the query has the others.
type route struct {
	verb, pattern, method, body string
}

// routes are all routes, in the order in which the mux takes them: it tries the last one
// first. Those with a verb, such as schemas/*:deleteRevision, are the last ones, since the
// star of others would match the verb too.
var routes = func() []route {
	all := policyRoutes()
	for _, file := range []protoreflect.FileDescriptor{pubsubpb.File_google_pubsub_v1_pubsub_proto, pubsubpb.File_google_pubsub_v1_schema_proto} {
		for i := range file.Services().Len() {
			all = append(all, annotated(file.Services().Get(i))...)
		}
	}
	slices.SortStableFunc(all, func(a, b route) int { return strings.Count(a.pattern, ":") - strings.Count(b.pattern, ":") })
	return all
}()

// annotated returns the routes that the descriptor of a service has.
func annotated(service protoreflect.ServiceDescriptor) (all []route) {
	for i := range service.Methods().Len() {
		method := service.Methods().Get(i)
		rule, _ := proto.GetExtension(method.Options(), annotations.E_Http).(*annotations.HttpRule)
		if rule == nil {
			continue // StreamingPull
		}
		for _, r := range append([]*annotations.HttpRule{rule}, rule.AdditionalBindings...) {
			// The fields of the oneof are called as the verbs are.
			message := r.ProtoReflect()
			verb := message.WhichOneof(message.Descriptor().Oneofs().ByName("pattern"))
			all = append(all, route{strings.ToUpper(string(verb.Name())), message.Get(verb).String(), string(method.FullName()), r.Body})
		}
	}
	return all
}

// policyRoutes returns the routes that IAM's methods have in Pub/Sub, which are in its
// service configuration and not in IAM's own descriptor.
func policyRoutes() (all []route) {
	service := string(iampb.File_google_iam_v1_iam_policy_proto.Services().Get(0).FullName())
	for _, collection := range []string{"snapshots", "subscriptions", "topics"} {
		resource := "/v1/{resource=projects/*/" + collection + "/*}:"
		all = append(all,
			route{http.MethodPost, resource + "setIamPolicy", service + ".SetIamPolicy", "*"},
			route{http.MethodGet, resource + "getIamPolicy", service + ".GetIamPolicy", ""},
			route{http.MethodPost, resource + "testIamPermissions", service + ".TestIamPermissions", "*"},
		)
	}
	return all
}

// customVerbs are what may follow a name and a colon, as in topics/t:publish.
var customVerbs = func() map[string]bool {
	verbs := make(map[string]bool)
	for _, r := range routes {
		verbs[customVerb(r.pattern)] = true
	}
	delete(verbs, "")
	return verbs
}()

func customVerb(path string) string {
	_, verb, _ := strings.Cut(path[strings.LastIndex(path, "/")+1:], ":")
	return verb
}
