package console

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"example.com/pushinbox/testkit/measure"
)

// attacks are payloads that try to become more than text.
func attacks() []string {
	markup := []string{
		`<script>pwned=1</script>`, `<script src=//evil.example/x.js></script>`, `<img src=x onerror=pwned=1>`,
		`<svg onload=pwned=1>`, `<svg><script>pwned=1</script></svg>`, `<iframe srcdoc="<script>parent.pwned=1</script>"></iframe>`,
		`<iframe src="javascript:parent.pwned=1"></iframe>`, `<object data="javascript:pwned=1"></object>`, `<embed src=//evil.example/>`,
		`<body onload=pwned=1>`, `<style>*{display:none}</style>`, `<link rel=stylesheet href=//evil.example/x.css>`,
		`<meta http-equiv=refresh content="0;url=//evil.example/">`, `<base href=//evil.example/>`, `<form action=//evil.example/><input name=payload><button>Publish</button></form>`,
		`<a href="javascript:pwned=1" style="position:fixed;inset:0">all of it</a>`, `<math><mtext><table><mglyph><style><img src=x onerror=pwned=1>`,
		`<details open ontoggle=pwned=1>`, `<input autofocus onfocus=pwned=1>`, `<video><source onerror=pwned=1></video>`, `<marquee onstart=pwned=1>`,
		`<template><script>pwned=1</script></template>`, `<dialog open>you are signed out</dialog>`, `<h1 id=live>id</h1>`, `<img name=getElementById>`,
		`<form id=publish-form><input name=action value=//evil.example/></form>`, `<plaintext>`, `<xmp>`, `<noscript><p title="</noscript><img src=x onerror=pwned=1>">`,
		`<!--`, `--><script>pwned=1</script>`, `]]><script>pwned=1</script>`, `<![CDATA[<script>pwned=1</script>]]>`, `<?xml version="1.0"?><!DOCTYPE x [<!ENTITY a "b">]>`,
		`</textarea><script>pwned=1</script>`, `</pre></code><script>pwned=1</script>`, `</title><script>pwned=1</script>`, `</table></main><script>pwned=1</script>`,
		`</bdi></a></td></tr></tbody></table><h1>out</h1>`, `" onmouseover="pwned=1`, `' onfocus='pwned=1' autofocus='`, "`${pwned=1}`", `"><script>pwned=1</script>`,
		`{{.Reader}}`, `{{template "base"}}`, `${7*7}`, `<%= 7*7 %>`, `#{7*7}`, `{"__proto__":{"pwned":1}}`, `{"a":"</script><script>pwned=1</script>"}`,
		`&lt;script&gt;pwned=1&lt;/script&gt;`, `&#60;script&#62;pwned=1&#60;/script&#62;`, `&amp;#x3c;script&amp;#x3e;`, `%3Cscript%3Epwned=1%3C/script%3E`,
		`\u003cscript\u003epwned=1\u003c/script\u003e`, `＜script＞pwned=1＜/script＞`, `<scr\x00ipt>pwned=1</scr\x00ipt>`, `+ADw-script+AD4-pwned=1+ADw-/script+AD4-`,
	}
	links := []string{
		`javascript:pwned=1`, `JaVaScRiPt:pwned=1`, "java\tscript:pwned=1", "java\nscript:pwned=1", ` javascript:pwned=1`, `data:text/html,<script>pwned=1</script>`,
		`data:text/html;base64,PHNjcmlwdD5wd25lZD0xPC9zY3JpcHQ+`, `vbscript:pwned`, `blob:null/1`, `file:///etc/passwd`, `//evil.example/`, `https://evil.example/`,
		`\\evil.example\share`, `../../../etc/passwd`, `?view=<script>`, `#m-0`,
	}
	stream := []string{
		"a\n\nevent: row\ndata: <tr><td>forged</td></tr>\n\n", "a\r\revent: row\rdata: forged\r\r", "a\nid: AAAA\n", "a\nretry: 1\n", "\n\n\n", "\r", "data: x",
		": comment", "a\u2028b\u2029c", "a\x0bb\x0cc", "a\u0085b",
	}
	text := []string{
		"\u202egnp.exe", "\u202dforced", "\u2066isolated without end", "\u2067right\u2068first", "\u061carabic mark", "a\u200eb\u200fc", "abc\u202e<script>\u202c",
		strings.Repeat("\u202e", 500), strings.Repeat("\u2067", 500), "zero\u200bwidth\u200bspace", "zero\ufeffwidth", "word\u2060joiner", "soft\u00adhyphen",
		strings.Repeat("\u200b", 1000), "\u115f\u1160\u3164\uffa0", "tag\U000e0041\U000e0042", "\ufff9anno\ufffatation\ufffb", "\u180e", "مرحبا بالعالم", "שלום עולם abc 123",
		"Z\u0351\u036b\u0343\u036a\u0302\u036b\u033d" + strings.Repeat("\u0334\u0347\u0349\u036b", 200), "\u0e49" + strings.Repeat("\u0e49", 200), "👩‍👩‍👧‍👦🏴󠁧󠁢󠁳󠁣󠁴󠁿",
		strings.Repeat("👩‍", 300), "ﷺ" + strings.Repeat("ﷺ", 100), "𒐫" + strings.Repeat("𒐫", 200), strings.Repeat("W", 20_000), strings.Repeat("a b ", 5_000), strings.Repeat("\n", 20_000),
		strings.Repeat("\t", 5_000), strings.Repeat(" ", 5_000) + "x", strings.Repeat("line\r\n", 5_000), "\x1b[31mred\x1b[0m\x1b]0;title\x07", "a\x08\x08b", "\x00", "a\x00b", "\x7f", "\x80\x81",
		"\ufffe\uffff", "\ufffd", "NaN", "null", "undefined", "true", "[object Object]", "0", "-1", "1e999", "12345678901234567890123456789", "", " ",
	}
	invalid := []string{
		"\xff", "\xc3\x28", "\xed\xa0\x80", "\xed\xa0\xbd\xed\xb0\x80", "\xf4\x90\x80\x80", "\xc0\xaf", "\xe2\x82", "<script>\xff</script>", "\xfe\xff\x00<\x00s", "\xff\xfe<\x00s\x00",
		"\x1f\x8b\x08\x00", "\x89PNG\r\n\x1a\n", "GIF89a/*<script>pwned=1</script>*/", "%PDF-1.7\n<script>", "PK\x03\x04", "\xef\xbb\xbf{\"a\":1}", strings.Repeat("\xff", 10_000),
		strings.Repeat("é", 2047) + "aé" + "tail",
	}
	big := []string{
		strings.Repeat("x", 1_000_000), "\"" + strings.Repeat("<script>pwned=1</script>", 40_000) + "\"", strings.Repeat("\u202e", 300_000), strings.Repeat("<b>", 300_000),
		strings.Repeat("[", 9_000) + strings.Repeat("]", 9_000), strings.Repeat("[", 200_000), strings.Repeat(`{"a":`, 60) + "1" + strings.Repeat("}", 60),
		"[" + strings.Repeat(`"\u0000",`, 20_000) + "1]", `{"` + strings.Repeat("k", 100_000) + `":1}`, `[` + strings.Repeat("1,", 100_000) + `1]`,
		strings.Repeat("é", 400_000), strings.Repeat("\xff", 1_000_000),
	}
	var duplicates []string
	for i := range 12 {
		duplicates = append(duplicates, fmt.Sprintf(`{"a":%d,"a":"<img src=x onerror=pwned=%d>"}`, i, i))
	}
	all := slices.Concat(markup, links, stream, text, invalid, big, duplicates)
	for i := 0; len(all) < 200; i++ {
		all = append(all, fmt.Sprintf("<a href='javascript:pwned=%d'>\u202e%s</a>", i, strings.Repeat("\u0300", i)))
	}
	return all
}

// findForeign is a script that finds what has become part of a page.
const findForeign = `(() => {
		const bad = [];
		if (typeof pwned !== "undefined" || ({}).pwned) bad.push("a script ran");
		for (const e of document.querySelectorAll("script, style, link, img, iframe, object, embed, svg, math, video, base, meta, form, dialog, template, input, h1"))
			if (!e.matches("head > *, .brand img, #publish-form, #filters, #search-form, #publish-form *, #filters *, #search-form *, .tools *, #replay-dialog, #replay-dialog *, .heading > h1")) bad.push("in the page: " + e.outerHTML.slice(0, 100));
		for (const a of document.querySelectorAll("[href], [src], [action]"))
			for (const url of [a.href, a.src, a.action])
				if (typeof url === "string" && new URL(url, location.href).origin !== location.origin) bad.push("leads to " + url);
		for (const e of document.querySelectorAll("*"))
			for (const a of e.getAttributeNames()) if (/^on/.test(a) || a === "style") bad.push("an attribute: " + a);
		if (!document.querySelector(".bar").checkVisibility() || !document.querySelector("h1").checkVisibility()) bad.push("the page is hidden");
		return bad.slice(0, 5);
	})()`

// inert fails the test when something that the page shows has become part of it.
func (w *window) inert() {
	w.t.Helper()
	w.report(eval[[]string](w, findForeign))
}

// report fails the test for each problem of a page.
func (w *window) report(problems []string) {
	w.t.Helper()
	w.check()
	for _, p := range problems {
		w.t.Errorf("%s: %s", eval[string](w, `location.pathname`), p)
	}
}

// TestHostileMessages shows two hundred messages that try to be more than text,
// as they arrive, in the list, and each by itself.
func TestHostileMessages(t *testing.T) {
	t.Parallel()
	s := start(t, "INBOX_SEARCH_ATTRIBUTES=value")
	w := s.open(t, desk)
	w.live()
	all := attacks()
	if len(all) < 200 {
		t.Fatalf("there are %d attacks", len(all))
	}
	for i, a := range all {
		m := message{Data: []byte(a)}
		// As an attribute it must be text and fit; its start does.
		if v := strings.ToValidUTF8(a, "?"); v != "" {
			v = v[:min(len(v), 1000)]
			for !utf8.ValidString(v) {
				v = v[:len(v)-1]
			}
			m.Attributes = map[string]string{"value": v}
			if k := v[:min(len(v), 200)]; utf8.ValidString(k) && !strings.HasPrefix(k, "goog") {
				m.Attributes[k] = "key"
			}
			m.OrderingKey = v
		} else {
			m.Attributes = map[string]string{"empty": ""}
		}
		s.publish(t, m)
		if i%50 == 49 {
			s.stored(t, i+1)
		}
	}
	ids := idsOf(s.stored(t, len(all)))
	w.until(fmt.Sprintf(`document.querySelectorAll("#rows tr").length === %d`, len(all)))
	w.inert()
	w.fits()
	if diff := eval[[]string](w, `[...document.querySelectorAll("#rows tr")].filter(r => r.offsetHeight > 60 || r.children.length !== 6).map(r => r.innerText.slice(0, 80))`); len(diff) > 0 {
		t.Errorf("rows out of shape: %q", diff)
	}
	arrived := eval[[]string](w, `[...document.querySelectorAll("#rows td.c-data")].map(e => e.innerText)`)
	w.visit("/")
	w.inert()
	if loaded := eval[[]string](w, `[...document.querySelectorAll("#rows td.c-data")].map(e => e.innerText)`); !slices.Equal(loaded, arrived[:len(loaded)]) {
		t.Error("a message is shown otherwise when it arrives than when the page is loaded")
	}
	w.do(w.resize(phone))
	w.fits()
	for i, id := range ids {
		if !measure.Full() && i%3 != int(measure.Seed()%3) {
			continue
		}
		w.visit("/messages/" + id)
		// One evaluation for all, since there are two hundred pages.
		page := eval[struct {
			Problems []string
			Shown    string
		}](w, `({Problems: [...`+findForeign+`, ...`+findWide+`], Shown: document.querySelector("pre")?.textContent ?? ""})`)
		w.report(page.Problems)
		// Every row of data stands as text in its place.
		var m struct {
			Data []byte
			Size int
		}
		if err := json.Unmarshal(s.get(t, "/messages/"+id), &m); err != nil {
			t.Fatal(err)
		}
		if m.Size == 0 {
			continue
		}
		shown := page.Shown
		if len(shown) > 1<<20 || shown == "" {
			t.Errorf("%s: %d characters are shown", id, len(shown))
		}
		if start := "<script>pwned"; strings.HasPrefix(string(m.Data), start) && !strings.HasPrefix(shown, start) {
			t.Errorf("%s is shown as %.50q", id, shown)
		}
		if strings.ContainsAny(shown, "\u202e\u202d\u2066\u2067\u200b\ufeff\x1b") {
			t.Errorf("%s: hidden characters stand in the page", id)
		}
		if t.Failed() {
			t.Fatalf("stopped at %.60q", m.Data)
		}
	}
}
