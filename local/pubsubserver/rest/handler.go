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
	"strconv"
	"strings"
	"time"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"github.com/grpc-ecosystem/grpc-gateway/v2/utilities"
	"google.golang.org/genproto/googleapis/rpc/code"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// newHandler returns the handler of REST.
func newHandler(s Services, g guard) (http.Handler, error) {
	mux := runtime.NewServeMux(
		runtime.WithErrorHandler(func(_ context.Context, _ *runtime.ServeMux, _ runtime.Marshaler, w http.ResponseWriter, _ *http.Request, err error) {
			writeError(w, err)
		}),
		runtime.WithRoutingErrorHandler(writeRoutingError),
		runtime.WithDisablePathLengthFallback(),
		runtime.WithDisableHTTPMethodOverride(),
	)
	methods := s.methods()
	for _, r := range routes {
		if err := mux.HandlePath(r.verb, r.pattern, r.handler(methods[r.method])); err != nil {
			return nil, fmt.Errorf("%s: %w", r.pattern, err)
		}
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
		mux.ServeHTTP(w, r)
	}), nil
}

// method is a method of a service in this process. decode reads the request into a message.
type method func(ctx context.Context, decode func(request any) error) (answer any, err error)

// methods returns the methods of all services by their full names.
func (s Services) methods() map[string]method {
	all := make(map[string]method)
	for _, service := range s.all() {
		for _, m := range service.desc.Methods {
			all[service.desc.ServiceName+"."+m.MethodName] = func(ctx context.Context, decode func(any) error) (any, error) {
				return m.Handler(service.server, ctx, decode, nil)
			}
		}
	}
	return all
}

// handler answers the requests of a route. No name has a colon: it is a verb that the
// method has not.
func (r route) handler(call method) runtime.HandlerFunc {
	return func(w http.ResponseWriter, q *http.Request, path map[string]string) {
		if customVerb(r.pattern) == "" && customVerb(q.URL.Path) != "" {
			writeRoutingError(q.Context(), nil, nil, w, q, http.StatusMethodNotAllowed)
			return
		}
		query, err := takeSystemParameters(q)
		var content, encoded []byte
		if err == nil {
			content, err = readBody(w, q)
		}
		var answer any
		if err == nil {
			// As in a call of gRPC, which the services may look at.
			ctx := metadata.NewIncomingContext(q.Context(), metadata.MD{"authorization": q.Header["Authorization"]})
			answer, err = call(ctx, func(request any) error {
				return invalid(r.decode(request.(proto.Message), path, query, content))
			})
		}
		if err == nil {
			encoded, err = protojson.Marshal(answer.(proto.Message))
		}
		if err != nil {
			writeError(w, err)
			return
		}
		w.Header().Set("Content-Type", contentType)
		w.Header().Set("Content-Length", strconv.Itoa(len(encoded)))
		_, _ = w.Write(encoded) // fails when the client has gone
	}
}

// contentType is that of every answer.
const contentType = "application/json; charset=UTF-8"

// invalid returns err, if any, as INVALID_ARGUMENT.
func invalid(err error) error {
	if err == nil {
		return nil
	}
	return status.Error(codes.InvalidArgument, err.Error())
}

// updateMask is the field of a request that says what to change.
const updateMask = "update_mask"

// decode reads a request. It refuses query parameters that the method does not have.
func (r route) decode(request proto.Message, path map[string]string, query url.Values, content []byte) error {
	message := request.ProtoReflect()
	fields := message.Descriptor().Fields()
	if r.body != "" && len(bytes.TrimSpace(content)) > 0 {
		into := request
		if r.body != "*" {
			into = message.Mutable(fields.ByName(protoreflect.Name(r.body))).Message().Interface()
		}
		if err := protojson.Unmarshal(content, into); err != nil {
			return err
		}
	}
	for name, values := range query {
		isMask := name == "updateMask" || name == updateMask
		if mask := fields.ByName(updateMask); isMask && mask != nil && r.verb == http.MethodPatch && len(values) == 1 {
			if err := setMask(message, mask, values[0]); err != nil {
				return err
			}
			delete(query, name)
			continue
		}
		if _, inPath := path[name]; inPath || r.body == "*" || !hasField(message.Descriptor(), name) {
			return fmt.Errorf("unknown query parameter %q", name)
		}
	}
	for name, value := range path {
		if err := runtime.PopulateFieldFromPath(request, name, value); err != nil {
			return err
		}
	}
	return runtime.PopulateQueryParameters(request, query, utilities.NewDoubleArray([][]string{{r.body}}))
}

// setMask sets the update mask of a request to that of the query. Terraform sends it
// there, although the body is the whole request.
func setMask(message protoreflect.Message, field protoreflect.FieldDescriptor, mask string) error {
	if message.Has(field) {
		return errors.New("the update mask is in the query and in the body; send one")
	}
	quoted, err := json.Marshal(mask)
	if err != nil {
		return err
	}
	if err := protojson.Unmarshal(quoted, message.Mutable(field).Message().Interface()); err != nil {
		return fmt.Errorf("the query parameter updateMask=%q is not valid: it has names in camelCase with commas between them", mask)
	}
	return nil
}

// readBody reads the whole body: a sender that is slow gets its time here, and a Pull
// may take longer afterwards.
func readBody(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	if r.ContentLength == 0 && r.Header.Get("Content-Type") == "" {
		return nil, nil
	}
	if err := checkContentType(r.Header.Get("Content-Type")); err != nil {
		return nil, err
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
			return nil, status.Errorf(codes.InvalidArgument, "the body is not valid gzip: %v", err)
		}
		content = zipped
	default:
		return nil, httpError(http.StatusUnsupportedMediaType, codes.InvalidArgument, "the Content-Encoding %q is not supported; send gzip or none", encoding)
	}
	raw, err := io.ReadAll(io.LimitReader(content, MaxSize+1))
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge) || len(raw) > MaxSize:
		return nil, status.Errorf(codes.InvalidArgument, "the body is larger than %d bytes", MaxSize)
	case err != nil:
		return nil, status.Errorf(codes.InvalidArgument, "the body cannot be read: %v", err)
	}
	return raw, nil
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

// systemParameters are those of every API of Google; more begin with "$".
var systemParameters = []string{
	"access_token", "alt", "fields", "key", "oauth_token", "prettyPrint", "quotaUser", "uploadType", "upload_protocol", "userProject",
}

// takeSystemParameters returns the query without Google's system parameters. It
// refuses those that ask for another answer than JSON.
func takeSystemParameters(r *http.Request) (url.Values, error) {
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return nil, status.Errorf(codes.InvalidArgument, "the query is not valid: %v", err)
	}
	for key, values := range query {
		switch name := strings.TrimPrefix(key, "$"); {
		case name == "callback":
			return nil, status.Errorf(codes.InvalidArgument, "the query parameter %q is not supported: JSONP is not there", key)
		case name == "alt" && !slices.Equal(values, []string{"json"}):
			return nil, status.Errorf(codes.InvalidArgument, "the query parameter %s=%q is not supported; the only answer is json", key, values[0])
		case name != key || slices.Contains(systemParameters, name):
			query.Del(key)
		}
	}
	return query, nil
}

// hasField reports whether a message has a field of this name or path.
func hasField(message protoreflect.MessageDescriptor, path string) bool {
	for name := range strings.SplitSeq(path, ".") {
		if message == nil { // of a field that is not a message
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
	w.Header().Set("Content-Type", contentType)
	w.WriteHeader(httpStatus)
	_, _ = w.Write(encoded) // the client has gone
}
