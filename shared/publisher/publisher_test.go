package publisher_test

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"cloud.google.com/go/pubsub/v2"
	"cloud.google.com/go/pubsub/v2/apiv1/pubsubpb"
	"cloud.google.com/go/pubsub/v2/pstest"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/testing/protocmp"

	"example.com/pushinbox/local/pushfake"
	"example.com/pushinbox/shared/problem"
	"example.com/pushinbox/shared/publisher"
)

// topic returns a publisher to a topic of an in-process Pub/Sub.
func topic(t *testing.T, opts ...pstest.ServerReactorOption) (*pstest.Server, *publisher.Publisher) {
	t.Helper()
	server := pstest.NewServer(opts...)
	t.Cleanup(func() { _ = server.Close() })
	client, err := pushfake.Dial(t.Context(), server.Addr, "p")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	if _, err := client.TopicAdminClient.CreateTopic(t.Context(), &pubsubpb.Topic{Name: "projects/p/topics/t"}); err != nil {
		t.Fatal(err)
	}
	p, err := publisher.New(client, "t")
	if err != nil {
		t.Fatal(err)
	}
	return server, p
}

func TestPublishKeepsOrderAndContent(t *testing.T) {
	t.Parallel()
	server, p := topic(t)
	ids, err := p.Publish(t.Context(), []*pubsubpb.PubsubMessage{
		{Data: []byte("a"), OrderingKey: "k"},
		{Attributes: map[string]string{"k": "v"}, OrderingKey: "k"},
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(ids) != 2 || ids[0] == ids[1] {
		t.Fatalf("IDs %v", ids)
	}
	if m := server.Message(ids[0]); string(m.Data) != "a" || m.OrderingKey != "k" {
		t.Errorf("first: %+v", m)
	}
	if m := server.Message(ids[1]); len(m.Data) != 0 || m.Attributes["k"] != "v" {
		t.Errorf("second: %+v", m)
	}
}

func TestPublishErrors(t *testing.T) {
	t.Parallel()
	one := []*pubsubpb.PubsubMessage{{Data: []byte("a")}}
	for name, test := range map[string]struct {
		code   codes.Code
		status int
		detail string
	}{
		"down":      {codes.FailedPrecondition, 503, "try again"},
		"no_topic":  {codes.NotFound, 404, "does not exist"},
		"no_right":  {codes.PermissionDenied, 500, "roles/pubsub.publisher"},
		"refused":   {codes.InvalidArgument, 400, "refused the messages"},
		"no_access": {codes.Unauthenticated, 500, "roles/pubsub.publisher"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, p := topic(t, pstest.WithErrorInjection("Publish", test.code, "what Pub/Sub says"))
			_, err := p.Publish(t.Context(), one)
			status, detail := problem.Of(err)
			if status != test.status || !strings.Contains(detail, test.detail) || !strings.Contains(err.Error(), "what Pub/Sub says") {
				t.Errorf("%d %q for %v", status, detail, err)
			}
			if retry := strings.Contains(detail, "try again"); retry != (status == 503) {
				t.Errorf("%q says to try again: %v", detail, retry)
			}
		})
	}
	t.Run("context_ends_while_unavailable", func(t *testing.T) {
		t.Parallel()
		_, p := topic(t, pstest.WithErrorInjection("Publish", codes.Unavailable, "down"))
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := p.Publish(ctx, one); !errors.Is(err, context.Canceled) {
			t.Errorf("got %v, want the context's error", err)
		}
	})
	t.Run("unavailable_for_too_long", func(t *testing.T) {
		t.Parallel()
		_, p := topic(t, pstest.WithErrorInjection("Publish", codes.Unavailable, "the cause"))
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := p.Publish(ctx, one)
		if !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, publisher.ErrUnavailable) || !strings.Contains(err.Error(), "the cause") {
			t.Errorf("got %v, want the last error too", err)
		}
	})
}

func TestLimits(t *testing.T) {
	t.Parallel()
	attributes := func(n int) map[string]string {
		m := make(map[string]string)
		for i := range n {
			m[fmt.Sprint("k", i)] = "v"
		}
		return m
	}
	message := func(change func(*pubsubpb.PubsubMessage)) []*pubsubpb.PubsubMessage {
		m := &pubsubpb.PubsubMessage{Data: []byte("a")}
		change(m)
		return []*pubsubpb.PubsubMessage{{Data: []byte("good"), OrderingKey: m.OrderingKey}, m}
	}
	many := func(n int) []*pubsubpb.PubsubMessage {
		all := make([]*pubsubpb.PubsubMessage, n)
		for i := range all {
			all[i] = &pubsubpb.PubsubMessage{Data: []byte("a")}
		}
		return all
	}
	key := strings.Repeat("k", 1024)
	for name, test := range map[string]struct {
		messages []*pubsubpb.PubsubMessage
		want     string
	}{
		"none":                        {nil, "the request has 0 messages; the limit is 1 to 1000"},
		"thousand":                    {many(1000), ""},
		"thousand_and_one":            {many(1001), "the request has 1001 messages; the limit is 1 to 1000"},
		"neither_data_nor_attributes": {message(func(m *pubsubpb.PubsubMessage) { m.Data = nil }), "message 1 has neither data nor attributes; it needs at least one byte of data or one attribute"},
		"attributes_only":             {message(func(m *pubsubpb.PubsubMessage) { m.Data, m.Attributes = nil, attributes(1) }), ""},
		"hundred_attributes":          {message(func(m *pubsubpb.PubsubMessage) { m.Attributes = attributes(100) }), ""},
		"too_many_attributes":         {message(func(m *pubsubpb.PubsubMessage) { m.Attributes = attributes(101) }), "message 1 has 101 attributes; the limit is 100"},
		"longest_key":                 {message(func(m *pubsubpb.PubsubMessage) { m.Attributes = map[string]string{key[:256]: "v"} }), ""},
		"key_too_long":                {message(func(m *pubsubpb.PubsubMessage) { m.Attributes = map[string]string{key[:257]: "v"} }), "message 1 has an attribute key of 257 bytes; the limit is 256"},
		"key_empty":                   {message(func(m *pubsubpb.PubsubMessage) { m.Attributes = map[string]string{"": "v"} }), "message 1 has an attribute key of 0 bytes; the limit is at least one byte"},
		"key_of_googles_client": {message(func(m *pubsubpb.PubsubMessage) {
			m.Attributes = map[string]string{"googclient_traceparent": "00-1-2-01"}
		}), ""},
		"key_reserved":          {message(func(m *pubsubpb.PubsubMessage) { m.Attributes = map[string]string{"googclient": "v"} }), `message 1 has an attribute key that starts with "goog"; the limit is any prefix but "goog"`},
		"longest_value":         {message(func(m *pubsubpb.PubsubMessage) { m.Attributes = map[string]string{"k": key} }), ""},
		"value_too_long":        {message(func(m *pubsubpb.PubsubMessage) { m.Attributes = map[string]string{"k": key + "v"} }), "message 1 has an attribute value of 1025 bytes; the limit is 1024"},
		"value_not_utf8":        {message(func(m *pubsubpb.PubsubMessage) { m.Attributes = map[string]string{"k": "\xff"} }), "message 1 has an attribute that is not UTF-8; the limit is UTF-8"},
		"longest_ordering_key":  {message(func(m *pubsubpb.PubsubMessage) { m.OrderingKey = key }), ""},
		"ordering_key_too_long": {message(func(m *pubsubpb.PubsubMessage) { m.OrderingKey = key + "k" }), "message 0 has an ordering key of 1025 bytes; the limit is 1024"},
		"two_ordering_keys":     {[]*pubsubpb.PubsubMessage{{Data: []byte("a"), OrderingKey: "k"}, {Data: []byte("b")}}, "message 1 has another ordering key than message 0; the limit is one ordering key for each request"},
		"largest_message":       {[]*pubsubpb.PubsubMessage{{Data: make([]byte, 9_999_980)}}, ""},
		"too_large":             {[]*pubsubpb.PubsubMessage{{Data: []byte("a")}, {Data: make([]byte, 10_000_000)}}, "the request has 10000015 bytes, 10000000 of them in message 1; the limit is 10000000"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			err := publisher.Check(test.messages)
			if test.want == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			if err == nil || err.Error() != test.want {
				t.Fatalf("got  %v\nwant %s", err, test.want)
			}
			if status, detail := problem.Of(err); status != http.StatusBadRequest || detail != test.want {
				t.Errorf("answered %d %q", status, detail)
			}
		})
	}
}

func TestNothingIsPublishedWhenOneIsBad(t *testing.T) {
	t.Parallel()
	server, p := topic(t)
	if _, err := p.Publish(t.Context(), []*pubsubpb.PubsubMessage{{Data: []byte("good")}, {}}); err == nil {
		t.Fatal("no error")
	}
	if n := len(server.Messages()); n != 0 {
		t.Errorf("%d messages were published", n)
	}
}

func TestParse(t *testing.T) {
	t.Parallel()
	data := base64.StdEncoding.EncodeToString([]byte("hi"))
	for name, test := range map[string]struct {
		contentType, query, body string
		want                     []*pubsubpb.PubsubMessage
	}{
		"json": {
			"application/json", "", `{"messages":[{"data":"` + data + `","attributes":{"k":"v"},"orderingKey":"o"},{"attributes":{"a":"b"}}]}`,
			[]*pubsubpb.PubsubMessage{{Data: []byte("hi"), Attributes: map[string]string{"k": "v"}, OrderingKey: "o"}, {Attributes: map[string]string{"a": "b"}}},
		},
		"json_server_set_fields_dropped": {
			"application/json", "", `{"messages":[{"data":"` + data + `","messageId":"7","publishTime":"2026-01-01T00:00:00Z"}]}`,
			[]*pubsubpb.PubsubMessage{{Data: []byte("hi")}},
		},
		"form": {
			"application/x-www-form-urlencoded", "", url.Values{"payload": {"a\nb"}, "attributes": {"k=v\r\n e = =f \n\n"}, "orderingKey": {"o"}}.Encode(),
			[]*pubsubpb.PubsubMessage{{Data: []byte("a\nb"), Attributes: map[string]string{"k": "v", "e": "=f"}, OrderingKey: "o"}},
		},
		"raw": {
			"text/plain; charset=utf-8", "attribute.k=v&attribute.x.y=", "\x00\xff",
			[]*pubsubpb.PubsubMessage{{Data: []byte("\x00\xff"), Attributes: map[string]string{"k": "v", "x.y": "", "content-type": "text/plain; charset=utf-8"}}},
		},
		"raw_own_content_type": {
			"text/plain", "attribute.content-type=image/png", "x",
			[]*pubsubpb.PubsubMessage{{Data: []byte("x"), Attributes: map[string]string{"content-type": "image/png"}}},
		},
		"raw_without_type": {"", "", "x", []*pubsubpb.PubsubMessage{{Data: []byte("x")}}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := publisher.Parse(http.Header{"Content-Type": {test.contentType}}, test.query, []byte(test.body))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, got, protocmp.Transform()); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestParseRefuses(t *testing.T) {
	t.Parallel()
	const form = "application/x-www-form-urlencoded"
	for name, test := range map[string]struct{ contentType, query, body, want string }{
		"form_line_without_sign": {form, "", "payload=a&attributes=k", "line 1 of attributes is not key=value"},
		"form_key_twice":         {form, "", "payload=a&attributes=k%3D1%0Ak%3D2", `the attribute "k" occurs twice`},
		"form_bad_escape":        {form, "", "payload=%zz", `invalid URL escape "%zz"`},
		"form_unknown_field":     {form, "", "payload=a&orderingkey=k", `unknown field "orderingkey"`},
		"form_of_json":           {form, "", `{"messages":[]}`, "for JSON send the Content-Type application/json"},
		"form_field_twice":       {form, "", "payload=a&payload=b", "the field payload more than once"},
		"form_semicolon":         {form, "", "payload=a;orderingKey=b", "invalid semicolon"},
		"form_with_parameters":   {form, "attribute.k=v", "payload=a", `unknown parameter "attribute.k"; a form has no parameters`},
		"json_with_parameters":   {"application/json", "attribute.k=v", `{"messages":[]}`, `unknown parameter "attribute.k"; a JSON body has no parameters`},
		"raw_key_twice":          {"text/plain", "attribute.k=1&attribute.k=2", "x", `the attribute "k" occurs twice`},
		"raw_unknown_parameter":  {"text/plain", "attribute.a=1&attr.k=v", "x", `unknown parameter "attr.k"; allowed is attribute.KEY=VALUE`},
		"raw_in_capitals":        {"text/plain", "Attribute.k=v", "x", `unknown parameter "Attribute.k"`},
		"raw_bad_query":          {"text/plain", "attribute.k=%zz", "x", `invalid URL escape "%zz"`},
		"raw_semicolon":          {"text/plain", "attribute.k=v;attribute.l=w", "x", "invalid semicolon"},
		"raw_long_parameter":     {"text/plain", strings.Repeat("k", 5000), "x", `"` + strings.Repeat("k", 64) + `"; allowed`},
		"bad_content_type":       {"text/", "", "x", "the Content-Type cannot be read"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := publisher.Parse(http.Header{"Content-Type": {test.contentType}}, test.query, []byte(test.body))
			if status, detail := problem.Of(err); status != http.StatusBadRequest || !strings.Contains(detail, test.want) {
				t.Errorf("got %v, %d %q, want %q", got, status, detail, test.want)
			}
		})
	}
}

// What is wrong with a JSON body is named with its place.
func TestPlaces(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct{ body, want string }{
		"empty":                {"", "it is empty"},
		"spaces":               {" \n", "it is empty"},
		"null":                 {"null", "the body, at byte 0, is null and must be an object"},
		"array":                {"[]", "the body, at byte 0, is an array and must be an object"},
		"string":               {`"x"`, "the body, at byte 0, is a string and must be an object"},
		"number":               {"1e999", "the body, at byte 0, is a number and must be an object"},
		"bom":                  {"\ufeff{}", "it begins with a byte order mark (BOM), at byte 0"},
		"utf16_bom":            {"\xff\xfe{\x00}\x00", "it begins with the byte order mark (BOM) of UTF-16"},
		"utf16":                {"{\x00}\x00", "it is not JSON: invalid character '\\x00'"},
		"not_json":             {"{messages:[]}", "invalid character 'm'"},
		"single_quotes":        {"{'messages':[]}", `invalid character '\''`},
		"comma_too_many":       {`{"messages":[],}`, "it is not JSON"},
		"ends_early":           {`{"messages":[{"data":"aGk="}`, "it ends early, in messages, at byte 28"},
		"ends_in_a_string":     {`{"messages":[{"data":"aGk`, "it ends early, in messages[0].data, at byte 25"},
		"trailing":             {`{"messages":[]} x`, "something follows its end, at byte 16"},
		"two_objects":          {`{"messages":[]}{"messages":[]}`, "something follows its end, at byte 15"},
		"deep":                 {`{"messages":` + strings.Repeat("[", 20_000), "messages[0], at byte 13, is an array and must be an object"},
		"deep_unknown":         {`{"x":` + strings.Repeat("[", 20_000), `the body has the unknown field "x", at byte 1; its fields are messages`},
		"unknown_field":        {`{"messages":[{"data":""},{"data":"","atributes":{}}]}`, `messages[1] has the unknown field "atributes", at byte 36; its fields are data, attributes, orderingKey, messageId, publishTime`},
		"field_in_capitals":    {`{"messages":[{"DATA":"aGk="}]}`, `messages[0] has the unknown field "DATA"`},
		"messages_in_capital":  {`{"Messages":[]}`, `the body has the unknown field "Messages", at byte 1`},
		"topic_in_the_body":    {`{"topic":"projects/p/topics/other","messages":[{"data":"aGk="}]}`, `the body has the unknown field "topic"`},
		"extension":            {`{"[a.b]":1}`, `the body has the unknown field "[a.b]"`},
		"field_twice":          {`{"messages":[{"data":"aGk=","data":"aGk="}]}`, `messages[0] has the field "data" twice, at byte 28`},
		"field_twice_escaped":  {`{"messages":[{"data":"aGk=","d\u0061ta":"aGk="}]}`, `messages[0] has the field "data" twice`},
		"field_in_two_styles":  {`{"messages":[{"orderingKey":"a","ordering_key":"b"}]}`, `messages[0] has the field "ordering_key" twice`},
		"messages_twice":       {`{"messages":[],"messages":[]}`, `the body has the field "messages" twice, at byte 15`},
		"attribute_twice":      {`{"messages":[{"attributes":{"k":"a","k":"b"}}]}`, `messages[0].attributes has the field "k" twice`},
		"topic_of_ours":        {`{"topic":"","messages":[{"data":"$"}]}`, `the body has the unknown field "topic"`},
		"bad_base64":           {`{"messages":[{"data":"aGk="}, {"data": "$"}]}`, "messages[1].data, at byte 39, is not base64"},
		"base64_cut":           {`{"messages":[{"data":"aGk"},{"data":"a"}]}`, "messages[1].data, at byte 36, is not base64"},
		"base64_two_alphabets": {`{"messages":[{"data":"+-=="}]}`, "messages[0].data, at byte 21, is not base64"},
		"data_number":          {`{"messages":[{"data":5}]}`, "messages[0].data, at byte 21, is a number and must be a string"},
		"data_object":          {`{"messages":[{"data":{}}]}`, "messages[0].data, at byte 21, is an object and must be a string"},
		"messages_object":      {`{"messages":{"data":"aGk="}}`, "messages, at byte 12, is an object and must be an array"},
		"message_null":         {`{"messages":[null]}`, "messages[0], at byte 13, is null and must be an object"},
		"message_string":       {`{"messages":["aGk="]}`, "messages[0], at byte 13, is a string and must be an object"},
		"attributes_array":     {`{"messages":[{"attributes":[]}]}`, "messages[0].attributes, at byte 27, is an array and must be an object"},
		"attribute_number":     {`{"messages":[{"attributes":{"k":1}}]}`, `messages[0].attributes["k"], at byte 32, is a number and must be a string`},
		"attribute_null":       {`{"messages":[{"attributes":{"k":null}}]}`, `messages[0].attributes["k"], at byte 32, is null and must be a string`},
		"attribute_bool":       {`{"messages":[{"attributes":{"k":true}}]}`, `is a boolean and must be a string`},
		"ordering_key_number":  {`{"messages":[{"data":"aGk=","orderingKey":1}]}`, "messages[0].orderingKey, at byte 42, is a number and must be a string"},
		"publish_time":         {`{"messages":[{"data":"aGk=","publishTime":"today"}]}`, "messages[0].publishTime, at byte 42, is not a time in RFC 3339"},
		"not_utf8":             {"{\"messages\":[{\"attributes\":{\"k\":\"\xff\"}}]}", `messages[0].attributes["k"], at byte 32, is not UTF-8`},
		"half_a_surrogate":     {`{"messages":[{"attributes":{"k":"\ud800"}}]}`, `messages[0].attributes["k"], at byte 32, has half of a surrogate pair`},
		"name_not_utf8":        {"{\"messages\":[{\"attributes\":{\"\xff\":\"v\"}}]}", "messages[0].attributes, at byte 28, is not UTF-8"},
		"long_name":            {`{"` + strings.Repeat("x", 1<<20) + `":1}`, `the unknown field "` + strings.Repeat("x", 64) + `", at`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for path, parse := range map[string]func(http.Header, string, []byte) ([]*pubsubpb.PubsubMessage, error){
				"/": publisher.Parse, "REST": publisher.ParseREST,
			} {
				got, err := parse(http.Header{"Content-Type": {"application/json"}}, "", []byte(test.body))
				if status, detail := problem.Of(err); status != http.StatusBadRequest || !strings.Contains(detail, test.want) || len(detail) > 1000 || len(err.Error()) != len(detail) {
					t.Errorf("%s: got %v, %d %.1000q, want %q", path, got, status, detail, test.want)
				}
			}
		})
	}
}

// Whatever the body is, the answer is short and in UTF-8.
func FuzzREST(f *testing.F) {
	for _, body := range []string{
		`{"messages":[{"data":"aGk=","attributes":{"k":"v"},"orderingKey":"o","messageId":"1","publishTime":"2026-01-01T00:00:00Z"}]}`,
		`{"messages":[{"data":"-_-_","ordering_key":null}]}`, `{"messages":null}`, `{"messages":[{"data":5}]}`, "{", "",
	} {
		f.Add(body)
	}
	f.Fuzz(func(t *testing.T, body string) {
		_, err := publisher.ParseREST(http.Header{}, "", []byte(body))
		if err == nil {
			return
		}
		if status, detail := problem.Of(err); status != http.StatusBadRequest || len(detail) > 1000 || !utf8.ValidString(detail) {
			t.Errorf("%d %q", status, detail)
		}
	})
}

func TestParseREST(t *testing.T) {
	t.Parallel()
	const body = `{"messages":[{"data":"aGk="}]}`
	for name, test := range map[string]struct {
		header http.Header
		query  string
		status int
		want   string
	}{
		"plain":               {nil, "", 200, ""},
		"json":                {http.Header{"Content-Type": {"application/json; charset=UTF-8"}}, "", 200, ""},
		"googles_parameters":  {nil, "alt=json&prettyPrint=false&key=k&$.xgafv=2&$prettyPrint=true&quotaUser=q&fields=messageIds", 200, ""},
		"alt_with_enums":      {nil, "$alt=json%3Benum-encoding%3Dint", 200, ""},
		"identity":            {http.Header{"Content-Encoding": {"identity"}}, "", 200, ""},
		"alt_proto":           {nil, "alt=proto", 400, "send alt=json"},
		"alt_twice":           {nil, "alt=json&alt=media", 400, "send alt=json"},
		"callback":            {nil, "callback=f", 400, `unknown parameter "callback"`},
		"token_in_the_query":  {nil, "access_token=t", 400, `unknown parameter "access_token"; allowed here are alt, `},
		"attribute":           {nil, "attribute.k=v", 400, "attributes belong into the messages"},
		"upload":              {nil, "uploadType=media", 400, `unknown parameter "uploadType"`},
		"bad_query":           {nil, "alt=%zz", 400, "the query cannot be read"},
		"form":                {http.Header{"Content-Type": {"application/x-www-form-urlencoded"}}, "", 415, "application/json"},
		"text":                {http.Header{"Content-Type": {"text/plain"}}, "", 415, "application/json"},
		"utf16":               {http.Header{"Content-Type": {"application/json; charset=utf-16"}}, "", 415, "UTF-8"},
		"latin1":              {http.Header{"Content-Type": {"application/json;charset=iso-8859-1"}}, "", 415, "UTF-8"},
		"two_content_types":   {http.Header{"Content-Type": {"application/json", "text/plain"}}, "", 400, "more than one Content-Type"},
		"gzip":                {http.Header{"Content-Encoding": {"gzip"}}, "", 415, "Content-Encoding"},
		"gzip_in_capitals":    {http.Header{"Content-Encoding": {"GZIP"}}, "", 415, "Content-Encoding"},
		"identity_and_br":     {http.Header{"Content-Encoding": {"identity", "br"}}, "", 415, "Content-Encoding"},
		"two_in_one_header":   {http.Header{"Content-Encoding": {"identity, gzip"}}, "", 415, "Content-Encoding"},
		"unknown_encoding":    {http.Header{"Content-Encoding": {"x"}}, "", 415, "Content-Encoding"},
		"base64_as_an_encode": {http.Header{"Content-Encoding": {"aws-chunked"}}, "", 415, "Content-Encoding"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := publisher.ParseREST(test.header, test.query, []byte(body))
			if test.status == 200 {
				if err != nil || len(got) != 1 || string(got[0].GetData()) != "hi" {
					t.Errorf("got %v, %v", got, err)
				}
				return
			}
			if status, detail := problem.Of(err); status != test.status || !strings.Contains(detail, test.want) {
				t.Errorf("got %v, %d %q, want %d %q", got, status, detail, test.status, test.want)
			}
		})
	}
}

func TestNewRefusesWhatIsMissing(t *testing.T) {
	t.Parallel()
	if p, err := publisher.New(nil, "t"); err == nil {
		t.Errorf("without a client: made %v", p)
	}
	if p, err := publisher.New(&pubsub.Client{}, ""); err == nil {
		t.Errorf("without a topic: made %v", p)
	}
}

func TestSetTrace(t *testing.T) {
	t.Parallel()
	const parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	many := map[string]string{}
	for i := range publisher.MaxAttributes {
		many[fmt.Sprint(i)] = ""
	}
	set := func(header string, ms ...*pubsubpb.PubsubMessage) (got []string) {
		publisher.SetTrace(ms, http.Header{"Traceparent": {header}})
		for _, m := range ms {
			got = append(got, m.Attributes["googclient_traceparent"])
		}
		return got
	}
	full := &pubsubpb.PubsubMessage{Data: make([]byte, publisher.MaxRequestSize-50)}
	for name, test := range map[string]struct{ got, want []string }{
		"all":        {set(parent, &pubsubpb.PubsubMessage{Data: []byte("a")}, &pubsubpb.PubsubMessage{Attributes: map[string]string{"a": ""}}), []string{parent, parent}},
		"own":        {set(parent, &pubsubpb.PubsubMessage{Attributes: map[string]string{"googclient_traceparent": "own"}}), []string{"own"}},
		"empty":      {set(parent, &pubsubpb.PubsubMessage{}), []string{""}}, // which is refused
		"full":       {set(parent, full), []string{""}},
		"no_room":    {set(parent, &pubsubpb.PubsubMessage{Attributes: many}), []string{""}},
		"malformed":  {set(parent+"0", &pubsubpb.PubsubMessage{Data: []byte("a")}), []string{""}},
		"zero":       {set("00-00000000000000000000000000000000-b7ad6b7169203331-01", &pubsubpb.PubsubMessage{Data: []byte("a")}), []string{""}},
		"upper_case": {set(strings.ToUpper(parent), &pubsubpb.PubsubMessage{Data: []byte("a")}), []string{""}},
		"more_parts": {set(parent+"-x", &pubsubpb.PubsubMessage{Data: []byte("a")}), []string{""}},
	} {
		if !slices.Equal(test.got, test.want) {
			t.Errorf("%s: %q, want %q", name, test.got, test.want)
		}
	}
}
