package console

import (
	"cmp"
	"context"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"time"

	"example.com/pushinbox/shared/httpapi"
	"example.com/pushinbox/shared/inbox"
)

// shownAttributes is how many attributes of a message are shown, and the others
// folded; maxReplays how many of its replays are named.
const shownAttributes, maxReplays = 12, 5

// detail is what the page of one message shows.
type detail struct {
	principal
	Message   *inbox.Message
	MessageID string
	Size      string
	Delay     string
	// Attributes are shown, Folded when they are asked for.
	Attributes, Folded []attribute
	// Back leads to the list, Newer and Older to the neighbours in it.
	Back, Newer, Older string
	Filtered           bool
	End                *end
	// Each of these leads to the messages that have the same.
	SourceLink, SubscriptionLink, OrderingLink string
	ReplayOf, MoreReplays                      string
	Replays                                    []inbox.Message
	Trace, TraceLink                           string
	// IsPush says that the message came as the wrapped push of a subscription.
	IsPush bool
	View   view
	// Find is what the search looked for in the data.
	Find    string
	Views   []viewLink
	Verdict verdict
}

// end says that a search has no neighbour of a message.
type end struct{ Words, Further string }

type viewLink struct {
	Key, Name, Href string
	Current         bool
}

// messageNames are the parameters of a message's page beside those of the list that
// led to it.
var messageNames = []string{"view", "end", "from"}

func (h *handler) messagePage(w http.ResponseWriter, r *http.Request, m *inbox.Message) error {
	v := r.URL.Query()
	if _, err := inbox.ParseQuery(v, time.Now(), messageNames...); err != nil {
		return err
	}
	data := payloadOf(m.Data)
	shown := m.Footprint() - len(m.Data) + data.shownSize()
	if err := httpapi.Reserve(r.Context(), int64(shown), viewWeight); err != nil {
		return err
	}
	f, origin, path := filterOf(v), v.Get("pageToken"), "/messages/"+m.ID
	best := data.kind()
	p := detail{
		principal: principalOf(r),
		Message:   m,
		MessageID: visible(m.MessageID),
		Size:      sizeText(m.Size),
		Delay:     delayText(m),
		Back:      f.at("/", "pageToken", origin, "at", m.ID) + "#m-" + m.ID,
		Newer:     f.at(path+"/newer", "pageToken", origin),
		Older:     f.at(path+"/older", "pageToken", origin),
		Filtered:  f.isSet(),
		IsPush:    m.Source == inbox.SourcePubSub && m.Quarantined == "",
		Trace:     traceOf(m),
		View:      data.view(v.Get("view")),
		Find:      v.Get("text"),
		Verdict:   verdictOf(m, h.isLocal),

		SourceLink:       filter{}.at("/", "source", m.Source),
		SubscriptionLink: filter{}.at("/", "subscription", m.Subscription),
		OrderingLink:     filter{}.at("/", "orderingKey", m.OrderingKey),
	}
	for _, link := range []viewLink{{Key: jsonView, Name: "JSON"}, {Key: textView, Name: "Text"}, {Key: hexView, Name: "Hex"}} {
		if link.Key == textView && best == jsonView {
			link.Name = "Raw"
		}
		if link.Key == hexView || link.Key == best || link.Name == "Raw" {
			link.Current = link.Key == p.View.Kind
			link.Href = f.at(path, "pageToken", origin, "view", link.Key)
			p.Views = append(p.Views, link)
		}
	}
	if dir := v.Get("end"); dir == newer || dir == older {
		p.End = &end{Words: "Nothing " + dir + " is in this search."}
		if !p.Filtered {
			p.End.Words = "There is no " + dir + " message."
		}
		if from := v.Get("from"); from != "" {
			p.End = &end{"Nothing " + dir + " in this search was found yet.", f.at(path+"/"+dir, "pageToken", origin, "from", from)}
		}
	}
	p.attributes(h.columns)
	if p.Trace != "" && !h.isLocal && h.project != "" {
		p.TraceLink = "https://console.cloud.google.com/traces/list?" + url.Values{"project": {h.project}, "tid": {p.Trace}}.Encode()
	}
	h.replays(r, &p)
	return render(w, http.StatusOK, messagePage, p)
}

// attributes sorts the attributes of the message: first the declared ones.
func (p *detail) attributes(declared []string) {
	all := p.Message.Attributes
	keys := slices.SortedFunc(maps.Keys(all), func(a, b string) int {
		if x, y := slices.Contains(declared, a), slices.Contains(declared, b); x != y {
			return map[bool]int{true: -1, false: 1}[x]
		}
		return cmp.Compare(a, b)
	})
	for _, k := range keys {
		a := filter{}.attribute(k, all[k])
		if len(p.Attributes) < shownAttributes {
			p.Attributes = append(p.Attributes, a)
		} else {
			p.Folded = append(p.Folded, a)
		}
	}
}

// replays finds what the message repeats, and what repeats it. Where that cannot be
// read now, a link is left to try later.
func (h *handler) replays(r *http.Request, p *detail) {
	if id := p.Message.Attributes[replayOf]; inbox.ValidID(id) {
		p.ReplayOf = id
	}
	ctx, cancel := context.WithTimeout(r.Context(), readBudget)
	defer cancel()
	var page *inbox.Page
	err := httpapi.Reserve(ctx, smallPage, pageWeight)
	if err == nil {
		page, err = h.store.List(ctx, inbox.Query{Attributes: map[string]string{replayOf: p.Message.ID}, PageSize: maxReplays, PageBytes: smallPage})
	}
	if err == nil {
		p.Replays = page.Messages()
	}
	if err != nil || page.NextPageToken != "" {
		p.MoreReplays = filter{}.at("/", "attribute."+replayOf, p.Message.ID)
	}
}

// The neighbours of a message in a search.
const newer, older = "newer", "older"

func (h *handler) newer(w http.ResponseWriter, r *http.Request) error {
	return h.neighbour(w, r, newer)
}

func (h *handler) older(w http.ResponseWriter, r *http.Request) error {
	return h.neighbour(w, r, older)
}

// neighbour redirects to the message beside another one in a search, or back to it.
func (h *handler) neighbour(w http.ResponseWriter, r *http.Request, dir string) error {
	v := r.URL.Query()
	q, err := inbox.ParseQuery(v, time.Now(), "from")
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(r.Context(), readBudget)
	defer cancel()
	m, err := h.peek(ctx, r.PathValue("id"))
	if err != nil {
		return err
	}
	q.PageSize, q.Ascending = 1, dir == newer
	if q.PageToken = tokenAt(m); v.Get("from") != "" {
		q.PageToken = v.Get("from")
	}
	page, err := h.page(ctx, q)
	if err != nil {
		return err
	}
	to := filterOf(v).at("/messages/"+m.ID, "pageToken", v.Get("pageToken"), "end", dir, "from", page.NextPageToken)
	if len(page.Events) > 0 {
		to = filterOf(v).at("/messages/"+page.Events[0].Message.ID, "pageToken", v.Get("pageToken"))
	}
	http.Redirect(w, r, to, http.StatusSeeOther)
	return nil
}
