package console

import (
	"bytes"
	"compress/gzip"
	"io"
	"net/http"
	"strings"
	"testing"
)

// TestCompressed asks for answers with and without gzip. What is compressed is the
// same; feeds, downloads and errors are not.
func TestCompressed(t *testing.T) {
	t.Parallel()
	s := newSite(t, both)
	id := s.put(t, "1", "s", []byte(strings.Repeat("data ", 20_000)))
	get := func(path, encoding string) (*http.Response, []byte) {
		t.Helper()
		r := s.request(t, http.MethodGet, path, "")
		r.Header.Set("Accept", "text/html")
		if strings.HasPrefix(path, "/messages") {
			r.Header.Set("Accept", "application/json")
		}
		r.Header.Set("Accept-Encoding", encoding)
		resp, err := http.DefaultTransport.RoundTrip(r)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp, b
	}
	for _, path := range []string{"/", "/?messageId=1", "/messages", "/messages/" + id, "/assets/console.js", "/openapi.yaml"} {
		_, plain := get(path, "identity")
		for _, encoding := range []string{"gzip", "br, gzip;q=0.5", "GZIP , deflate"} {
			resp, b := get(path, encoding)
			z, err := gzip.NewReader(bytes.NewReader(b))
			if err != nil || resp.Header.Get("Content-Encoding") != "gzip" || !strings.Contains(strings.Join(resp.Header["Vary"], ","), "Accept-Encoding") {
				t.Fatalf("%s for %s: %v %v", path, encoding, resp.Header, err)
			}
			got, err := io.ReadAll(z)
			if err != nil || !bytes.Equal(got, plain) || len(b) > len(plain)/2 {
				t.Errorf("%s for %s: %d bytes of %d, %v", path, encoding, len(b), len(plain), err)
			}
		}
		for _, encoding := range []string{"identity", "gzip;q=0", "gzip;q=0.0", "x-gzip", "*"} {
			if resp, b := get(path, encoding); resp.Header.Get("Content-Encoding") != "" || !bytes.Equal(b, plain) {
				t.Errorf("%s for %s: %v", path, encoding, resp.Header)
			}
		}
	}
	for _, path := range []string{"/messages/" + id + "/data", "/messages/none", "/messages?x=1", "/nothing"} {
		if resp, _ := get(path, "gzip"); resp.Header.Get("Content-Encoding") != "" {
			t.Errorf("%s is compressed", path)
		}
	}
	// With all compressors at work an answer comes as it is.
	var busy []*gzip.Writer
	for range maxCompressors {
		busy = append(busy, <-compressors)
	}
	if resp, _ := get("/messages", "gzip"); resp.StatusCode != http.StatusOK || resp.Header.Get("Content-Encoding") != "" {
		t.Errorf("without a free compressor: %d %v", resp.StatusCode, resp.Header)
	}
	for _, w := range busy {
		compressors <- w
	}
}
