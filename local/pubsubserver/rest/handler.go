package rest

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"cloud.google.com/go/pubsub/v2/apiv1/pubsubpb"
	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"google.golang.org/genproto/googleapis/rpc/code"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
)

// newHandler returns the handler of REST.
func newHandler(s Services, g guard) (http.Handler, error) {
	check, err := checkRoute()
	if err != nil {
		return nil, err
	}
	mux := runtime.NewServeMux(
		runtime.WithMarshalerOption(runtime.MIMEWildcard, marshaler{new(runtime.JSONPb)}),
		runtime.WithErrorHandler(func(_ context.Context, _ *runtime.ServeMux, _ runtime.Marshaler, w http.ResponseWriter, _ *http.Request, err error) {
			writeError(w, err)
		}),
		runtime.WithRoutingErrorHandler(writeRoutingError),
		runtime.WithIncomingHeaderMatcher(func(string) (string, bool) { return "", false }),
		runtime.WithDisablePathLengthFallback(),
		runtime.WithDisableHTTPMethodOverride(),
		runtime.WithWriteContentLength(),
		runtime.WithMiddlewares(check),
	)
	ctx := context.Background() // the in-process forms do not use it
	if err := errors.Join(
		RegisterPublisherHandlerServer(ctx, mux, s.Publisher),
		RegisterSubscriberHandlerServer(ctx, mux, s.Subscriber),
		RegisterSchemaServiceHandlerServer(ctx, mux, pubsubpb.UnimplementedSchemaServiceServer{}),
		RegisterIAMPolicyHandlerServer(ctx, mux, policyServer{s.Policies}),
	); err != nil {
		return nil, err
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Server", Server)
		if err := g.checkRequest(r); err != nil {
			writeError(w, err)
			return
		}
		if r.URL.Path == "/" && r.Method == http.MethodGet { // whoever waits for an emulator asks for this
			_, _ = io.WriteString(w, "Ok\n")
			return
		}
		for _, prepare := range []func(http.ResponseWriter, *http.Request) error{takeSystemParameters, readBody} {
			if err := prepare(w, r); err != nil {
				writeError(w, err)
				return
			}
		}
		mux.ServeHTTP(w, r)
	}), nil
}

// readBody replaces the body by what was read of it, all of it: a reader that
// is slow gets its time here, and a Pull may take longer afterwards.
func readBody(w http.ResponseWriter, r *http.Request) error {
	if r.ContentLength == 0 && r.Header.Get("Content-Type") == "" {
		return nil
	}
	if err := checkContentType(r.Header.Get("Content-Type")); err != nil {
		return err
	}
	control := http.NewResponseController(w)
	_ = control.SetReadDeadline(time.Now().Add(bodyTimeout)) // both are of net/http, which has it
	defer func() { _ = control.SetReadDeadline(time.Time{}) }()
	content := io.Reader(http.MaxBytesReader(w, r.Body, MaxSize))
	switch encoding := r.Header.Get("Content-Encoding"); encoding {
	case "", "identity":
	case "gzip": // Google's Java client
		zipped, err := gzip.NewReader(content)
		if err != nil {
			return status.Errorf(codes.InvalidArgument, "the body is not valid gzip: %v", err)
		}
		content = zipped
	default:
		return httpError(http.StatusUnsupportedMediaType, codes.InvalidArgument, "the Content-Encoding %q is not supported; send gzip or none", encoding)
	}
	raw, err := io.ReadAll(io.LimitReader(content, MaxSize+1))
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge) || len(raw) > MaxSize:
		return status.Errorf(codes.InvalidArgument, "the body is larger than %d bytes", MaxSize)
	case err != nil:
		return status.Errorf(codes.InvalidArgument, "the body cannot be read: %v", err)
	}
	r.Body = body{Reader: bytes.NewReader(raw), raw: raw}
	return nil
}

// checkContentType allows JSON and, because some of Google's clients send none,
// nothing.
func checkContentType(value string) error {
	if value == "" {
		return nil
	}
	// curl -d says that it sends a form. A web page can too; its Origin is refused.
	if kind, _, err := mime.ParseMediaType(value); err != nil || kind != "application/json" && kind != "application/x-www-form-urlencoded" {
		return httpError(http.StatusUnsupportedMediaType, codes.InvalidArgument, "the Content-Type %q is not supported; send application/json", value)
	}
	return nil
}

// body is a request's body in memory.
type body struct {
	*bytes.Reader
	raw []byte
	// mask is the update mask in the query. Terraform sends it there, although the
	// body is the whole request.
	mask string
}

func (body) Close() error { return nil }

// addMask sets the update mask of a request to that of the query.
func (b body) addMask(request proto.Message) error {
	message := request.ProtoReflect()
	field := message.Descriptor().Fields().ByName(updateMask)
	if b.mask == "" || field == nil {
		return nil
	}
	if message.Has(field) {
		return errors.New("the update mask is in the query and in the body; send one")
	}
	quoted, err := json.Marshal(b.mask)
	if err != nil {
		return err
	}
	if err := protojson.Unmarshal(quoted, message.Mutable(field).Message().Interface()); err != nil {
		return fmt.Errorf("the query parameter updateMask=%q is not valid: it has names in camelCase with commas between them", b.mask)
	}
	return nil
}

// updateMask is the field of a request that says what to change.
const updateMask = "update_mask"

// marshaler is JSON as Google's APIs have it. Unlike JSONPb it refuses what
// follows the first value of a body.
type marshaler struct {
	*runtime.JSONPb
}

func (marshaler) ContentType(any) string { return "application/json; charset=UTF-8" }

func (m marshaler) NewDecoder(r io.Reader) runtime.Decoder {
	return runtime.DecoderFunc(func(v any) error {
		b, ok := r.(body)
		if !ok || len(bytes.TrimSpace(b.raw)) == 0 && b.mask == "" {
			return io.EOF // the gateway takes it as {}
		}
		if message, ok := v.(proto.Message); ok {
			raw := b.raw
			if len(bytes.TrimSpace(raw)) == 0 {
				raw = []byte("{}")
			}
			if err := m.UnmarshalOptions.Unmarshal(raw, message); err != nil {
				return err
			}
			return b.addMask(message)
		}
		return m.Unmarshal(b.raw, v)
	})
}

// systemParameters are those of every API of Google; more begin with "$".
var systemParameters = []string{
	"access_token", "alt", "fields", "key", "oauth_token", "prettyPrint", "quotaUser", "uploadType", "upload_protocol", "userProject",
}

// takeSystemParameters removes Google's system parameters from a request. It
// refuses those that ask for another answer than JSON.
func takeSystemParameters(_ http.ResponseWriter, r *http.Request) error {
	if r.URL.RawQuery == "" {
		return nil
	}
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return status.Errorf(codes.InvalidArgument, "the query is not valid: %v", err)
	}
	for key, values := range query {
		switch name := strings.TrimPrefix(key, "$"); {
		case name == "callback":
			return status.Errorf(codes.InvalidArgument, "the query parameter %q is not supported: JSONP is not there", key)
		case name == "alt" && !slices.Equal(values, []string{"json"}):
			return status.Errorf(codes.InvalidArgument, "the query parameter %s=%q is not supported; the only answer is json", key, values[0])
		case name != key || slices.Contains(systemParameters, name):
			query.Del(key)
		}
	}
	r.URL.RawQuery = query.Encode()
	return nil
}

// route is one HTTP route and the method that answers it. The fields of the
// request's message come from the path and the body, which is all of it ("*"),
// one field, or nothing; then the query has the others.
type route struct {
	verb, pattern, method, body string
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

// checkRoute returns a middleware that refuses query parameters which the
// method does not have: the gateway would ignore them. It also refuses names
// with a colon, since no name has one: it is a verb that this method has not.
func checkRoute() (runtime.Middleware, error) {
	inputs := make(map[string]protoreflect.MessageDescriptor, len(routes))
	masks := make(map[string]bool) // routes whose update mask may be in the query
	for _, r := range routes {
		found, err := protoregistry.GlobalFiles.FindDescriptorByName(protoreflect.FullName(r.method))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", r.method, err)
		}
		input := found.(protoreflect.MethodDescriptor).Input()
		if r.body != "*" {
			inputs[r.verb+" "+r.pattern] = input
		} else {
			masks[r.verb+" "+r.pattern] = r.verb == http.MethodPatch && input.Fields().ByName(updateMask) != nil
		}
	}
	return func(next runtime.HandlerFunc) runtime.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request, path map[string]string) {
			pattern, _ := runtime.HTTPPattern(r.Context())
			if pattern.Verb() == "" && customVerb(r.URL.Path) != "" {
				writeRoutingError(r.Context(), nil, nil, w, r, http.StatusMethodNotAllowed)
				return
			}
			input := inputs[r.Method+" "+pattern.String()]
			for name, values := range r.URL.Query() {
				if masks[r.Method+" "+pattern.String()] && (name == "updateMask" || name == updateMask) && len(values) == 1 {
					masked, _ := r.Body.(body)
					if masked.mask = values[0]; masked.Reader == nil {
						masked.Reader = bytes.NewReader(nil)
					}
					r.Body = masked
					continue
				}
				if _, inPath := path[name]; inPath || !hasField(input, name) {
					writeError(w, status.Errorf(codes.InvalidArgument, "unknown query parameter %q", name))
					return
				}
			}
			next(w, r, path)
		}
	}, nil
}

// hasField reports whether a message, nil being one without fields, has a field
// of this name or path.
func hasField(message protoreflect.MessageDescriptor, path string) bool {
	for name := range strings.SplitSeq(path, ".") {
		if message == nil {
			return false
		}
		field := message.Fields().ByJSONName(name)
		if field == nil {
			field = message.Fields().ByTextName(name)
		}
		if field == nil {
			return false
		}
		message = field.Message()
	}
	return true
}

// httpError returns an error with a status that its code does not have.
func httpError(httpStatus int, c codes.Code, format string, args ...any) error {
	return &runtime.HTTPStatusError{HTTPStatus: httpStatus, Err: status.Errorf(c, format, args...)}
}

func writeRoutingError(_ context.Context, _ *runtime.ServeMux, _ runtime.Marshaler, w http.ResponseWriter, r *http.Request, httpStatus int) {
	if verb := customVerb(r.URL.Path); verb != "" && !customVerbs[verb] {
		httpStatus = http.StatusNotFound
	}
	switch httpStatus {
	case http.StatusMethodNotAllowed:
		writeError(w, httpError(httpStatus, codes.Unimplemented, "the method %s is not allowed on %s", r.Method, r.URL.Path))
	case http.StatusNotFound:
		writeError(w, status.Errorf(codes.NotFound, "Pub/Sub has no method at %s", r.URL.Path))
	default:
		writeError(w, status.Errorf(codes.InvalidArgument, "%q is not a valid path", r.URL.Path))
	}
}

// writeError answers with an error in the form that Google's APIs have.
func writeError(w http.ResponseWriter, err error) {
	httpStatus := 0
	var special *runtime.HTTPStatusError
	if errors.As(err, &special) {
		httpStatus, err = special.HTTPStatus, special.Err
	}
	s := status.Convert(err)
	switch {
	case httpStatus != 0:
	case s.Code() == codes.Unimplemented:
		httpStatus = http.StatusBadRequest // see the package comment
	default:
		httpStatus = runtime.HTTPStatusFromCode(s.Code())
	}
	type content struct {
		Code    int               `json:"code"`
		Message string            `json:"message"`
		Status  string            `json:"status"`
		Details []json.RawMessage `json:"details,omitempty"`
	}
	c := content{Code: httpStatus, Status: code.Code(s.Code()).String()}
	c.Message = strings.ReplaceAll(s.Message(), "\u00a0", " ") // protojson varies its errors by this one
	for _, detail := range s.Proto().GetDetails() {
		if encoded, err := protojson.Marshal(detail); err == nil { // one of an unknown type is left out
			c.Details = append(c.Details, encoded)
		}
	}
	encoded, err := json.Marshal(map[string]content{"error": c})
	if err != nil {
		http.Error(w, "the error cannot be encoded", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", marshaler{}.ContentType(nil))
	w.WriteHeader(httpStatus)
	_, _ = w.Write(encoded) // the client has gone
}
