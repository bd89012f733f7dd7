package console

import (
	"bytes"
	"encoding/json"
	"io"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/net/html"
)

// FuzzTree shows any payload as JSON: what a page gets of it is text within the page's
// own elements, and where all of it is shown and nothing is written out, the same JSON.
func FuzzTree(f *testing.F) {
	f.Add([]byte(`{"a<b>":["\u003cscript\u003e","\ud83d\ude00\ud83d","\/</details>"],"b":{"":[],"c":{}},"d":-1.5e9,"e":null}`))
	f.Add([]byte("[\"\u202e\\u202e&amp;\\\"\",\n[[[true]]] ]"))
	f.Fuzz(func(t *testing.T, data []byte) {
		p := payloadOf(data)
		if !p.isJSON {
			return
		}
		v := treeOf(p.data, p.outline)
		var text strings.Builder
		z := html.NewTokenizer(strings.NewReader(string(v.Tree)))
		for depth := 0; ; {
			kind := z.Next()
			if kind == html.ErrorToken {
				if z.Err() != io.EOF || depth != 0 && !v.Cut {
					t.Fatalf("%q is %q: %v, %d open", data, v.Tree, z.Err(), depth)
				}
				break
			}
			switch token := z.Token(); {
			case kind == html.TextToken:
				text.WriteString(token.Data)
			case kind == html.StartTagToken && strings.Contains("details summary b i", token.Data):
				depth++
			case kind == html.EndTagToken:
				depth--
			default:
				t.Fatalf("%q is %q with %v", data, v.Tree, token)
			}
		}
		if v.Cut || v.Escaped {
			return
		}
		read := func(b []byte) (value any) {
			d := json.NewDecoder(bytes.NewReader(b))
			d.UseNumber()
			if err := d.Decode(&value); err != nil {
				t.Fatalf("%q is %q: %v", data, b, err)
			}
			return value
		}
		if diff := cmp.Diff(read(data), read([]byte(text.String()))); diff != "" {
			t.Fatalf("%q is %q: %s", data, text.String(), diff)
		}
	})
}
