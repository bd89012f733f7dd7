package console

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"html/template"
	"net/http"
	"net/url"
	"path"
	"slices"
	"strings"
	"time"

	"example.com/pushinbox/shared/delivery"
	"example.com/pushinbox/shared/httpapi"
	"example.com/pushinbox/shared/inbox"
	"example.com/pushinbox/shared/problem"
	"example.com/pushinbox/shared/publisher"
)

//go:embed pages/*.html
var pageFiles embed.FS

//go:embed assets
var assetFiles embed.FS

// contentPolicy allows a page its own files and nothing else: no script or
// style in the page itself, no other host, no frame around it.
const contentPolicy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; " +
	"form-action 'self'; base-uri 'none'; frame-ancestors 'none'"

// asset is a file that pages load.
type asset struct {
	contentType, version string
	body                 []byte
}

var (
	assets          = readAssets()
	listPage        = parsePage("list.html")
	messagePage     = parsePage("message.html")
	deliveryPage    = parsePage("delivery.html")
	deadLettersPage = parsePage("deadletters.html")
	errorPage       = parsePage("error.html")
)

// readAssets reads the embedded files. It panics on errors, which every test would
// show.
func readAssets() map[string]asset {
	types := map[string]string{".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".svg": "image/svg+xml"}
	files, err := assetFiles.ReadDir("assets")
	if err != nil {
		panic(err)
	}
	read := make(map[string]asset)
	for _, f := range files {
		body, err := assetFiles.ReadFile("assets/" + f.Name())
		if err != nil {
			panic(err)
		}
		sum := sha256.Sum256(body)
		read[f.Name()] = asset{types[path.Ext(f.Name())], hex.EncodeToString(sum[:6]), body}
	}
	return read
}

func parsePage(name string) *template.Template {
	return template.Must(template.New(name).Funcs(template.FuncMap{
		"asset":      func(name string) string { return "/assets/" + name + "?v=" + assets[name].version },
		"clock":      clock,
		"exact":      exact,
		"here":       func() string { return name },
		"sourceName": sourceName,
		"shortName":  shortName,
		"visible":    visible,
	}).ParseFS(pageFiles, "pages/base.html", "pages/"+name))
}

// asset serves a page's files. Their addresses change with their content, so that
// a browser may cache them.
func (h *handler) asset(w http.ResponseWriter, r *http.Request) error {
	a, ok := assets[r.PathValue("name")]
	if !ok {
		return problem.New(http.StatusNotFound, "this file does not exist")
	}
	hd := w.Header()
	hd.Set("Content-Type", a.contentType)
	hd.Set("X-Content-Type-Options", "nosniff")
	hd.Set("Cross-Origin-Resource-Policy", "same-origin")
	hd.Set("Content-Security-Policy", "default-src 'none'")
	hd.Set("Cache-Control", "no-cache")
	if r.URL.Query().Get("v") == a.version {
		hd.Set("Cache-Control", "private, max-age=31536000, immutable")
	}
	_, _ = w.Write(a.body)
	return nil
}

// wantsPage reports whether the client is a browser: those accept HTML when they
// open an address or send a form, programs do not.
func wantsPage(r *http.Request) bool {
	return strings.Contains(r.Header.Get("Accept"), "text/html")
}

// render answers with a page.
func render(w http.ResponseWriter, status int, page *template.Template, data any) error {
	var b bytes.Buffer
	if err := page.ExecuteTemplate(&b, "base", data); err != nil {
		return err
	}
	hd := w.Header()
	hd.Set("Content-Type", "text/html; charset=utf-8")
	hd.Set("Content-Security-Policy", contentPolicy)
	hd.Set("X-Content-Type-Options", "nosniff")
	hd.Set("X-Frame-Options", "DENY")
	hd.Set("Referrer-Policy", "same-origin")
	hd.Set("Cross-Origin-Opener-Policy", "same-origin")
	hd.Set("Cross-Origin-Resource-Policy", "same-origin")
	hd.Set("Cache-Control", "no-store")
	// One address answers programs and people.
	hd.Set("Vary", "Accept")
	httpapi.SetErrorHeaders(hd, status)
	w.WriteHeader(status)
	// A failed write means that the reader left, which is not an error.
	_, _ = b.WriteTo(w)
	return nil
}

// writeError answers with an error, as a page for a browser.
func writeError(w http.ResponseWriter, r *http.Request, err error) {
	if !wantsPage(r) {
		httpapi.WriteError(w, err)
		return
	}
	status, detail := problem.Of(err)
	p := errorData{principal: principalOf(r), Status: status, Title: http.StatusText(status), Detail: strings.ToUpper(detail[:1]) + detail[1:]}
	p.Next, p.Retry = nextStep(r, err, status)
	if errors.Is(err, inbox.ErrNotFound) {
		p.Detail = "No message in this inbox has this ID"
		if id, ok := strings.CutPrefix(r.URL.Path, "/messages/"); ok && r.Method == http.MethodGet && !inbox.ValidID(id) && len(id) <= 200 {
			p.Lookup, p.LookupID = filter{}.at("/", "messageId", id), visible(id)
		}
	}
	if render(w, status, errorPage, p) != nil {
		httpapi.WriteError(w, err)
	}
}

// nextStep returns what the reader of an error page can do, and whether to try the
// same again may help.
func nextStep(r *http.Request, err error, status int) (words string, retry bool) {
	isWrite := r.Method == http.MethodPost
	switch {
	case errors.Is(err, errOtherSite):
		return "Nothing was done. Open the console itself, and do it there.", false
	case isWrite && status >= http.StatusInternalServerError:
		return "It is not known whether the message was published: look in the list before you publish it again.", false
	case isWrite:
		return "Nothing was published.", false
	case status == http.StatusUnauthorized:
		return "Sign in again, or ask the owner of this inbox for the address that asks you to sign in.", false
	case status == http.StatusForbidden:
		return "Ask the owner of this inbox for access.", false
	case errors.Is(err, inbox.ErrNotFound):
		return "Messages are deleted after the retention period. An ID that publishing answered with is not the inbox's: look it up.", false
	case status == http.StatusNotFound:
		return "The address may be mistyped, or come from another version of this console.", false
	case errors.Is(err, inbox.ErrPageToken), errors.Is(err, inbox.ErrPageFilter):
		return "The address is cut off or was changed. Begin with the newest messages.", false
	case errors.Is(err, inbox.ErrUnavailable):
		return "Nothing is lost: Pub/Sub sends again what cannot be stored. Try again in a few seconds; the log of this function has the cause.", true
	case status == http.StatusServiceUnavailable:
		return "Try again in a few seconds.", true
	case status >= http.StatusInternalServerError:
		return "The log of this function has the cause.", true
	}
	return "Go back and correct it.", false
}

// errorData is what the error page shows.
type errorData struct {
	principal
	Status        int
	Title, Detail string
	Next          string
	Retry         bool
	// Lookup leads to the messages whose message ID is LookupID.
	Lookup, LookupID string
}

// maxColumns is how many attributes have a column in the list.
const maxColumns = 3

// rowForm is what the rows of one list have in common.
type rowForm struct {
	filter filter
	// origin is the page token of the list.
	origin  string
	columns []string
	// usual is the sender of most pushes in the list: others are named.
	usual string
}

// row is a message in the list.
type row struct {
	*inbox.Message
	// Token leads to the page that begins right after this row. Order is what
	// the list is sorted by, descending.
	Token, Order string
	Preview      preview
	Size         string
	// Sender is who sent it, where that is not the usual one.
	Sender string
	Cells  []attribute
	// Href leads to the message, and the others to the list of what has the same.
	Href, SourceHref, SubscriptionHref string
}

// attribute is a key and a value, with the address of the messages that have them.
type attribute struct{ Key, Value, Href string }

func (f filter) attribute(key, value string) attribute {
	a := attribute{Key: key, Value: value}
	if len(key)+len(value) <= 2048 { // what a query takes
		a.Href = f.at("/", "attribute."+key, value)
	}
	return a
}

func senderOf(m *inbox.Message) string {
	return cmp.Or(m.Verified.Email, m.Verified.Subject, m.Verified.Issuer)
}

// usualSender returns who sent most of the pushes.
func usualSender(events []inbox.Event) string {
	counts, usual := map[string]int{}, ""
	for i := range events {
		if m := &events[i].Message; m.Source == inbox.SourcePubSub {
			s := senderOf(m)
			if counts[s]++; s != "" && counts[s] > counts[usual] {
				usual = s
			}
		}
	}
	return usual
}

func (f *rowForm) row(e inbox.Event) row {
	m := &e.Message
	r := row{
		Message: m, Token: e.Token, Order: fmt.Sprintf("%016d%s", m.ReceivedAt.UnixMicro(), m.ID), Preview: previewOf(m),
		Size:             strings.NewReplacer(" bytes", " B", " byte", " B").Replace(sizeText(m.Size)),
		Href:             f.filter.at("/messages/"+m.ID, "pageToken", f.origin),
		SourceHref:       f.filter.at("/", "source", m.Source),
		SubscriptionHref: f.filter.at("/", "subscription", m.Subscription),
	}
	if sender := senderOf(m); m.Source == inbox.SourcePubSub && sender != f.usual {
		if f.usual == "" {
			f.usual = sender
		} else {
			r.Sender = cmp.Or(visible(sender), "nobody")
		}
	}
	for _, k := range f.columns {
		v, ok := m.Attributes[k]
		if !ok {
			r.Cells = append(r.Cells, attribute{Key: k})
			continue
		}
		r.Cells = append(r.Cells, f.filter.attribute(k, v))
	}
	return r
}

// list is what the page of all messages shows.
type list struct {
	principal
	// Search is the filter as the search box takes it, Fields as parameters.
	Search     string
	Fields     url.Values
	Attributes string
	// Problem is what is wrong with the filter.
	Problem string
	Rows    []row
	Columns []string
	// Current is the ID of the message that the reader comes from.
	Current       string
	Sources       []string
	Subscriptions []string
	// Live says that the page follows the feed at Feed from WatchToken on, and
	// Later that the page does not begin with the first message of the list.
	Live, Later, Filtered, Ascending bool
	Feed, WatchToken                 string
	// First and Next lead to other pages; NextBase is Next without its token.
	First, Next, NextBase string
	Scan                  *scan
	// AsText leads to the search for the message ID in texts.
	AsText    string
	Form      publishForm
	Published string
	// Trouble is the worst of what is wrong with the delivery.
	Trouble trouble
}

// scan is how far a list looked that no index answers.
type scan struct {
	Examined string
	Until    time.Time
}

// publishForm is the input of a reader without JavaScript, and why it was refused.
type publishForm struct {
	Payload, Attributes, OrderingKey, Error string
}

// pageNames are the parameters of the page beside those of a list.
var pageNames = []string{"q", "attributes", "at", "published"}

// canonical returns the parameters of the page that stand for those of its forms,
// and whether they differ.
func canonical(v url.Values) (url.Values, bool) {
	if search, ok := v["q"]; ok {
		return parseSearch(search[0]), true
	}
	c, differs := url.Values{}, false
	for name, values := range v {
		switch {
		case name == "attributes":
			differs = true
			for _, line := range strings.Split(values[0], "\n") {
				for _, t := range termsOf(line) {
					key, value := t.before, t.after
					if t.mark != '=' {
						key, value, _ = strings.Cut(t.all, "=")
					}
					c.Add("attribute."+key, value)
				}
			}
		case len(values) == 1 && values[0] == "" && !strings.HasPrefix(name, "attribute."):
			differs = true
		default:
			c[name] = append(c[name], values...)
		}
	}
	return c, differs
}

// index is the page of all messages.
func (h *handler) index(w http.ResponseWriter, r *http.Request) error {
	v := r.URL.Query()
	if c, differs := canonical(v); differs {
		if text := c.Get("text"); len(c) == 1 && inbox.ValidID(text) {
			// What looks like an ID of this inbox may be a text as well.
			switch _, err := h.store.Peek(r.Context(), text); {
			case err == nil:
				http.Redirect(w, r, "/messages/"+text, http.StatusSeeOther)
				return nil
			case errors.Is(err, inbox.ErrUnavailable):
				return err
			}
		}
		http.Redirect(w, r, filter(c).at("/"), http.StatusSeeOther)
		return nil
	}
	p := list{Published: v.Get("published"), Current: v.Get("at")}
	if strings.Trim(p.Published, "0123456789") != "" {
		// Not an ID of Pub/Sub's, but text that somebody put into a link.
		p.Published = ""
	}
	return h.listPage(w, r, http.StatusOK, v, p)
}

func (h *handler) listPage(w http.ResponseWriter, r *http.Request, status int, v url.Values, p list) error {
	ctx, cancel := context.WithTimeout(r.Context(), readBudget)
	defer cancel()
	f := filterOf(v)
	p.principal, p.Search, p.Fields, p.Filtered = principalOf(r), searchOf(url.Values(f)), url.Values(f), f.isSet()
	p.Sources = inbox.Sources
	p.Columns = h.columns
	p.Trouble = h.troubleOf(h.reports.peek()).brief()
	p.Attributes = attributesOf(f)
	q, err := inbox.ParseQuery(v, time.Now(), pageNames...)
	if err != nil {
		if v.Get("pageToken") != "" {
			return err
		}
		var detail string
		status, detail = problem.Of(err)
		p.Problem = strings.ToUpper(detail[:1]) + detail[1:] + "."
		return render(w, status, listPage, p)
	}
	page, q, err := h.around(ctx, q, p.Current)
	if err != nil {
		return err
	}
	form := rowForm{f, q.PageToken, h.columns, usualSender(page.Events)}
	p.Ascending, p.Later = q.Ascending, q.PageToken != ""
	p.Live = !p.Later && !q.Ascending && q.Until.IsZero()
	p.Feed, p.WatchToken = f.at("/rows", "usual", form.usual, "pageSize", "", "order", ""), page.WatchToken
	p.First, p.NextBase = f.at("/"), f.at("/")
	if page.NextPageToken != "" {
		p.Next = f.at("/", "pageToken", page.NextPageToken)
	}
	if page.Examined > 0 && !page.ExaminedUntil.IsZero() {
		p.Scan = &scan{Examined: delivery.Count(page.Examined), Until: page.ExaminedUntil}
	}
	if id := q.MessageID; id != "" {
		p.AsText = f.at("/", "messageId", "", "text", id)
	}
	seen := map[string]bool{q.Subscription: true, "": true}
	for _, e := range page.Events {
		p.Rows = append(p.Rows, form.row(e))
		if s := e.Message.Subscription; !seen[s] {
			seen[s] = true
			p.Subscriptions = append(p.Subscriptions, s)
		}
	}
	slices.Sort(p.Subscriptions)
	return render(w, status, listPage, p)
}

// attributesOf returns the attributes of a filter as the form has them.
func attributesOf(f filter) string {
	v := url.Values{}
	for name, values := range f {
		if strings.HasPrefix(name, "attribute.") {
			v[name] = values
		}
	}
	return searchOf(v)
}

// around returns the page of q on which the message with an ID is, if any, and the
// query for that page: the one that q asks for or, when the message has moved on, the
// one that has it near its start.
func (h *handler) around(ctx context.Context, q inbox.Query, id string) (*inbox.Page, inbox.Query, error) {
	page, err := h.page(ctx, q)
	if err != nil || !inbox.ValidID(id) || slices.ContainsFunc(page.Events, func(e inbox.Event) bool { return e.Message.ID == id }) {
		return page, q, err
	}
	m, err := h.store.Peek(ctx, id)
	if err != nil || !q.Matches(m) {
		return page, q, nil // as without an ID
	}
	before := q
	before.PageToken, before.PageSize, before.Ascending = tokenAt(m), 5, !q.Ascending
	above, err := h.page(ctx, before)
	if err != nil || len(above.Events) == 0 {
		return page, q, err
	}
	q.PageToken = above.Events[len(above.Events)-1].Token
	page, err = h.page(ctx, q)
	return page, q, err
}

// tokenAt returns a page token that fits every query, from m on.
func tokenAt(m *inbox.Message) string {
	return inbox.Position{ReceivedAt: m.ReceivedAt, Commit: m.ReceivedAt, ID: m.ID}.Token()
}

// event is an event of the feed that the list's script follows: a row in the
// HTML of the page itself.
func (f *rowForm) event(e inbox.Event) ([]byte, error) {
	var b bytes.Buffer
	if err := listPage.ExecuteTemplate(&b, "row", f.row(e)); err != nil {
		return nil, err
	}
	// A line break would end the field; an attribute's value may hold one.
	row := strings.NewReplacer("\r\n", "\ndata: ", "\r", "\ndata: ", "\n", "\ndata: ").Replace(b.String())
	return fmt.Appendf(nil, "id: %s\nevent: row\ndata: %s\n\n", e.Token, row), nil
}

// publishForm publishes the form of a browser without JavaScript, and redirects to
// the list.
func (h *handler) publishForm(w http.ResponseWriter, r *http.Request, body []byte) error {
	messages, err := publisher.Parse(r.Header, "", body)
	var ids []string
	if err == nil {
		ids, err = h.publishAll(r.Context(), messages)
	}
	if err == nil {
		http.Redirect(w, r, filter{}.at("/", "published", ids[0]), http.StatusSeeOther)
		return nil
	}
	form, unreadable := url.ParseQuery(string(body))
	if unreadable != nil {
		return err
	}
	status, detail := problem.Of(err)
	outcome := "Refused"
	if status >= http.StatusInternalServerError {
		outcome = "Failed"
	}
	if failed := h.listPage(w, r, status, nil, list{Form: publishForm{
		form.Get("payload"), form.Get("attributes"), form.Get("orderingKey"),
		fmt.Sprintf("%s (%d): %s.", outcome, status, detail),
	}}); failed != nil {
		return errors.Join(err, failed)
	}
	return err
}
