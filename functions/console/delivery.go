package console

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"example.com/pushinbox/shared/delivery"
	"example.com/pushinbox/shared/httpapi"
	"example.com/pushinbox/shared/inbox"
	"example.com/pushinbox/shared/problem"
	"example.com/pushinbox/shared/shell"
)

// errNoDelivery is the answer where no source tells how delivery goes.
var errNoDelivery = problem.Named("delivery_off", http.StatusNotFound,
	"this console has no delivery report: set DELIVERY_SUBSCRIPTIONS (console_delivery = true in Terraform) and deploy the console again")

// delivery tells how the pushes to this inbox go.
func (h *handler) delivery(w http.ResponseWriter, r *http.Request) error {
	if err := httpapi.AllowParameters(r); err != nil {
		return err
	}
	isPage := wantsPage(r)
	if h.reports == nil {
		if isPage {
			return render(w, http.StatusOK, deliveryPage, deliveryData{principal: principalOf(r), IsLocal: h.isLocal})
		}
		return errNoDelivery
	}
	report, err := h.reports.get(r.Context())
	if err != nil {
		return err
	}
	if isPage {
		return render(w, http.StatusOK, deliveryPage, h.deliveryData(r, report))
	}
	w.Header().Set("Vary", "Accept")
	httpapi.WriteJSON(w, http.StatusOK, report)
	return nil
}

// deliveryData is what the page of the delivery shows; without a report it says how to
// switch that on.
type deliveryData struct {
	principal
	IsLocal bool
	Report  *delivery.Report
	Trouble trouble
	Cards   []card
	// Counted says since when refusals are counted, for people.
	Refusals []refusalRow
	// NoRefusals says that there was none, which differs from not knowing.
	NoRefusals bool
	renewal
	// Doctor is the command that looks for the cause.
	Doctor command
}

// renewal is of when a page is, and after how many seconds its script looks again.
type renewal struct {
	At    time.Time
	Every int
}

// card is a subscription on the page.
type card struct {
	delivery.Subscription
	ID              string
	Label, Kind     string
	Explanation     string
	Waiting, Oldest string
	Windows         []windowCard
	Commands        []command
	HasPage         bool
}

// command is one to copy, and what it does.
type command struct{ Text, Words string }

// windowCard is a time on the card of a subscription.
type windowCard struct {
	Title                          string
	Pushes, Share, Latency, Deaths string
	IsBad                          bool
	Chart                          chart
}

// refusalRow is a line of refusals with what to look at.
type refusalRow struct {
	delivery.Refusal
	Status, Advice string
	Hour, Day      string
}

func (h *handler) deliveryData(r *http.Request, report *delivery.Report) deliveryData {
	p := deliveryData{
		principal: principalOf(r), IsLocal: h.isLocal, Report: report, Trouble: h.troubleOf(report),
		NoRefusals: !report.RefusalsFrom.IsZero() && len(report.Refusals) == 0, renewal: renewal{report.At, h.refreshSeconds()},
		Doctor: h.doctor(),
	}
	for i := range report.Subscriptions {
		p.Cards = append(p.Cards, h.card(report.Subscriptions[i], i))
	}
	for _, f := range report.Refusals {
		row := refusalRow{Refusal: f, Status: strconv.Itoa(f.Status), Advice: advice[f.Reason], Hour: delivery.Count(f.LastHour), Day: delivery.Count(f.Count)}
		if f.Status == 0 {
			row.Status = "none"
		}
		p.Refusals = append(p.Refusals, row)
	}
	return p
}

// refreshSeconds is how often a page asks for news of the delivery, in seconds. Locally that
// costs nothing; in the cloud the answer is kept for a minute.
func (h *handler) refreshSeconds() int {
	if h.isLocal {
		return 2
	}
	return 30
}

// advice says where to look, for the reasons of refusals that have one cause mostly.
var advice = map[string]string{
	"audience":           "The audience that the subscription puts into its tokens is not PUSH_AUDIENCE. They are compared to the letter: a slash at the end is another audience.",
	"email":              "The subscription signs as another account than PUSH_SERVICE_ACCOUNT.",
	"email_not_verified": "The account that signs is not a service account of Google's.",
	"expired":            "A clock is wrong, or somebody sent an old push again.",
	"inbox_unavailable":  "The store takes no writes: Firestore is away or refuses receive's account; on one machine the disk is full or the file cannot be written.",
	"issuer":             "Somebody else than Google signed it.",
	"keys_unavailable":   "The keys that verify tokens cannot be fetched: look at receive's way out to the internet.",
	"no_token":           "The subscription sends no OIDC token, or this was a stranger.",
	"not_yet_valid":      "A clock is wrong.",
	"policy":             "receive's own settings are wrong.",
	"shared_token":       "The value of ?token= in the endpoint is not the one that receive expects.",
	"signature":          "The token is not one that Google signed for this endpoint.",
	"signature_removed":  "The function is private, and the platform cut the signature off: deploy receive again.",
	"timeout":            "It took longer than Pub/Sub waits.",
}

// labels are the states of subscriptions for people: a word, how bad it is, and a
// sentence.
var labels = map[delivery.State][3]string{
	delivery.Delivering: {"delivering", "ok", ""},
	delivery.Paused:     {"paused", "warn", "It has no push endpoint: nothing of it arrives, and messages wait."},
	delivery.Waiting:    {"waiting", "", "It keeps the messages that the others gave up, until somebody redrives or deletes them."},
	delivery.Redriving:  {"redriving", "warn", "Its messages are being pushed. If no redrive runs any more, start it again: it goes on, and takes the endpoint away at its end."},
	delivery.Detached:   {"detached", "bad", "Its topic does not feed it any more, and what it had is gone. Create it again."},
	delivery.TopicGone:  {"topic deleted", "bad", "Its topic was deleted. A topic of the same name does not feed it: create topic and subscription again."},
	delivery.Missing:    {"missing", "bad", "It does not exist: it was deleted, or expired because nothing was delivered for long."},
	delivery.NotKnown:   {"unknown", "", "Its state could not be read."},
}

func (h *handler) card(s delivery.Subscription, n int) card {
	label, ok := labels[s.State]
	if !ok {
		label = labels[delivery.NotKnown]
	}
	c := card{Subscription: s, ID: "s" + strconv.Itoa(n), Label: label[0], Kind: label[1], Explanation: label[2], Commands: h.commands(&s), HasPage: h.hasPage(&s)}
	if s.Backlog != nil {
		c.Waiting = delivery.Count(*s.Backlog)
	}
	if s.OldestSeconds != nil && (s.Backlog == nil || *s.Backlog > 0) {
		c.Oldest = ageText(*s.OldestSeconds)
	}
	if !s.DeadLetters || s.State == delivery.Redriving {
		c.Windows = []windowCard{windowOf("The last hour", &s.LastHour, time.Hour, time.Minute), windowOf("The last 24 hours", &s.LastDay, 24*time.Hour, 15*time.Minute)}
	}
	return c
}

func windowOf(title string, w *delivery.Window, length, step time.Duration) windowCard {
	c := windowCard{Title: title, Chart: chartOf(w.Points, length, step)}
	if w.Pushes != nil {
		c.Pushes = delivery.Count(*w.Pushes)
	}
	if w.AckedShare != nil {
		c.Share, c.IsBad = delivery.Percent(*w.AckedShare), *w.AckedShare < 1
	}
	if w.P50Millis != nil && w.P99Millis != nil {
		c.Latency = millisText(*w.P50Millis) + " / " + millisText(*w.P99Millis)
	}
	if w.DeadLettered != nil {
		c.Deaths = delivery.Count(*w.DeadLettered)
	}
	return c
}

// where are the flags that say to pushinbox which inbox is operated. A deployed one is
// known from Terraform's outputs, which have where its records and its token are, too.
func (h *handler) where() string {
	switch {
	case h.isLocal && h.localData != "":
		return " --data " + shell.Quote(visible(h.localData))
	case h.isLocal:
		return ""
	}
	return " --terraform terraform"
}

// whereDead are the flags that say which subscription's dead letters are operated.
func (h *handler) whereDead(name string) string {
	return h.where() + " --dead-letter-subscription " + shell.Quote(visible(inbox.ShortName(name)))
}

func (h *handler) doctor() command {
	at := h.where()
	if h.isLocal {
		at = " --local" + at
	}
	return command{"pushinbox doctor" + at, "looks for the cause, and changes nothing"}
}

// hasPage reports whether the page of the dead letters is where to go for those of s.
func (h *handler) hasPage(s *delivery.Subscription) bool {
	return s.DeadLetters && (s.Name == h.dead || !h.isLocal)
}

// commands are what an operator can do with a subscription.
func (h *handler) commands(s *delivery.Subscription) []command {
	at := h.where() + " --subscription " + shell.Quote(visible(inbox.ShortName(s.Name)))
	switch {
	case h.hasPage(s):
		return nil // which has them
	case s.DeadLetters:
		at = h.whereDead(s.Name)
		if s.State == delivery.Redriving {
			return []command{{"pushinbox dead-letters redrive --stop" + at, "ends the redrive; what was not pushed waits on"}}
		}
		return []command{
			{"pushinbox dead-letters list" + at, "shows which messages wait, and leaves them there"},
			{"pushinbox dead-letters redrive" + at, "has Pub/Sub push them to the endpoint of the subscription that gives them up, until none is left; if that is not one alone, it says which flags to add"},
			{"pushinbox dead-letters purge" + at, "deletes them, after a question and a snapshot"},
		}
	case s.State == delivery.Paused:
		return []command{{"pushinbox delivery resume" + at, "has it pushed again, as it was"}}
	case s.State == delivery.Delivering:
		if h.isLocal && strings.Contains(s.Endpoint, "token=") { // only its file has it, and resume needs it
			return []command{{"pushinbox delivery pause" + at + " --token-file FILE", "stops it; messages wait until it is resumed. FILE has the value of its ?token="}}
		}
		return []command{{"pushinbox delivery pause" + at, "stops it; messages wait until it is resumed"}}
	}
	return nil
}

func millisText(ms float64) string {
	switch {
	case ms < 10:
		return strconv.FormatFloat(ms, 'f', 1, 64) + " ms"
	case ms < 1000:
		return strconv.FormatFloat(ms, 'f', 0, 64) + " ms"
	}
	return strconv.FormatFloat(ms/1000, 'f', 1, 64) + " s"
}

// ageText is an age for people, in its two largest units.
func ageText(seconds float64) string {
	d := time.Duration(min(max(seconds, 0), 1e9)) * time.Second
	days, hours, minutes := int(d.Hours())/24, int(d.Hours())%24, int(d.Minutes())%60
	switch {
	case days > 0:
		return fmt.Sprintf("%d d %d h", days, hours)
	case hours > 0:
		return fmt.Sprintf("%d h %d min", hours, minutes)
	case minutes > 0:
		return fmt.Sprintf("%d min %d s", minutes, int(d.Seconds())%60)
	}
	return fmt.Sprintf("%d s", int(d.Seconds()))
}
