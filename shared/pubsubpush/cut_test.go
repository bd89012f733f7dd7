package pubsubpush

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"example.com/pushinbox/shared/inbox"
)

// plain decodes an envelope without cutting anything out of it.
func plain(body []byte) (*inbox.Message, error) {
	m, isCut, err := parseEnvelope(body)
	if err == nil && isCut {
		return nil, ErrMalformed
	}
	return m, err
}

// sameAsPlain decodes body in both ways. For a body that says that it is JSON
// all refusals but a bare errNoEnvelope are one.
func sameAsPlain(t *testing.T, body []byte) {
	t.Helper()
	want, wantErr := plain(bytes.Clone(body))
	if wantErr == nil {
		wantErr = storable(want)
	}
	whole := bytes.Clone(body)
	got, err := decodeEnvelope(whole, true)
	if err == nil {
		err = storable(got)
	} else if !bytes.Equal(whole, body) {
		t.Errorf("%.200q was refused and is %.200q now", body, whole)
	}
	if wantErr != nil {
		want = nil
	}
	if err != nil {
		got = nil
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%.200q: %s", body, diff)
	}
	if (err == nil) != (wantErr == nil) || (err == errNoEnvelope) != (wantErr == errNoEnvelope) || err != nil && !errors.Is(err, ErrMalformed) {
		t.Errorf("%.200q: got %v, want %v", body, err, wantErr)
	}
}

// envelopes are bodies in which the data to cut out is easily mistaken.
var envelopes = []string{
	`{"message":{"messageId":"1","data":"aGk="},"subscription":"s"}`,
	`{"message":{"messageId":"1","data":"aGk=====","attributes":{}}}`,
	`{"message":{"messageId":"1","data":"` + strings.Repeat("QUJD", 1023) + `aGk=QUJD"}}`,
	`{"message":{"messageId":"1","data":"` + strings.Repeat("QUJD", 2047) + `aGk*"}}`,
	`{"message":{"messageId":"` + strings.Repeat("1", 3000) + `","data":"aGk="}}`,
	`{"message":{"data":"aGk=","messageId":"1"}}`,
	`{"message":{"messageId":"1","data" :` + "\n\t" + `"aGk="}}`,
	`{"message":{"messageId":"1","data":"aGk=","data":"eA=="}}`,
	`{"message":{"messageId":"1","data":"aGk=","DATA":"eA=="}}`,
	`{"message":{"messageId":"1","data":"aGk=","data":null}}`,
	`{"message":{"messageId":"1","data":null,"data":"aGk="}}`,
	`{"data":"aGk=","message":{"messageId":"1","data":"eA=="}}`,
	`{"data":"aGk=","message":{"messageId":"1","data":"*cut*"}}`,
	`{"data":"aGk=","message":{"messageId":"1","data":"\u002acut*"}}`,
	`{"message":{"messageId":"1","data":"*cut*"}}`,
	`{"message":{"messageId":"*cut*","data":"aGk="}}`,
	`{"message":{"messageId":"1","data":"aGk=","attributes":{"data":"*cut*"}}}`,
	`{"message":{"messageId":"1","attributes":{"data":"aGk="}}}`,
	`{"message":{"messageId":"1","attributes":{"data":"aGk="},"data":"eA=="}}`,
	`{"message":{"messageId":"1","attributes":{"k":"\"data\":\"aGk=\""},"data":"eA=="}}`,
	`{"message":{"messageId":"1","attributes":{"k\"data":"aGk="},"data":"eA=="}}`,
	`{"message":{"messageId":"1","orderingKey":"data","data":"aGk="}}`,
	`{"message":{"messageId":"1","orderingKey":"data" :"aGk="}}`,
	`{"message":{"messageId":"data":"1","data":"aGk="}}`,
	`{"message":{"messageId":"1","data":"aGk"}}`,
	`{"message":{"messageId":"1","data":"aG\nk="}}`,
	"{\"message\":{\"messageId\":\"1\",\"data\":\"aG\nk=\"}}",
	"{\"message\":{\"messageId\":\"1\",\"data\":\"aG\x01k=\"}}",
	"{\"message\":{\"messageId\":\"1\",\"data\":\"aG\xffk=\"}}",
	`{"message":{"messageId":"1","data":"\/\/\/\/"}}`,
	`{"message":{"messageId":"1","data":""}}`,
	`{"message":{"messageId":"1","data":"aGk="`,
	`{"message":{"messageId":"1","data":"aGk=`,
	`{"message":{"messageId":"1","data":"aGk="}} x`,
	`{"message":{"data":"aGk="}}`,
	`{"message":"hi","data":"aGk="}`,
	`{"message":null,"data":"aGk="}`,
	`{"status":"hi","data":"aGk="}`,
	`{"message":{"messageId":"1","data":["aGk="]}}`,
	`{"message":{"messageId":"1","publishTime":"x","data":"aGk="}}`,
}

// forms are bodies that are nearly in the form in which Pub/Sub writes them.
var forms = []string{
	`{"message":{"attributes":{"k":"v"},"data":"aGk=","messageId":"1","message_id":"1","orderingKey":"o","publishTime":"2026-01-02T03:04:05.678Z","publish_time":"2026-01-02T03:04:05.678Z"},"subscription":"s","deliveryAttempt":5}`,
	" { \"message\" :\t{ \"messageId\" : \"1\" ,\r\n\"attributes\" : { } } , \"deliveryAttempt\" : 1 } \n",
	`{"message":{"messageId":"1"}}`,
	`{"message":{"message_id":"1","publish_time":"2026-01-02T03:04:05Z"}}`,
	`{"message":{"messageId":"","message_id":"1","publishTime":"","publish_time":"2026-01-02T03:04:05+02:00"}}`,
	`{"message":{"messageId":"1","message_id":"2","publishTime":"2026-01-02T03:04:05Z","publish_time":"x"}}`,
	`{"message":{"messageId":"1","publishTime":"0000-01-02T03:04:05Z"}}`,
	`{"message":{"messageId":"1","publishTime":"2026-01-02T03:04:05.1234567891Z"}}`,
	`{"message":{"messageId":"1","attributes":{"k":"1","k":"2","":"","ä":"日本"}}}`,
	"{\"message\":{\"messageId\":\"1\",\"attributes\":{\"k\":\"\xff\"}}}",
	"{\"message\":{\"messageId\":\"1\",\"attributes\":{\"\xed\xa0\x80\":\"\"}}}",
	"{\"message\":{\"messageId\":\"1\",\"attributes\":{\"k\":\"\x7f\xe2\x80\xa8\"}}}",
	"{\"message\":{\"messageId\":\"1\",\"attributes\":{\"k\":\"\x1f\"}}}",
	"{\"message\":{\"messageId\":\"\x00\"}}",
	`{"message":{"messageId":"1","attributes":{"k":"\u00e4"}}}`,
	`{"message":{"messageId":"1","attributes":{"k\"":"\\","\u006b":"\ud83d\ude00\ud83d"}}}`,
	`{"mess\u0061ge":{"messageId":"1\n"},"message":{"messageId":"2"}}`,
	`{"message":{"messageId":"1","attributes":{"k":"\x"}}}`,
	`{"message":{"messageId":"1","attributes":{"k":"\`,
	`{"message":{"messageId":"1","attributes":{"k":1}}}`,
	`{"message":{"messageId":"1","attributes":{"k":null}}}`,
	`{"message":{"messageId":"1","attributes":null}}`,
	`{"message":{"messageId":"1","attributes":[]}}`,
	`{"message":{"messageId":"1","attributes":{"k":"v",}}}`,
	`{"message":{"messageId":"1","attributes":{"a":"1"},"attributes":{"b":"2"}}}`,
	`{"message":{"messageId":"1"},"message":{"messageId":"2"}}`,
	`{"message":{"messageId":"1","orderingKey":"o"},"message":{"messageId":"2"}}`,
	`{"message":{"messageId":"1","messageId":"2"}}`,
	`{"message":{"messageId":"1","messageId":null}}`,
	`{"message":{"messageId":1}}`,
	`{"message":{"messageId":"1","new":{"a":[1,"}"]}},"more":true}`,
	`{"message":{"messageId":"1","MessageId":"2"},"Subscription":"s"}`,
	`{"message":{"messageId":"1"},"subscription":"s","subscription":"t"}`,
	`{"message":{"messageId":"1"},"subscription":null}`,
	`{"message":{"messageId":"1"},"deliveryAttempt":0}`,
	`{"message":{"messageId":"1"},"deliveryAttempt":-1}`,
	`{"message":{"messageId":"1"},"deliveryAttempt":01}`,
	`{"message":{"messageId":"1"},"deliveryAttempt":1.5}`,
	`{"message":{"messageId":"1"},"deliveryAttempt":1e2}`,
	`{"message":{"messageId":"1"},"deliveryAttempt":"1"}`,
	`{"message":{"messageId":"1"},"deliveryAttempt":999999999}`,
	`{"message":{"messageId":"1"},"deliveryAttempt":1000000000}`,
	`{"message":{"messageId":"1"},"deliveryAttempt":}`,
	`{"message":{"messageId":"1"},"deliveryAttempt":1,"deliveryAttempt":2}`,
	`{"message":{"messageId":"1"}`,
	`{"message":{"messageId":"1"}}}`,
	`{"message":{"messageId":"1"},}`,
	`{"message":{"messageId":"1"}"subscription":"s"}`,
	`{"message":{"messageId" "1"}}`,
	`{,"message":{"messageId":"1"}}`,
	`{"message":{}}`,
	`{}`,
	``,
	"\ufeff{\"message\":{\"messageId\":\"1\"}}",
	"{\"message\":{\"messageId\":\"1\"}}\x00",
	`{"message":{"messageId":"1","data":"aGk=*"}}`,
	`{"message":{"messageId":"1","data":"aG k="}}`,
}

func TestUsualChangesNothing(t *testing.T) {
	t.Parallel()
	for _, body := range forms {
		sameAsPlain(t, []byte(body))
	}
}

// The recorded pushes are what usual is for.
func TestRecordedPushesAreUsual(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob(filepath.Join("..", "..", "testdata", "pubsub", "*.json"))
	if err != nil || len(files) < 4 {
		t.Fatalf("%d recorded pushes: %v", len(files), err)
	}
	for _, file := range files {
		body, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if _, _, ok := usual(body); !ok {
			t.Errorf("%s is not read in one pass", file)
		}
	}
}

func TestCutDataChangesNothing(t *testing.T) {
	t.Parallel()
	for _, body := range envelopes {
		sameAsPlain(t, []byte(body))
	}
}

func FuzzCutData(f *testing.F) {
	for _, body := range slices.Concat(envelopes, forms) {
		f.Add([]byte(body))
	}
	f.Fuzz(sameAsPlain)
}
