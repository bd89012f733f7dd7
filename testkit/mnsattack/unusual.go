package mnsattack

import (
	"net/http"
	"strings"
	"unicode/utf16"
)

// Accepted is a push with a body of unusual form. It must be answered with 201,
// since its MD5 proves what its publisher sent.
type Accepted struct {
	Name    string
	Request *http.Request
	// MessageID and Data are the stored message's, and Tag is its message tag.
	MessageID string
	Data      string
	Tag       string
}

const (
	chinese = "\u4f60\u597d"             // as UTF-8
	gbk     = "\xc4\xe3\xba\xc3"         // the same as GBK
	emoji   = "\U0001f600"               // one character of two UTF-16 units
	cesu    = "\xed\xa0\xbd\xed\xb8\x80" // the same, each unit by itself
)

// Unusual returns pushes that are not XML or JSON to the letter.
func Unusual(t Target) []Accepted {
	var all []Accepted
	const declaration = `<?xml version="1.0" encoding="utf-8"?>`
	add := func(name string, d *draft, data, tag string) {
		id := "UNUSUAL-" + name
		d.body = strings.Replace(d.body, MessageID, id, 1)
		if d.header["X-Mns-Message-Id"] != nil {
			d.set("X-Mns-Message-Id", id)
		}
		all = append(all, Accepted{name, d.sign().request(), id, data, tag})
	}
	// message has this text in its element, and is of this data.
	message := func(text, data string) string {
		return strings.NewReplacer("<Message>"+Message+"<", "<Message>"+text+"<", upperMD5(Message), upperMD5(data)).Replace(notification(t.Owner))
	}
	for name, c := range map[string]struct{ text, data string }{
		"control":                  {"a\x01b", "a\x01b"},
		"control_reference":        {"a&#1;b", "a\x01b"},
		"control_hex_reference":    {"a&#x1F;&#X1f;", "a\x1f\x1f"},
		"control_and_escaped":      {"\x01&lt;&#2;", "\x01<\x02"},
		"control_in_cdata":         {"<![CDATA[<\x01>]]>", "<\x01>"},
		"reference_in_cdata":       {"\x01<![CDATA[&#1;]]>", "\x01&#1;"},
		"nul":                      {"\x00", "\x00"},
		"nul_reference":            {"&#0;", "\x00"},
		"escape":                   {"\x1b[31m", "\x1b[31m"},
		"half_a_pair_as_mark":      {"a&#xD83D;b", "a?b"},
		"half_a_pair_as_fffd":      {"a&#xD83D;b", "a\ufffdb"},
		"half_a_pair_in_bytes":     {"a&#55357;b", "a\xed\xa0\xbdb"},
		"second_half_as_mark":      {"&#xDE00;&#xD83D;", "??"},
		"pair":                     {"&#xD83D;&#xDE00;", emoji},
		"pair_in_bytes":            {"&#xD83D;&#xDE00;", cesu},
		"pair_raw_in_bytes":        {cesu, cesu},
		"fffe":                     {"\ufffe", "\ufffe"},
		"fffe_reference":           {"&#xFFFE;", "\ufffe"},
		"ffff_reference":           {"&#65535;", "\uffff"},
		"gbk":                      {gbk, gbk},
		"gbk_and_escaped":          {gbk + "&amp;", gbk + "&"},
		"gbk_as_references":        {"&#xC4;&#xE3;&#xBA;&#xC3;", gbk},
		"not_utf8":                 {"\xff\xfe\x80", "\xff\xfe\x80"},
		"carriage_return_in_cdata": {"<![CDATA[a\rb\r\nc]]>", "a\rb\r\nc"},
		"carriage_return_comment":  {"a<!-- x -->\r\nb", "a\r\nb"},
		"ampersand":                {"a & b", "a & b"},
		"ampersand_of_html":        {"a&nbsp;b", "a&nbsp;b"},
		"reference_too_high":       {"&#x110000;", "&#x110000;"},
		"less_than":                {"a < b", "a < b"},
		"elements":                 {"<p>a</p>", "<p>a</p>"},
		"element_unclosed":         {"<p>a&#1;", "<p>a\x01"},
		"end_of_cdata":             {"a]]>b", "a]]>b"},
		"a_notification":           {"</Message><TopicOwner>1</TopicOwner><Message>", "</Message><TopicOwner>1</TopicOwner><Message>"},
		"a_document_type":          {"<!DOCTYPE x>", "<!DOCTYPE x>"},
	} {
		add("xml_"+name, t.xml(message(c.text, c.data)), c.data, "")
	}
	good := message(Message, Message)
	for name, c := range map[string]struct{ body, data string }{
		"encoding_gbk":         {strings.Replace(good, "utf-8", "gbk", 1), Message},
		"encoding_gbk_chinese": {strings.Replace(message(chinese, chinese), "utf-8", "gbk", 1), chinese},
		"encoding_utf16":       {strings.Replace(good, "utf-8", "UTF-16", 1), Message},
		"encoding_unknown":     {strings.Replace(good, "utf-8", "x-nothing", 1), Message},
		"encoding_empty":       {strings.Replace(good, "utf-8", "", 1), Message},
		"encoding_single":      {strings.Replace(good, `"utf-8"`, "'GB2312'", 1), Message},
		"gbk_declared":         {strings.Replace(message(gbk, gbk), "utf-8", "gbk", 1), gbk},
		"gbk_converted":        {strings.Replace(message(gbk, chinese), "utf-8", "GB18030", 1), chinese},
		"latin1_converted":     {strings.Replace(message("\xfc", "\u00fc"), "utf-8", "iso-8859-1", 1), "\u00fc"},
		"mark":                 {"\ufeff" + good, Message},
		"mark_without":         {"\ufeff" + strings.TrimPrefix(good, declaration), Message},
		"mark_and_control":     {"\ufeff" + message("&#1;", "\x01"), "\x01"},
		"mark_in_message":      {message("\ufeffa", "\ufeffa"), "\ufeffa"},
		"utf16_little":         {utf16Of(strings.Replace(good, MessageID, "UNUSUAL-xml_utf16_little", 1), false), Message},
		"utf16_big":            {utf16Of(strings.Replace(message(emoji, emoji), MessageID, "UNUSUAL-xml_utf16_big", 1), true), emoji},
	} {
		add("xml_"+name, t.xml(c.body), c.data, "")
	}
	add("xml_gbk_of_the_header", t.xml(message(gbk, chinese)).set("Content-Type", "text/xml;charset=gbk"), chinese, "")
	for name, c := range map[string]struct{ text, tag string }{
		"control":           {"a\x01b", "a\ufffdb"},
		"control_reference": {"a&#1;b", "a\ufffdb"},
		"half_a_pair":       {"a&#xD83D;b", "a\ufffdb"},
		"gbk":               {"a" + gbk[:2], "a\ufffd\ufffd"},
	} {
		tagged := strings.Replace(good, "<Message>", "<MessageTag>"+c.text+"</MessageTag><Message>", 1)
		add("xml_tag_"+name, t.xml(tagged), Message, c.tag)
	}

	for name, c := range map[string]struct{ text, data string }{
		"control":              {"a\x01b", "a\x01b"},
		"control_escaped":      {"a\\u0001b", "a\x01b"},
		"nul":                  {"\x00", "\x00"},
		"line_feed":            {"a\nb", "a\nb"},
		"tab":                  {"a\tb", "a\tb"},
		"control_and_escaped":  {"\x01\\\"\\n\\/", "\x01\"\n/"},
		"half_a_pair_as_mark":  {`a\ud83db`, "a?b"},
		"half_a_pair_as_fffd":  {`a\ud83db`, "a\ufffdb"},
		"half_a_pair_in_bytes": {`a\uD83Db`, "a\xed\xa0\xbdb"},
		"pair":                 {`\ud83d\ude00`, emoji},
		"pair_in_bytes":        {`\ud83d\ude00`, cesu},
		"fffe":                 {`\ufffe`, "\ufffe"},
		"gbk":                  {gbk, gbk},
		"gbk_escaped":          {`\u00c4\u00e3\u00ba\u00c3`, gbk},
		"not_utf8":             {"\xff\x80", "\xff\x80"},
		"unknown_escape":       {`C:\x\y`, `C:\x\y`},
	} {
		add("json_"+name, t.jsonMessage(c.text, c.data), c.data, "")
	}
	marked := t.json(nil)
	marked.body = "\ufeff" + marked.body
	add("json_mark", marked, Message, "")
	wide := t.json(nil)
	wide.body = utf16Of(strings.Replace(wide.body, MessageID, "UNUSUAL-json_utf16", 1), false)
	add("json_utf16", wide, Message, "")
	add("json_gbk_of_the_header", t.jsonMessage(gbk, chinese).set("Content-Type", "application/json; charset=gbk"), chinese, "")
	tagged := t.json(map[string]any{"MessageTag": "red"})
	tagged.body = strings.Replace(tagged.body, "red", "r\x01\xff", 1)
	add("json_tag", tagged, Message, "r\ufffd\ufffd")

	for name, data := range map[string]string{"control": "a\x00\x01", "gbk": gbk, "mark": "\ufeffa", "utf16": utf16Of(good, false)} {
		add("simplified_"+name, t.simplified(data, t.Owner), data, "")
	}
	add("simplified_tag_gbk", t.simplified(Message, t.Owner).set("X-Mns-Message-Tag", "a"+gbk[:2]), Message, "a\ufffd")
	return all
}

// jsonMessage returns a JSON push with this text in its Message, of this data.
func (t Target) jsonMessage(text, data string) *draft {
	d := t.json(map[string]any{"MessageMD5": upperMD5(data)})
	d.body = strings.Replace(d.body, Message, text, 1)
	return d
}

// utf16Of returns s as UTF-16 with a byte order mark.
func utf16Of(s string, big bool) string {
	var b []byte
	for _, unit := range utf16.Encode([]rune("\ufeff" + s)) {
		if big {
			b = append(b, byte(unit>>8), byte(unit))
		} else {
			b = append(b, byte(unit), byte(unit>>8))
		}
	}
	return string(b)
}
