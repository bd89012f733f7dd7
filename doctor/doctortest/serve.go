package doctortest

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"time"
)

// call is one of an API's.
type call struct {
	// api is the first part of the API's host.
	api, method string
	path        *regexp.Regexp
	permission  string
	answer      func(w *World, r *http.Request, name string) (any, int)
}

func calls() []call {
	get := func(api, path, permission string) call {
		return call{api, "GET", regexp.MustCompile("^/v[0-9]/(" + path + ")$"), permission, func(w *World, _ *http.Request, name string) (any, int) {
			if o, ok := w.Objects[api+"/"+name]; ok {
				return o, 200
			}
			return nil, 404
		}}
	}
	policy := func(api, method, path, permission string) call {
		return call{api, method, regexp.MustCompile("^/v[0-9]/(" + path + "):getIamPolicy$"), permission, func(w *World, _ *http.Request, name string) (any, int) {
			if _, ok := w.Objects[api+"/"+name]; !ok {
				return nil, 404
			}
			return map[string]any{"version": 3, "bindings": w.Policies[api+"/"+name]}, 200
		}}
	}
	const p, one, region = "projects/[^/]+", "[^/:]+", "/locations/[^/]+"
	of := func(api, method, path, permission string, answer func(w *World, r *http.Request, name string) (any, int)) call {
		return call{api, method, regexp.MustCompile("^/v[0-9]/(" + path + ")$"), permission, answer}
	}
	return []call{
		get("cloudresourcemanager", "projects/[^/:]+", "resourcemanager.projects.get"),
		policy("cloudresourcemanager", "POST", "projects/[^/:]+", "resourcemanager.projects.getIamPolicy"),
		of("serviceusage", "GET", p+"/services:batchGet", "serviceusage.services.get", (*World).batch),
		get("pubsub", p+"/subscriptions/"+one, "pubsub.subscriptions.get"),
		policy("pubsub", "GET", p+"/subscriptions/"+one, "pubsub.subscriptions.getIamPolicy"),
		policy("pubsub", "GET", p+"/topics/"+one, "pubsub.topics.getIamPolicy"),
		of("pubsub", "GET", p+"/topics/"+one+"/subscriptions", "pubsub.topics.get", (*World).topicSubscriptions),
		get("iam", p+"/serviceAccounts/[^/:]+", "iam.serviceAccounts.get"),
		policy("iam", "POST", p+"/serviceAccounts/[^/:]+", "iam.serviceAccounts.getIamPolicy"),
		of("iam", "GET", "("+p+"/)?roles/"+one, "iam.roles.get", func(w *World, _ *http.Request, name string) (any, int) {
			if permissions, ok := w.Roles[name]; ok {
				return map[string]any{"name": name, "includedPermissions": permissions}, 200
			}
			return nil, 404
		}),
		get("run", p+region+"/services/"+one, "run.services.get"),
		policy("run", "GET", p+region+"/services/"+one, "run.services.getIamPolicy"),
		get("cloudfunctions", p+region+"/functions/"+one, "cloudfunctions.functions.get"),
		of("cloudfunctions", "GET", p+"/locations/-/functions", "cloudfunctions.functions.list", func(w *World, _ *http.Request, _ string) (any, int) {
			return map[string]any{"functions": w.below("cloudfunctions/projects/", "/functions/")}, 200
		}),
		of("orgpolicy", "GET", p+"/policies/"+one+":getEffectivePolicy", "orgpolicy.policy.get", func(w *World, _ *http.Request, name string) (any, int) {
			if o, ok := w.Objects["orgpolicy/"+strings.TrimSuffix(name, ":getEffectivePolicy")]; ok {
				return o, 200
			}
			return map[string]any{"spec": map[string]any{"rules": []any{}}}, 200
		}),
		get("firestore", p+"/databases/[^/]+", "datastore.databases.getMetadata"),
		of("firestore", "GET", p+"/databases/[^/]+/collectionGroups/[^/]+/indexes", "datastore.indexes.list", func(w *World, _ *http.Request, name string) (any, int) {
			if !w.hasDatabase(name) {
				return nil, 404
			}
			return map[string]any{"indexes": w.below("firestore/"+name, "/")}, 200
		}),
		of("firestore", "GET", p+"/databases/[^/]+/collectionGroups/[^/]+/fields/[^/]+", "datastore.indexes.get", func(w *World, _ *http.Request, name string) (any, int) {
			if !w.hasDatabase(name) {
				return nil, 404
			}
			if o, ok := w.Objects["firestore/"+name]; ok {
				return o, 200
			}
			return map[string]any{"name": name, "indexConfig": map[string]any{"usesAncestorConfig": true}}, 200
		}),
		of("firestore", "GET", p+"/databases/[^/]+/documents/[^/]+", "datastore.entities.list", func(w *World, _ *http.Request, name string) (any, int) {
			_, collection, _ := strings.Cut(name, "/documents/")
			docs := []any{}
			for path, fields := range w.Documents {
				if strings.HasPrefix(path, collection+"/") {
					docs = append(docs, map[string]any{"name": path, "fields": fields})
				}
			}
			return map[string]any{"documents": docs}, 200
		}),
		of("firestore", "GET", p+"/databases/[^/]+/documents/[^/]+/[^/]+", "datastore.entities.get", func(w *World, _ *http.Request, name string) (any, int) {
			_, path, _ := strings.Cut(name, "/documents/")
			if fields, ok := w.Documents[path]; ok && w.hasDatabase(name) {
				return map[string]any{"name": name, "fields": fields}, 200
			}
			return nil, 404
		}),
		of("monitoring", "GET", p+"/timeSeries", "monitoring.timeSeries.list", (*World).series),
		of("logging", "POST", "entries:list", "logging.logEntries.list", (*World).entries),
		get("secretmanager", p+"/secrets/"+one+"/versions/"+one, "secretmanager.versions.get"),
		of("secretmanager", "GET", p+"/secrets/"+one+"/versions/"+one+":access", "secretmanager.versions.access", func(w *World, _ *http.Request, name string) (any, int) {
			if value, ok := w.Secrets[strings.TrimSuffix(name, ":access")]; ok {
				return map[string]any{"payload": map[string]any{"data": base64.StdEncoding.EncodeToString([]byte(value))}}, 200
			}
			return nil, 404
		}),
		get("cloudscheduler", p+region+"/jobs/"+one, "cloudscheduler.jobs.get"),
		of("policytroubleshooter", "POST", "iam:troubleshoot", "roles/iam.securityReviewer", (*World).troubleshoot),
	}
}

var allCalls = calls()

// ServeHTTP answers as Google's APIs do, and as Cloud Run does in front of receive.
func (w *World) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	w.mu.Lock()
	defer w.mu.Unlock()
	api, _, _ := strings.Cut(r.Host, ".")
	rw.Header().Set("Date", time.Now().Add(w.Skew).UTC().Format(http.TimeFormat))
	if strings.HasSuffix(r.Host, ".run.app") {
		w.receive(rw)
		return
	}
	for _, c := range allCalls {
		m := c.path.FindStringSubmatch(r.URL.Path)
		if c.api != api || c.method != r.Method || m == nil {
			continue
		}
		if c.api == "logging" && isOfView(r) {
			c.permission = "logging.views.access"
		}
		w.asked[c.permission] = true
		if id, ok := w.Perimeter[api]; ok {
			refuse(rw, 403, "PERMISSION_DENIED", "Request is prohibited by organization's policy. vpcServiceControlsUniqueIdentifier: "+id,
				map[string]any{"@type": "type.googleapis.com/google.rpc.PreconditionFailure", "violations": []any{map[string]any{"type": "VPC_SERVICE_CONTROLS", "description": id}}},
				map[string]any{"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "SECURITY_POLICY_VIOLATED", "domain": "googleapis.com", "metadata": map[string]any{"uid": id, "service": r.Host}})
			return
		}
		if o, ok := w.Objects["serviceusage/projects/"+Project+"/services/"+r.Host]; ok && o["state"] != "ENABLED" {
			refuse(rw, 403, "PERMISSION_DENIED", "The API has not been used in project before or it is disabled.",
				map[string]any{"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "SERVICE_DISABLED", "domain": "googleapis.com", "metadata": map[string]any{"service": r.Host, "consumer": "projects/" + Number}})
			return
		}
		if w.Denied[c.permission] {
			refuse(rw, 403, "PERMISSION_DENIED", "Permission '"+c.permission+"' denied on resource (or it may not exist).",
				map[string]any{"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "IAM_PERMISSION_DENIED", "domain": "iam.googleapis.com", "metadata": map[string]any{"permission": c.permission}})
			return
		}
		switch answer, status := c.answer(w, r, m[1]); status {
		case 200:
			rw.Header().Set("Content-Type", "application/json")
			_ = json.NewEncoder(rw).Encode(answer)
		default:
			refuse(rw, status, "NOT_FOUND", "Resource not found.")
		}
		return
	}
	w.unknown = append(w.unknown, r.Method+" "+r.Host+r.URL.Path)
	refuse(rw, 501, "UNIMPLEMENTED", "nobody expects this")
}

// isOfView reports whether entries of a log view are asked for.
func isOfView(r *http.Request) bool {
	var asked struct{ ResourceNames []string }
	return json.NewDecoder(r.Body).Decode(&asked) == nil && len(asked.ResourceNames) == 1 && strings.Contains(asked.ResourceNames[0], "/views/")
}

// refuse answers with an error in Google's form.
func refuse(rw http.ResponseWriter, status int, code, message string, details ...any) {
	rw.Header().Set("Content-Type", "application/json")
	rw.WriteHeader(status)
	_ = json.NewEncoder(rw).Encode(map[string]any{"error": map[string]any{"code": status, "status": code, "message": message, "details": details}})
}

// receive answers as a stranger is answered: by receive itself, or by Cloud Run before
// it.
func (w *World) receive(rw http.ResponseWriter) {
	s := w.Service("receive")
	open := s != nil && s["invokerIamDisabled"] == true
	for _, b := range w.Policies["run/projects/"+Project+"/locations/"+Region+"/services/receive"] {
		open = open || b.Role == "roles/run.invoker" && b.Members[0] == "allUsers"
	}
	page := func(status int) {
		rw.Header().Set("Content-Type", "text/html; charset=UTF-8")
		rw.WriteHeader(status)
		_, _ = rw.Write([]byte("<html><title>" + http.StatusText(status) + "</title>"))
	}
	switch {
	case s == nil || s["ingress"] != "INGRESS_TRAFFIC_ALL" || s["defaultUriDisabled"] == true:
		page(404)
	case !open:
		page(403)
	case w.Answer != 0:
		page(w.Answer)
	default:
		rw.Header().Set("Content-Type", "application/problem+json")
		rw.WriteHeader(401)
		_, _ = rw.Write([]byte(`{"status":401,"detail":"the request has no token"}`))
	}
}

// below returns the objects whose name begins so and goes on with one more part.
func (w *World) below(prefix, part string) []any {
	all := []any{}
	var names []string
	for name := range w.Objects {
		if strings.HasPrefix(name, prefix) && strings.Contains(name[len(prefix):], part) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	for _, name := range names {
		all = append(all, w.Objects[name])
	}
	return all
}

func (w *World) hasDatabase(name string) bool {
	parts := strings.SplitN(name, "/", 5)
	_, ok := w.Objects["firestore/"+strings.Join(parts[:4], "/")]
	return ok
}

func (w *World) batch(r *http.Request, _ string) (any, int) {
	services := []any{}
	for _, name := range r.URL.Query()["names"] {
		if o, ok := w.Objects["serviceusage/"+name]; ok {
			services = append(services, o)
		} else {
			services = append(services, map[string]any{"name": name, "state": "DISABLED"})
		}
	}
	return map[string]any{"services": services}, 200
}

func (w *World) topicSubscriptions(_ *http.Request, name string) (any, int) {
	topic := strings.TrimSuffix(name, "/subscriptions")
	if _, ok := w.Objects["pubsub/"+topic]; !ok {
		return nil, 404
	}
	names := []string{}
	for _, o := range w.Objects {
		if o["topic"] == topic {
			names = append(names, fmt.Sprint(o["name"]))
		}
	}
	slices.Sort(names)
	return map[string]any{"subscriptions": names}, 200
}

func (w *World) series(r *http.Request, _ string) (any, int) {
	q := r.URL.Query()
	filter := q.Get("filter")
	list := []any{}
	add := func(id string, labels map[string]any, value any) {
		if strings.Contains(filter, `"`+id+`"`) {
			list = append(list, map[string]any{
				"metric": map[string]any{"labels": labels}, "resource": map[string]any{"labels": map[string]any{"subscription_id": id}},
				"points": []any{map[string]any{"value": value}},
			})
		}
	}
	whole := func(n float64) any { return map[string]any{"int64Value": fmt.Sprintf("%.0f", n)} }
	each := func(from map[string]float64, value func(float64) any) {
		for id, n := range from {
			add(id, nil, value(n))
		}
	}
	switch {
	case strings.Contains(filter, "/num_undelivered_messages"):
		each(w.Undelivered, whole)
	case strings.Contains(filter, "/oldest_unacked_message_age"):
		each(w.Oldest, whole)
	case strings.Contains(filter, "/push_request_latencies"):
		if q.Get("aggregation.crossSeriesReducer") == "REDUCE_PERCENTILE_99" {
			each(w.Latency, func(n float64) any { return map[string]any{"doubleValue": n} })
		}
	case strings.Contains(filter, "/push_request_count"):
		for id, classes := range w.Pushes {
			for class, n := range classes {
				add(id, map[string]any{"response_class": class}, whole(n))
			}
		}
	default:
		return nil, 400
	}
	return map[string]any{"timeSeries": list}, 200
}

func (w *World) entries(*http.Request, string) (any, int) {
	list := []any{}
	for _, one := range w.Refusals {
		list = append(list, map[string]any{
			"timestamp": time.Now().UTC().Format(time.RFC3339), "jsonPayload": map[string]any{"refusal": one.Reason, "error": one.Error},
			"httpRequest": map[string]any{"status": one.Status},
		})
	}
	return map[string]any{"entries": list}, 200
}

// troubleshoot says what the policies of this world say; folders and organisations grant
// nothing here.
func (w *World) troubleshoot(r *http.Request, _ string) (any, int) {
	var asked struct {
		AccessTuple struct{ Principal, FullResourceName, Permission string }
	}
	if json.NewDecoder(r.Body).Decode(&asked) != nil {
		return nil, 400
	}
	t := asked.AccessTuple
	host, name, _ := strings.Cut(strings.TrimPrefix(t.FullResourceName, "//"), "/")
	api, _, _ := strings.Cut(host, ".")
	for _, on := range []string{api + "/" + name, "cloudresourcemanager/projects/" + Project} {
		for _, b := range w.Policies[on] {
			if b.Members[0] == "serviceAccount:"+t.Principal && slices.Contains(w.Roles[b.Role], t.Permission) {
				return map[string]any{"access": "GRANTED"}, 200
			}
		}
	}
	return map[string]any{"access": "NOT_GRANTED"}, 200
}
