package pubsubpush

import (
	"bytes"
	"errors"
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

func TestCutDataChangesNothing(t *testing.T) {
	t.Parallel()
	for _, body := range envelopes {
		sameAsPlain(t, []byte(body))
	}
}

func FuzzCutData(f *testing.F) {
	for _, body := range envelopes {
		f.Add([]byte(body))
	}
	f.Fuzz(sameAsPlain)
}
