package mns_test

import (
	"encoding/json"
	"encoding/xml"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"example.com/pushinbox/shared/mns"
)

// checkDecoded checks what must hold of everything that is decoded.
func checkDecoded(t *testing.T, n *mns.Notification, err error) bool {
	t.Helper()
	if err != nil {
		if !errors.Is(err, mns.ErrMalformed) || n != nil {
			t.Errorf("refused with %v and %v", err, n)
		}
		return false
	}
	if n.MessageMD5 != md5Of(string(n.Body)) {
		t.Errorf("the MD5 of %q is not %s", n.Body, n.MessageMD5)
	}
	if strings.Count(n.Subscription("/"), "/") != 1 && strings.Count(n.Subscription("/"), "/") != 5 {
		t.Errorf("the subscription is %q", n.Subscription("/"))
	}
	if err := n.Message(mns.Signer{Date: time.Unix(0, 0)}, "/").Validate(); err != nil {
		t.Error(err)
	}
	return true
}

// FuzzDecodeXML: nothing panics, and what is taken is what encoding/xml reads.
func FuzzDecodeXML(f *testing.F) {
	f.Fuzz(func(t *testing.T, body []byte) {
		n, err := mns.Decode(typed("text/xml"), body, nil)
		if !checkDecoded(t, n, err) || n.Format != mns.XML {
			return
		}
		var want struct {
			XMLName                                             xml.Name `xml:"Notification"`
			TopicOwner, TopicName, SubscriptionName, Subscriber string
			MessageId, MessageTag, Message                      string
		}
		if err := xml.Unmarshal(body, &want); err != nil {
			t.Fatalf("encoding/xml: %v", err)
		}
		got := want
		got.TopicOwner, got.TopicName, got.SubscriptionName, got.Subscriber = n.TopicOwner, n.TopicName, n.SubscriptionName, n.Subscriber
		got.MessageId, got.MessageTag, got.Message = n.MessageID, n.MessageTag, string(n.Body)
		if strings.ReplaceAll(got.Message, "\r\n", "\n") == strings.ReplaceAll(want.Message, "\r\n", "\n") {
			got.Message = want.Message
		}
		if got != want {
			t.Errorf("got %+v, want %+v", got, want)
		}
	})
}

// FuzzDecodeJSON: nothing panics, and what is taken is what encoding/json reads.
func FuzzDecodeJSON(f *testing.F) {
	f.Fuzz(func(t *testing.T, body []byte) {
		n, err := mns.Decode(typed("application/json"), body, nil)
		if !checkDecoded(t, n, err) || n.Format != mns.JSON {
			return
		}
		var want map[string]any
		if err := json.Unmarshal(body, &want); err != nil {
			t.Fatalf("encoding/json: %v", err)
		}
		for name, got := range map[string]string{
			"TopicOwner": n.TopicOwner, "TopicName": n.TopicName, "SubscriptionName": n.SubscriptionName,
			"Subscriber": n.Subscriber, "MessageId": n.MessageID, "Message": string(n.Body),
		} {
			if got != want[name] {
				t.Errorf("%s is %q, want %q", name, got, want[name])
			}
		}
	})
}

// FuzzDecodeSimplified: nothing panics, and a body is never anything else.
func FuzzDecodeSimplified(f *testing.F) {
	f.Fuzz(func(t *testing.T, id, owner, topic, subscription, publishTime, contentType string, body []byte) {
		n, err := mns.Decode(http.Header{
			"Content-Type":            {contentType},
			"X-Mns-Message-Id":        {id},
			"X-Mns-Topic-Owner":       {owner},
			"X-Mns-Topic-Name":        {topic},
			"X-Mns-Subscription-Name": {subscription},
			"X-Mns-Publish-Time":      {publishTime},
		}, body, nil)
		if checkDecoded(t, n, err) && (n.Format != mns.Simplified || string(n.Body) != string(body) || n.TopicOwner != owner || n.MessageID != id) {
			t.Errorf("got %+v", n)
		}
	})
}
