package console

import (
	"encoding/json"
	"fmt"
	"html"
	"math/rand/v2"
	"net/http"
	"net/url"
	"path/filepath"
	"regexp"
	"slices"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"example.com/pushinbox/local/boltinbox"
	"example.com/pushinbox/shared/inbox"
	"example.com/pushinbox/testkit/inboxtest"
	"example.com/pushinbox/testkit/measure"
)

// TestRandomFilters asks the API, the page and the live feed for random filters, and
// compares what each answers with a plain loop over the messages.
func TestRandomFilters(t *testing.T) {
	t.Parallel()
	cfg := both
	cfg.SearchAttributes = inboxtest.SearchAttributes
	s := newSite(t, cfg)
	store, err := boltinbox.Open(filepath.Join(t.TempDir(), "model.db"), &boltinbox.Options{SearchAttributes: inboxtest.SearchAttributes})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = store.Close() })
	s.store, s.handler.store = store, store
	r := rand.New(rand.NewPCG(15, 3))
	var all []inbox.Message // oldest first
	put := func(n int) {
		var wg sync.WaitGroup
		for _, m := range inboxtest.RandomMessages(r, n) {
			m.MessageID += fmt.Sprint("-", len(all))
			wg.Go(func() {
				if _, err := store.Put(t.Context(), m); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		all = nil
		for q := (inbox.Query{PageSize: inbox.MaxPageSize, Ascending: true}); ; {
			page, err := store.List(t.Context(), q)
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, page.Messages()...)
			if q.PageToken = page.NextPageToken; q.PageToken == "" {
				return
			}
		}
	}
	put(measure.Size(400, 2000))

	type search struct {
		values url.Values
		query  inbox.Query
		feed   string // the token to begin at
	}
	var searches []search
	for len(searches) < measure.Size(40, 100) {
		q := inboxtest.RandomQuery(r, all)
		v := q.Values()
		if q.IsEverything() || v.Has("attribute.") || !q.Since.IsZero() && !q.Until.IsZero() && !q.Since.Before(q.Until) || v.Has("source") && !slices.Contains(inbox.Sources, q.Source) {
			continue // no parameter has an empty key; a time that ends before it begins is refused, and an unknown source
		}
		searches = append(searches, search{values: v, query: q})
	}
	for i := range searches {
		f := &searches[i]
		if typed := searchOf(f.values); !cmp.Equal(parseSearch(typed), url.Values(filterOf(f.values))) {
			t.Errorf("%v is typed as %s, which is %v", f.values, typed, parseSearch(typed))
		}
		var want []string
		for _, m := range all {
			if f.query.Matches(&m) {
				want = append(want, m.ID)
			}
		}
		if !f.query.Ascending {
			slices.Reverse(want)
		}
		var got, shown []string
		for v := cloneValues(f.values, "pageSize", "97"); ; {
			resp, b := s.do(t, s.request(t, http.MethodGet, "/messages?"+v.Encode(), ""))
			var page struct {
				Messages                  []struct{ ID string }
				NextPageToken, WatchToken string
			}
			if err := json.Unmarshal(b, &page); err != nil || resp.StatusCode != http.StatusOK {
				t.Fatalf("%.300s: answered %d %.300s", v.Encode(), resp.StatusCode, b)
			}
			for _, m := range page.Messages {
				got = append(got, m.ID)
			}
			f.feed = page.WatchToken
			if page.NextPageToken == "" {
				break
			}
			v.Set("pageToken", page.NextPageToken)
		}
		next := "/?" + cloneValues(f.values, "pageSize", "97").Encode()
		for next != "" {
			_, page := s.page(t, next)
			for _, m := range rowID.FindAllStringSubmatch(page, -1) {
				shown = append(shown, m[1])
			}
			link := olderLink.FindStringSubmatch(page)
			if next = ""; link != nil {
				next = html.UnescapeString(link[1])
			}
		}
		if !slices.Equal(got, want) || !slices.Equal(shown, want) {
			t.Errorf("%.300s: a loop finds %d messages, the API %d, the page %d", f.values.Encode(), len(want), len(got), len(shown))
		}
	}

	// What arrives next is in the feeds whose filter it meets, and in no other.
	known := map[string]bool{}
	for _, m := range all {
		known[m.ID] = true
	}
	put(60)
	fed := 0
	for _, f := range searches {
		var want, got []string
		for _, m := range all {
			if !known[m.ID] && f.query.Matches(&m) {
				want = append(want, m.MessageID)
			}
		}
		if len(want) == 0 || fed == 10 {
			continue
		}
		fed++
		v := cloneValues(f.values, "pageToken", f.feed)
		v.Del("order")
		tl := s.tailOf(t, "/events?"+v.Encode(), "")
		for range want {
			got = append(got, tl.id(t))
		}
		tl.stop()
		slices.Sort(want)
		slices.Sort(got)
		if !slices.Equal(got, want) {
			t.Errorf("%.300s: the feed has %d messages: %s", v.Encode(), len(got), cmp.Diff(want, got))
		}
	}
	if fed < 10 {
		t.Errorf("only %d feeds had something to say", fed)
	}
}

var (
	rowID     = regexp.MustCompile(`<tr role="row" id="m-([0-9a-f]{40})"`)
	olderLink = regexp.MustCompile(`<a id="older" href="([^"]+)" data-base="[^"]*">`)
)

func cloneValues(v url.Values, name, value string) url.Values {
	clone := url.Values{name: {value}}
	for k, values := range v {
		clone[k] = slices.Clone(values)
	}
	return clone
}
