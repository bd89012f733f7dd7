package mns_test

import (
	"crypto/md5"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"example.com/pushinbox/shared/inbox"
	"example.com/pushinbox/shared/mns"
)

// The MD5 of each of these is what MNS gave a message with this text.
var knownMD5 = map[string]string{
	"I am test message 0.": "075C3D4AEB2D2F2D6A4C17C9D6DBBEBB",
	"I am test message 1.": "8356BC7FFBD22CC971BE7FF7427202B6",
	"I am test message 2.": "3BCFB142A3CC597F5D409BFE9DB1B885",
}

// published is when the message of the notifications below was.
var published = time.Date(2016, 5, 17, 9, 10, 45, 0, time.UTC)

func xmlOf(message, digest string) string {
	return `<?xml version="1.0" encoding="utf-8"?>
<Notification xmlns="http://mns.aliyuncs.com/doc/v1/">
  <TopicOwner>1000000000000000</TopicOwner>
  <TopicName>MySampleTopic</TopicName>
  <Subscriber>1000000000000001</Subscriber>
  <SubscriptionName>MySampleTopic-Sub</SubscriptionName>
  <MessageId>F6EA56633844DBFC-1-154BDFB8059-200000004</MessageId>
  <MessageMD5>` + digest + `</MessageMD5>
  <MessageTag>important</MessageTag>
  <Message>` + message + `</Message>
  <PublishTime>1463476245000</PublishTime>
</Notification>`
}

func jsonOf(message, digest, publishTime string) string {
	return `{"TopicOwner":"1000000000000000","TopicName":"MySampleTopic","Subscriber":"1000000000000001",
		"SubscriptionName":"MySampleTopic-Sub","MessageId":"F6EA56633844DBFC-1-154BDFB8059-200000004","MessageMD5":"` + digest + `",
		"MessageTag":"important","Message":` + message + `,"PublishTime":` + publishTime + `}`
}

func simplifiedHeader() http.Header {
	return http.Header{
		"Content-Type":            {"text/plain;charset=utf-8"},
		"X-Mns-Message-Id":        {"F6EA56633844DBFC-1-154BDFB8059-200000004"},
		"X-Mns-Message-Tag":       {"important"},
		"X-Mns-Topic-Owner":       {"1000000000000000"},
		"X-Mns-Topic-Name":        {"MySampleTopic"},
		"X-Mns-Subscriber":        {"1000000000000001"},
		"X-Mns-Subscription-Name": {"MySampleTopic-Sub"},
		"X-Mns-Publish-Time":      {"1463476245000"},
	}
}

func notification(format mns.Format, body, digest string) *mns.Notification {
	return &mns.Notification{
		Format:           format,
		TopicOwner:       "1000000000000000",
		TopicName:        "MySampleTopic",
		Subscriber:       "1000000000000001",
		SubscriptionName: "MySampleTopic-Sub",
		MessageID:        "F6EA56633844DBFC-1-154BDFB8059-200000004",
		MessageMD5:       digest,
		MessageTag:       "important",
		PublishTime:      published,
		Body:             []byte(body),
	}
}

// decoded returns n with what its body was, where base64 was expected.
func decoded(n *mns.Notification, e mns.Encoding) *mns.Notification {
	n.Encoding = e
	return n
}

// md5Of is the MD5 of s as MNS writes it.
func md5Of(s string) string { return fmt.Sprintf("%X", md5.Sum([]byte(s))) }

func typed(contentType string) http.Header { return http.Header{"Content-Type": {contentType}} }

func TestDecodeKnownMD5(t *testing.T) {
	t.Parallel()
	for message, digest := range knownMD5 {
		for _, push := range []struct {
			format mns.Format
			header http.Header
			body   string
		}{
			{mns.XML, typed("text/xml;charset=utf-8"), xmlOf(message, digest)},
			{mns.JSON, typed("application/json"), jsonOf(`"`+message+`"`, digest, `"1463476245000"`)},
			{mns.Simplified, simplifiedHeader(), message},
		} {
			got, err := mns.Decode(push.header, []byte(push.body), nil)
			if err != nil {
				t.Errorf("%s: %v", push.format, err)
				continue
			}
			if diff := cmp.Diff(notification(push.format, message, digest), got); diff != "" {
				t.Errorf("%s: %s", push.format, diff)
			}
		}
	}
}

func TestDecode(t *testing.T) {
	t.Parallel()
	const text, digest = "I am test message 0.", "075C3D4AEB2D2F2D6A4C17C9D6DBBEBB"
	good := xmlOf(text, digest)
	const crlf, odd = "a\r\nb\r\n", "<&>\"'ü\t\n "
	encoded := base64.StdEncoding.EncodeToString([]byte("\x00\xffbinary"))
	for name, tt := range map[string]struct {
		header http.Header
		body   string
		e      mns.Encoding // of all topics
		want   *mns.Notification
	}{
		"xml_without_namespace":  {typed("text/xml"), strings.Replace(good, ` xmlns="http://mns.aliyuncs.com/doc/v1/"`, "", 1), "", notification(mns.XML, text, digest)},
		"xml_misspelt_namespace": {typed("text/xml"), strings.Replace(good, "xmlns", "xlmns", 1), "", notification(mns.XML, text, digest)},
		"xml_with_prefix":        {typed("text/xml"), strings.NewReplacer("</", "</m:", "<T", "<m:T", "<S", "<m:S", "<M", "<m:M", "<P", "<m:P", "<N", "<m:N", "xmlns=", "xmlns:m=").Replace(good), "", notification(mns.XML, text, digest)},
		"xml_unknown_elements":   {typed("text/xml"), strings.Replace(good, "<TopicName>", "<SigningCertURL>https://evil.example</SigningCertURL><X><TopicOwner>1</TopicOwner></X><TopicName>", 1), "", notification(mns.XML, text, digest)},
		"xml_comments":           {typed("text/xml"), strings.Replace(good, "am test", "<!-- x -->am<?x?> test", 1), "", notification(mns.XML, text, digest)},
		"xml_cdata":              {typed("text/xml"), strings.Replace(good, text, "<![CDATA["+text+"]]>", 1), "", notification(mns.XML, text, digest)},
		"xml_lower_md5":          {typed("text/xml"), xmlOf(text, strings.ToLower(digest)), "", notification(mns.XML, text, digest)},
		"xml_application_type":   {typed("application/xml"), good, "", notification(mns.XML, text, digest)},
		"xml_no_type":            {http.Header{}, good, "", notification(mns.XML, text, digest)},
		"xml_plain_type":         {typed("text/plain"), good, "", notification(mns.XML, text, digest)},
		"xml_escaped":            {typed("text/xml"), xmlOf("&lt;&amp;&gt;&quot;&apos;&#252;&#x9;\n ", md5Of(odd)), "", notification(mns.XML, odd, md5Of(odd))},
		"xml_line_ends":          {typed("text/xml"), xmlOf(crlf, md5Of(crlf)), "", notification(mns.XML, crlf, md5Of(crlf))},
		"xml_line_ends_mixed":    {typed("text/xml"), xmlOf("a\r\nb\nc", md5Of("a\r\nb\nc")), "", notification(mns.XML, "a\r\nb\nc", md5Of("a\r\nb\nc"))},
		"xml_carriage_return":    {typed("text/xml"), xmlOf("a\rb", md5Of("a\rb")), "", notification(mns.XML, "a\rb", md5Of("a\rb"))},
		"xml_crlf_around":        {typed("text/xml"), strings.ReplaceAll(xmlOf("a\nb\n", md5Of(crlf)), "\n", "\r\n"), "", notification(mns.XML, crlf, md5Of(crlf))},
		"xml_line_ends_escaped":  {typed("text/xml"), xmlOf("a&#13;\nb&#xD;&#xA;", md5Of(crlf)), "", notification(mns.XML, crlf, md5Of(crlf))},
		"xml_line_feeds":         {typed("text/xml"), xmlOf("a\nb\n", md5Of("a\nb\n")), "", notification(mns.XML, "a\nb\n", md5Of("a\nb\n"))},
		"xml_empty_message":      {typed("text/xml"), xmlOf("", md5Of("")), "", notification(mns.XML, "", md5Of(""))},
		"xml_base64":             {typed("text/xml"), xmlOf(encoded, md5Of(encoded)), mns.Base64, decoded(notification(mns.XML, "\x00\xffbinary", md5Of(encoded)), mns.Base64)},
		"xml_base64_as_it_is":    {typed("text/xml"), xmlOf(encoded, md5Of(encoded)), mns.Raw, notification(mns.XML, encoded, md5Of(encoded))},
		"json_time_is_number":    {typed("application/json;charset=utf-8"), jsonOf(`"`+text+`"`, digest, "1463476245000"), "", notification(mns.JSON, text, digest)},
		"json_no_type":           {http.Header{}, " \n" + jsonOf(`"`+text+`"`, digest, "1463476245000"), "", notification(mns.JSON, text, digest)},
		"json_called_xml":        {typed("text/xml;charset=utf-8"), jsonOf(`"`+text+`"`, digest, "1463476245000"), "", notification(mns.JSON, text, digest)},
		"json_called_text":       {typed("text/plain"), jsonOf(`"`+text+`"`, digest, "1463476245000"), "", notification(mns.JSON, text, digest)},
		"json_escaped":           {typed("text/json"), jsonOf(`"<&>\"'\u00fc\t\n "`, md5Of(odd), "1463476245000"), "", notification(mns.JSON, odd, md5Of(odd))},
		"json_unknown_members":   {typed("text/json"), `{"X":[{"TopicOwner":1}],` + jsonOf(`"`+text+`"`, digest, "1463476245000")[1:], "", notification(mns.JSON, text, digest)},
		"json_base64":            {typed("application/json"), jsonOf(`"`+encoded+`"`, md5Of(encoded), "1463476245000"), mns.Base64, decoded(notification(mns.JSON, "\x00\xffbinary", md5Of(encoded)), mns.Base64)},
		"simplified_binary":      {simplifiedHeader(), "\x00\xff", "", notification(mns.Simplified, "\x00\xff", md5Of("\x00\xff"))},
		"simplified_empty":       {simplifiedHeader(), "", "", notification(mns.Simplified, "", md5Of(""))},
		"simplified_looks_xml":   {simplifiedHeader(), good, "", notification(mns.Simplified, good, md5Of(good))},
		"simplified_base64":      {simplifiedHeader(), encoded, mns.Base64, decoded(notification(mns.Simplified, "\x00\xffbinary", md5Of(encoded)), mns.Base64)},
		"simplified_old": {http.Header{"X-Mns-Message-Id": {"1"}}, text, "", &mns.Notification{
			Format: mns.Simplified, MessageID: "1", MessageMD5: digest, Body: []byte(text),
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := mns.Decode(tt.header, []byte(tt.body), mns.Encodings{"": tt.e})
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestDecodeTags holds tags, which are a publisher's free text, to less than names.
func TestDecodeTags(t *testing.T) {
	t.Parallel()
	const text = "I am test message 0."
	for name, tt := range map[string]struct {
		tag  string
		want error
	}{
		"slash":    {"a/b", nil},
		"chinese":  {"中文", nil},
		"too_long": {strings.Repeat("x", 257), mns.ErrMalformed},
	} {
		simplified := simplifiedHeader()
		simplified.Set("X-Mns-Message-Tag", tt.tag)
		for _, push := range []struct {
			format mns.Format
			header http.Header
			body   string
		}{
			{mns.XML, typed("text/xml"), strings.Replace(xmlOf(text, knownMD5[text]), "important", tt.tag, 1)},
			{mns.JSON, typed("application/json"), strings.Replace(jsonOf(`"`+text+`"`, knownMD5[text], "1463476245000"), "important", tt.tag, 1)},
			{mns.Simplified, simplified, text},
		} {
			t.Run(name+"_"+strings.ToLower(string(push.format)), func(t *testing.T) {
				t.Parallel()
				n, err := mns.Decode(push.header, []byte(push.body), nil)
				if !errors.Is(err, tt.want) {
					t.Fatalf("error is %v, want %v", err, tt.want)
				}
				if err == nil && n.MessageTag != tt.tag {
					t.Errorf("the tag is %q, want %q", n.MessageTag, tt.tag)
				}
			})
		}
	}
}

// TestDecodeRepairsLineEndsOfXMLOnly gives digests of what only another reading
// of the body would be.
func TestDecodeRepairsLineEndsOfXMLOnly(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct{ contentType, body string }{
		"json_line_feed":    {"application/json", jsonOf(`"a\nb"`, md5Of("a\r\nb"), "1463476245000")},
		"json_as_xml":       {"application/json", jsonOf(`"&#13;"`, md5Of("\r"), "1463476245000")},
		"xml_line_feed":     {"text/xml", xmlOf("a\nb", md5Of("a\r\nb"))},
		"xml_cr_in_a_tag":   {"text/xml", strings.Replace(xmlOf("a", md5Of("")), "<Message>", "<Message\r>", 1)},
		"xml_other_message": {"text/xml", xmlOf("a\rb", md5Of("a\r\nb"))},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n, err := mns.Decode(typed(tt.contentType), []byte(tt.body), nil)
			if !errors.Is(err, mns.ErrMalformed) {
				t.Errorf("read %+v, error is %v, want %v", n, err, mns.ErrMalformed)
			}
		})
	}
}

// TestDecodeKeepsWhatIsNotBase64 has publishers that send plain text to a topic
// whose bodies are expected to be base64.
func TestDecodeKeepsWhatIsNotBase64(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		body, want string
		e          mns.Encoding
	}{
		"text":             {"I am test message 0.", "I am test message 0.", mns.Raw},
		"not_a_multiple":   {"hello", "hello", mns.Raw},
		"url_alphabet":     {"_-8=", "_-8=", mns.Raw},
		"text_after":       {"AP8=x", "AP8=x", mns.Raw},
		"not_utf8":         {"\xff\x00", "\xff\x00", mns.Raw},
		"empty":            {"", "", mns.Base64},
		"text_that_is_too": {"test", "\xb5\xeb\x2d", mns.Base64},
		"in_lines":         {"AP\r\n8=", "\x00\xff", mns.Base64},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n, err := mns.Decode(simplifiedHeader(), []byte(tt.body), mns.Encodings{"": mns.Base64})
			if err != nil {
				t.Fatal(err)
			}
			m := n.Message(mns.Signer{}, "/")
			if string(m.Data) != tt.want || m.Attributes["mns-encoding"] != string(tt.e) {
				t.Errorf("stored %q with %v, want %q and %s", m.Data, m.Attributes, tt.want, tt.e)
			}
		})
	}
}

// TestEncodings has a setting for each topic, and what a body of MySampleTopic and
// MySampleTopic-Sub is then.
func TestEncodings(t *testing.T) {
	t.Parallel()
	for setting, want := range map[string]mns.Encoding{
		"raw":                                    "",
		"base64":                                 mns.Base64,
		"raw,MySampleTopic=base64":               mns.Base64,
		"MySampleTopic=base64,raw":               mns.Base64,
		"MySampleTopic=base64":                   mns.Base64,
		"Other=base64":                           "",
		"mysampletopic=base64":                   "",
		"base64,MySampleTopic=raw":               "",
		"base64,MySampleTopic-Sub=raw":           mns.Base64,
		"MySampleTopic/Other=base64":             "",
		"raw=base64,base64=raw":                  "",
		"MySampleTopic/MySampleTopic-Sub=base64": mns.Base64,
		"MySampleTopic=base64,MySampleTopic/MySampleTopic-Sub=raw": "",
		"MySampleTopic/MySampleTopic-Sub=base64,MySampleTopic=raw": mns.Base64,
	} {
		var e mns.Encodings
		if err := e.UnmarshalText([]byte(setting)); err != nil {
			t.Errorf("%q: %v", setting, err)
			continue
		}
		n, err := mns.Decode(simplifiedHeader(), []byte("AP8="), e)
		if err != nil || n.Encoding != want {
			t.Errorf("%q: a body was %q, %v, want %q", setting, n.Encoding, err, want)
		}
	}
	for _, setting := range []string{
		"", "RAW", "hex", "base64 ", "raw,", ",raw", "raw,raw", "raw,base64", "T=", "=raw", "T=hex", "T=raw,T=base64", "T=raw=raw",
		"T/=raw", "/S=raw", "T/S/X=raw", "T =raw", "T= raw", "raw, T=raw", "raw;T=raw", "T=raw\n", strings.Repeat("t", 257) + "=raw",
	} {
		var e mns.Encodings
		if err := e.UnmarshalText([]byte(setting)); err == nil {
			t.Errorf("%q was accepted as %v", setting, e)
		}
	}
}

func TestMessage(t *testing.T) {
	t.Parallel()
	signer := mns.Signer{CertificateURL: "https://c", Date: published.Add(time.Second)}
	named := notification(mns.XML, "x", md5Of("x"))
	unnamed := &mns.Notification{Format: mns.Simplified, MessageID: "1", Body: []byte("x")}
	half := &mns.Notification{Format: mns.Simplified, MessageID: "1", TopicOwner: "2", Body: []byte("x")}
	for name, tt := range map[string]struct {
		n    *mns.Notification
		want *inbox.Message
	}{
		"named": {named, &inbox.Message{
			Source:       inbox.SourceMNS,
			Subscription: "accounts/1000000000000000/topics/MySampleTopic/subscriptions/MySampleTopic-Sub",
			MessageID:    "F6EA56633844DBFC-1-154BDFB8059-200000004",
			PublishTime:  published,
			Data:         []byte("x"),
			Attributes: map[string]string{
				"topic-owner": "1000000000000000", "topic-name": "MySampleTopic", "message-tag": "important",
				"subscriber": "1000000000000001", "subscription-name": "MySampleTopic-Sub",
			},
			Verified: inbox.Verified{
				Issuer: "https://c", Subject: "1000000000000000", Audience: "MySampleTopic-Sub", IssuedAt: published.Add(time.Second),
			},
		}},
		"unnamed": {unnamed, &inbox.Message{
			Source: inbox.SourceMNS, Subscription: "/path", MessageID: "1", Data: []byte("x"), Attributes: map[string]string{},
			Verified: inbox.Verified{Issuer: "https://c", Audience: "/path", IssuedAt: published.Add(time.Second)},
		}},
		"half_named": {half, &inbox.Message{
			Source: inbox.SourceMNS, Subscription: "/path", MessageID: "1", Data: []byte("x"), Attributes: map[string]string{"topic-owner": "2"},
			Verified: inbox.Verified{Issuer: "https://c", Subject: "2", Audience: "/path", IssuedAt: published.Add(time.Second)},
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := tt.n.Message(signer, "/path")
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Error(diff)
			}
			if err := got.Validate(); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestPolicy(t *testing.T) {
	t.Parallel()
	named := mns.Notification{TopicOwner: "1", TopicName: "t", SubscriptionName: "s"}
	for name, tt := range map[string]struct {
		p    mns.Policy
		n    mns.Notification
		want error
	}{
		"owner":                    {mns.Policy{Owners: []string{"2", "1"}}, named, nil},
		"other_owner":              {mns.Policy{Owners: []string{"2"}}, named, mns.ErrForeign},
		"other_owner_of_unnamed":   {mns.Policy{Owners: []string{"2"}, Unnamed: true}, named, mns.ErrForeign},
		"no_owners":                {mns.Policy{}, named, mns.ErrPolicy},
		"no_owners_but_secret":     {mns.Policy{Unnamed: true}, mns.Notification{}, mns.ErrPolicy},
		"empty_owner":              {mns.Policy{Owners: []string{"1", ""}}, mns.Notification{}, mns.ErrPolicy},
		"unnamed":                  {mns.Policy{Owners: []string{"1"}}, mns.Notification{}, mns.ErrForeign},
		"unnamed_with_secret":      {mns.Policy{Owners: []string{"1"}, Unnamed: true}, mns.Notification{}, nil},
		"topic":                    {mns.Policy{Owners: []string{"1"}, Topics: []string{"u", "t"}}, named, nil},
		"other_topic":              {mns.Policy{Owners: []string{"1"}, Topics: []string{"u"}}, named, mns.ErrForeign},
		"unnamed_topic":            {mns.Policy{Owners: []string{"1"}, Topics: []string{"t"}, Unnamed: true}, mns.Notification{}, mns.ErrForeign},
		"subscription":             {mns.Policy{Owners: []string{"1"}, Subscriptions: []string{"s"}}, named, nil},
		"other_subscription":       {mns.Policy{Owners: []string{"1"}, Subscriptions: []string{"S"}}, named, mns.ErrForeign},
		"unnamed_subscription":     {mns.Policy{Owners: []string{"1"}, Subscriptions: []string{"s"}, Unnamed: true}, mns.Notification{}, mns.ErrForeign},
		"topic_and_no_such_owner":  {mns.Policy{Owners: []string{"2"}, Topics: []string{"t"}}, named, mns.ErrForeign},
		"topic_but_no_such_subscr": {mns.Policy{Owners: []string{"1"}, Topics: []string{"t"}, Subscriptions: []string{"x"}}, named, mns.ErrForeign},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if err := tt.p.Check(&tt.n); !errors.Is(err, tt.want) {
				t.Errorf("error is %v, want %v", err, tt.want)
			}
		})
	}
}
