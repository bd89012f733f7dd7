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
	assets      = readAssets()
	listPage    = parsePage("list.html")
	messagePage = parsePage("message.html")
	errorPage   = parsePage("error.html")
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
		"sourceName": sourceName,
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
	p := errorData{Status: status, Title: http.StatusText(status), Detail: strings.ToUpper(detail[:1]) + detail[1:]}
	switch {
	case r.Method != http.MethodGet:
		p.Next = "Nothing was published. Go back: your input is still there."
	case status == http.StatusUnauthorized:
		p.Next = "Sign in again, or ask the owner of this inbox for the address that asks you to sign in."
	case status == http.StatusForbidden:
		p.Next = "Ask the owner of this inbox for access."
	case status == http.StatusNotFound:
		p.Next = "Messages are deleted after the retention period; the list shows what remains."
	case status == http.StatusServiceUnavailable:
		p.Next, p.Retry = "Nothing is lost: pushes that could not be stored are sent again. Try again in a few seconds; the log of this function has the cause.", true
	case status == http.StatusInternalServerError:
		p.Next, p.Retry = "The log of this function has the cause.", true
	default:
		p.Next = "Go back and correct it."
	}
	if render(w, status, errorPage, p) != nil {
		httpapi.WriteError(w, err)
	}
}

// errorData is what the error page shows.
type errorData struct {
	principal
	Status        int
	Title, Detail string
	Next          string
	Retry         bool
}

// row is a message in the list.
type row struct {
	*inbox.Message
	// Token leads to the page that begins right after this row. Order is what
	// the list is sorted by, descending.
	Token, Order      string
	Preview           preview
	ShortSubscription string
	Sender            string
}

func rowOf(e inbox.Event) row {
	m := &e.Message
	short := m.Subscription[strings.LastIndexByte(m.Subscription, '/')+1:]
	order := fmt.Sprintf("%016d%s", m.ReceivedAt.UnixMicro(), m.ID)
	return row{m, e.Token, order, previewOf(m), visible(short), visible(cmp.Or(m.Verified.Email, m.Verified.Subject, m.Verified.Issuer))}
}

// list is what the page of all messages shows.
type list struct {
	principal
	Query         inbox.Query
	Rows          []row
	Sources       []string
	Subscriptions []string
	// Live says that the page follows the feed at Feed from WatchToken on, and
	// Older that the page does not begin with the newest message.
	Live, Older, Filtered bool
	Feed, WatchToken      string
	// Newest and Next lead to other pages; NextBase is Next without its
	// token.
	Newest, Next, NextBase string
	Form                   publishForm
	Published              string
}

// publishForm is the input of a reader without JavaScript, and why it was refused.
type publishForm struct {
	Payload, Attributes, OrderingKey, Error string
}

// index is the page of all messages.
func (h *handler) index(w http.ResponseWriter, r *http.Request) error {
	q, err := query(r)
	if err != nil {
		return err
	}
	p := list{Published: r.URL.Query().Get("published")}
	if strings.Trim(p.Published, "0123456789") != "" {
		// Not an ID of Pub/Sub's, but text that somebody put into a link.
		p.Published = ""
	}
	return h.listPage(w, r, http.StatusOK, q, p)
}

func (h *handler) listPage(w http.ResponseWriter, r *http.Request, status int, q inbox.Query, p list) error {
	ctx, cancel := context.WithTimeout(r.Context(), readBudget)
	defer cancel()
	page, err := h.page(ctx, q)
	if err != nil {
		return err
	}
	filter := url.Values{}
	for name, value := range map[string]string{"source": q.Source, "subscription": q.Subscription} {
		if value != "" {
			filter.Set(name, value)
		}
	}
	if q.Quarantined {
		filter.Set("quarantined", "true")
	}
	p.principal, p.Query = principalOf(r), q
	p.Sources = []string{inbox.SourcePubSub, inbox.SourceCalendar, inbox.SourceMNS}
	p.Older = q.PageToken != ""
	p.Live = !p.Older
	p.Filtered = len(filter) > 0
	p.Feed, p.WatchToken = at("/rows", filter), page.WatchToken
	p.Newest, p.NextBase = at("/", filter), at("/", filter)
	if page.NextPageToken != "" {
		next := url.Values{"pageToken": {page.NextPageToken}}
		for name := range filter {
			next[name] = filter[name]
		}
		p.Next = at("/", next)
	}
	seen := map[string]bool{q.Subscription: true, "": true}
	for _, e := range page.Events {
		p.Rows = append(p.Rows, rowOf(e))
		if s := e.Message.Subscription; !seen[s] {
			seen[s] = true
			p.Subscriptions = append(p.Subscriptions, s)
		}
	}
	slices.Sort(p.Subscriptions)
	return render(w, status, listPage, p)
}

func at(path string, query url.Values) string {
	if len(query) == 0 {
		return path
	}
	return path + "?" + query.Encode()
}

// rowEvent is an event of the feed that the list's script follows: a row in the
// HTML of the page itself.
func rowEvent(e inbox.Event) ([]byte, error) {
	var b bytes.Buffer
	if err := listPage.ExecuteTemplate(&b, "row", rowOf(e)); err != nil {
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
		http.Redirect(w, r, at("/", url.Values{"published": ids}), http.StatusSeeOther)
		return nil
	}
	form, unreadable := url.ParseQuery(string(body))
	if unreadable != nil {
		return err
	}
	status, detail := problem.Of(err)
	if failed := h.listPage(w, r, status, inbox.Query{}, list{Form: publishForm{
		form.Get("payload"), form.Get("attributes"), form.Get("orderingKey"),
		fmt.Sprintf("Refused (%d): %s.", status, detail),
	}}); failed != nil {
		return errors.Join(err, failed)
	}
	return err
}

// detail is what the page of one message shows.
type detail struct {
	principal
	Message   *inbox.Message
	MessageID string
	Size      string
	Delay     string
	ReplayOf  string
	View      view
	Views     []viewLink
	Verdict   verdict
}

type viewLink struct {
	Key, Name string
	Current   bool
}

func (h *handler) messagePage(w http.ResponseWriter, r *http.Request, m *inbox.Message) error {
	shown := m.Footprint() - len(m.Data) + max(min(len(m.Data), maxTextView), indentedSize(m.Data))
	if err := httpapi.Reserve(r.Context(), int64(shown), viewWeight); err != nil {
		return err
	}
	best := viewOf(m.Data, "")
	p := detail{
		principal: principalOf(r),
		Message:   m,
		MessageID: visible(m.MessageID),
		Size:      sizeText(m.Size),
		Delay:     delayText(m),
		View:      best,
		Verdict:   verdictOf(m),
	}
	if kind := r.URL.Query().Get("view"); kind != "" && kind != best.Kind {
		p.View = viewOf(m.Data, kind)
	}
	if id := m.Attributes[replayOf]; inbox.ValidID(id) {
		p.ReplayOf = id
	}
	for _, v := range []viewLink{{jsonView, "JSON", false}, {textView, "Text", false}, {hexView, "Hex", false}} {
		if v.Key == hexView || v.Key == best.Kind || v.Key == textView && best.Kind == jsonView {
			v.Current = v.Key == p.View.Kind
			p.Views = append(p.Views, v)
		}
	}
	return render(w, http.StatusOK, messagePage, p)
}
