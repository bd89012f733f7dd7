package mns_test

import (
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"iter"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

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

// FuzzDecodeXML: nothing panics, and what is taken is what encoding/xml reads, but
// for a Message that its MD5 proves another text.
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
			return // read leniently: checkDecoded holds it to its MD5
		}
		got := want
		got.TopicOwner, got.TopicName, got.SubscriptionName, got.Subscriber = n.TopicOwner, n.TopicName, n.SubscriptionName, n.Subscriber
		got.MessageId, got.MessageTag, got.Message = n.MessageID, n.MessageTag, string(n.Body)
		if n.MessageMD5 != md5Of(want.Message) {
			got.Message = want.Message // read leniently
		}
		if got != want {
			t.Errorf("got %+v, want %+v", got, want)
		}
	})
}

// FuzzDecodeJSON: nothing panics, and what is taken is what encoding/json reads, but
// for a Message that its MD5 proves another text.
func FuzzDecodeJSON(f *testing.F) {
	f.Fuzz(func(t *testing.T, body []byte) {
		n, err := mns.Decode(typed("application/json"), body, nil)
		if !checkDecoded(t, n, err) || n.Format != mns.JSON {
			return
		}
		var want map[string]any
		if err := json.Unmarshal(body, &want); err != nil {
			return // read leniently: checkDecoded holds it to its MD5
		}
		if message, ok := want["Message"].(string); ok && n.MessageMD5 != md5Of(message) {
			want["Message"] = string(n.Body) // read leniently
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

// FuzzLenient: whatever bytes a publisher sends, in whatever way they are written
// into a push, they are read as they were, and nothing else of the push is.
func FuzzLenient(f *testing.F) {
	f.Fuzz(func(t *testing.T, message string) {
		digest := md5Of(message)
		each := func(units iter.Seq[uint16], format string) string {
			var b strings.Builder
			for unit := range units {
				fmt.Fprintf(&b, format, unit)
			}
			return b.String()
		}
		bytesOf := func(yield func(uint16) bool) {
			for _, b := range []byte(message) {
				if !yield(uint16(b)) {
					return
				}
			}
		}
		markup := strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;").Replace(message)
		controls := func(s, format string) string {
			for r := range rune(' ') {
				s = strings.ReplaceAll(s, string(r), fmt.Sprintf(format, r))
			}
			return s
		}
		quoted := strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(message)
		xmlTexts := map[string]string{
			"raw": message, "escaped": markup, "controls": controls(markup, "&#%d;"), "bytes": each(bytesOf, "&#%d;"),
		}
		jsonTexts := map[string]string{"escaped": quoted, "controls": controls(quoted, `\u%04x`), "bytes": each(bytesOf, `\u%04X`)}
		if !strings.Contains(message, "]]>") {
			xmlTexts["cdata"] = "<![CDATA[" + message + "]]>"
		}
		if utf8.ValidString(message) {
			units := slices.Values(utf16.Encode([]rune(message)))
			xmlTexts["units"], jsonTexts["units"] = each(units, "&#x%X;"), each(units, `\u%04x`)
		}
		check := func(name, contentType, body string) {
			n, err := mns.Decode(typed(contentType), []byte(body), nil)
			if err != nil {
				t.Errorf("%s: %v", name, err)
				return
			}
			format := mns.XML
			if strings.HasPrefix(name, "json") {
				format = mns.JSON
			}
			if diff := cmp.Diff(notification(format, message, digest), n); diff != "" {
				t.Errorf("%s: %s", name, diff)
			}
		}
		for name, text := range xmlTexts {
			body := xmlOf(text, digest)
			check("xml_"+name, "text/xml;charset=utf-8", body)
			check("xml_marked_"+name, "text/xml", "\ufeff"+body)
			check("xml_gbk_"+name, "text/xml;charset=gbk", strings.Replace(body, "utf-8", "gbk", 1))
		}
		for name, text := range jsonTexts {
			body := jsonOf(`"`+text+`"`, digest, "1463476245000")
			check("json_"+name, "application/json", body)
			check("json_marked_"+name, "application/json;charset=big5", "\ufeff"+body)
		}
	})
}
