package stack

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"cloud.google.com/go/pubsub/v2/apiv1/pubsubpb"

	"example.com/pushinbox/local/pubsubserver"
	"example.com/pushinbox/local/pushfake"
	"example.com/pushinbox/local/pushlog"
	"example.com/pushinbox/local/records"
	"example.com/pushinbox/shared/delivery"
	"example.com/pushinbox/shared/problem"
)

const (
	// sampleEvery is how often the backlogs are looked at for their course.
	sampleEvery = 15 * time.Second
	// maxSubscriptions is how many a report has at most.
	maxSubscriptions = 100
	// maxListed is how many subscriptions are asked for of Google's emulator.
	maxListed = 1000
)

// deliveries tells how the pushes of this run go. It is the console's delivery.Source.
type deliveries struct {
	log     *pushlog.Log
	records delivery.Records
	// inbox and deadLetters are the full names of the inbox's own subscriptions.
	inbox, deadLetters string
	// statuses returns every subscription with what waits in it, and an error where
	// there is no telling.
	statuses func(context.Context) ([]pubsubserver.Status, error)
	own      ownPushes
	// isBlind says that statuses does not have what waits.
	isBlind bool
}

// newDeliveries returns what tells how the pushes go, from now on. The address of the
// functions is known, and the Pub/Sub is not yet there.
func (s *Stack) newDeliveries() *deliveries {
	o := s.options
	d := &deliveries{
		log: pushlog.New(s.started), records: records.Open(o.Data), inbox: o.Subscription(),
		deadLetters: "projects/" + o.Project + "/subscriptions/" + o.Topic + deadLetterSuffix,
		statuses:    s.statuses,
	}
	d.own.port, d.own.from = s.URL[strings.LastIndex(s.URL, ":")+1:], make(map[string]struct{})
	return d
}

// statuses returns the subscriptions of this run's Pub/Sub, whichever it is.
func (s *Stack) statuses(ctx context.Context) ([]pubsubserver.Status, error) {
	if s.own != nil {
		return s.own.store.Statuses(), nil
	}
	var all []pubsubserver.Status
	request := &pubsubpb.ListSubscriptionsRequest{Project: "projects/" + s.options.Project}
	for sub, err := range s.pubsub.Client.SubscriptionAdminClient.ListSubscriptions(ctx, request).All() {
		if err != nil {
			return nil, fmt.Errorf("Pub/Sub's emulator at %s does not tell its subscriptions: %w", s.options.PubSubEmulator, err)
		}
		if push := s.emulated[sub.Name]; push != nil {
			sub.PushConfig = push
		}
		if all = append(all, pubsubserver.Status{Subscription: sub}); len(all) == maxListed {
			break
		}
	}
	return all, nil
}

// watchDeliveries begins to look at what waits.
func (s *Stack) watchDeliveries(context.Context) error {
	if s.own != nil {
		s.background("the watch of the deliveries", s.deliveries.watch)
	}
	return nil
}

// Report implements delivery.Source.
func (d *deliveries) Report(ctx context.Context) (*delivery.Report, error) {
	now := time.Now()
	r := &delivery.Report{At: now.UTC(), Subscriptions: []delivery.Subscription{}, Unknown: []delivery.Unknown{}}
	r.Refusals, r.RefusalsFrom = d.log.Refusals(now)
	unknown := func(what, why string) { r.Unknown = append(r.Unknown, delivery.Unknown{What: what, Why: why}) }
	all, err := d.statuses(ctx)
	if err != nil {
		unknown("subscriptions", err.Error())
	}
	if d.isBlind {
		unknown("numbers", "Google's emulator does not tell how many messages wait")
	}
	shown := d.shown(ctx, all)
	if more := len(shown) - maxSubscriptions; more > 0 {
		unknown("subscriptions", fmt.Sprintf("%d more subscriptions are pushed; %d are told of", more, maxSubscriptions))
		shown = shown[:maxSubscriptions]
	}
	for _, status := range shown {
		s, err := d.subscription(ctx, now, status, all)
		if err != nil {
			unknown("operations", err.Error())
		}
		r.Subscriptions = append(r.Subscriptions, s)
	}
	return r, nil
}

// shown returns the subscriptions that are pushed, or were in this run or before a
// pause, and those that keep dead letters; the inbox's own ones in any case, these first.
func (d *deliveries) shown(ctx context.Context, all []pubsubserver.Status) (shown []pubsubserver.Status) {
	rank := func(s pubsubserver.Status) int {
		switch name := s.Subscription.Name; {
		case name == d.inbox:
			return 0
		case name == d.deadLetters:
			return 1
		case strings.HasSuffix(name, "/"+syncTopic):
			return 3 // of the inbox's own machinery
		}
		return 2
	}
	for _, s := range all {
		show := s.Subscription.PushConfig.GetPushEndpoint() != "" || s.Subscription.Labels["pushinbox"] == endpointLabels["pushinbox"]
		show = show || rank(s) < 2 || d.keepsDeadLetters(s.Subscription, all) || d.log.WasPushed(s.Subscription.Name)
		if !show {
			operation, err := d.records.Get(ctx, s.Subscription.Name)
			show = operation != nil || err != nil
		}
		if show {
			shown = append(shown, s)
		}
	}
	slices.SortStableFunc(shown, func(a, b pubsubserver.Status) int { return cmp.Compare(rank(a), rank(b)) })
	return shown
}

// subscription tells of one subscription. Its error is that of the records.
func (d *deliveries) subscription(ctx context.Context, now time.Time, status pubsubserver.Status, all []pubsubserver.Status) (delivery.Subscription, error) {
	pb := status.Subscription
	s := delivery.Subscription{
		Name: pb.Name, Topic: pb.Topic, Endpoint: delivery.HideToken(pb.PushConfig.GetPushEndpoint()),
	}
	if !d.isBlind {
		s.Backlog = new(int64(status.Backlog))
		s.OldestSeconds = new(0.0)
		if !status.Oldest.IsZero() {
			*s.OldestSeconds = max(0, now.Sub(status.Oldest).Seconds())
		}
		d.log.Sample(now, pb.Name, *s.Backlog)
	}
	s.LastHour, s.LastDay = d.log.Windows(now, pb.Name)
	operation, err := d.records.Get(ctx, pb.Name)
	if err != nil {
		err = fmt.Errorf("the record of %s cannot be read: %w", pb.Name, err)
	}
	s.DeadLetters = d.keepsDeadLetters(pb, all) || operation != nil && operation.Kind == delivery.Redrive
	s.State = stateOf(pb, s.DeadLetters, operation, pb.Name == d.deadLetters)
	if operation != nil && (operation.Kind == delivery.Redrive) == s.DeadLetters && s.State != delivery.Delivering {
		s.Operation = operation
	}
	return s, err
}

// keepsDeadLetters reports whether a subscription has what others gave up, or did for one
// of an earlier run.
func (d *deliveries) keepsDeadLetters(pb *pubsubpb.Subscription, all []pubsubserver.Status) bool {
	if pb.Name == d.deadLetters || KeepsDeadLetters(pb.Name, pb.Topic) {
		return true
	}
	return slices.ContainsFunc(all, func(other pubsubserver.Status) bool {
		return other.Subscription.DeadLetterPolicy.GetDeadLetterTopic() == pb.Topic
	})
}

// stateOf returns what a subscription does.
func stateOf(pb *pubsubpb.Subscription, deadLetters bool, operation *delivery.Operation, isOwn bool) delivery.State {
	isPushed := pb.PushConfig.GetPushEndpoint() != ""
	switch {
	case pb.Detached:
		return delivery.Detached
	case pb.Topic == delivery.DeletedTopic:
		return delivery.TopicGone
	case deadLetters && !isPushed:
		return delivery.Waiting
	case deadLetters && (isOwn || operation != nil && operation.Kind == delivery.Redrive):
		return delivery.Redriving
	case !isPushed:
		return delivery.Paused
	}
	return delivery.Delivering
}

// watch looks at the backlogs now and then, until ctx ends, and has subscriptions that
// were deleted forgotten.
func (d *deliveries) watch(ctx context.Context) {
	for tick := time.Tick(sampleEvery); ; {
		if all, err := d.statuses(ctx); err == nil {
			now, there := time.Now(), make(map[string]bool, len(all))
			for _, s := range all {
				there[s.Subscription.Name] = true
			}
			shown := d.shown(ctx, all)
			for _, s := range shown[:min(len(shown), maxSubscriptions)] {
				d.log.Sample(now, s.Subscription.Name, int64(s.Backlog))
			}
			d.log.Forget(func(name string) bool { return there[name] })
		}
		select {
		case <-ctx.Done():
			return
		case <-tick:
		}
	}
}

// delivered remembers a finished push.
func (d *deliveries) delivered(p pushfake.Delivery) {
	push := pushlog.Push{Subscription: p.Subscription, Acked: p.Acked, DeadLettered: p.DeadLettered, Took: p.Duration}
	if !p.Acked {
		push.Refusal = refusalOf(p, d.isOurs(p.Endpoint))
	}
	d.log.Add(time.Now(), push)
}

// isOurs reports whether an endpoint is one of the functions of this run.
func (d *deliveries) isOurs(endpoint string) bool {
	u, err := url.Parse(endpoint)
	return err == nil && u.Port() == d.own.port && IsLoopback(u.Host)
}

// refusalOf says why a push was not acknowledged, in the endpoint's own words where it
// has some. Those of another program, whose address has a secret, are not told, since
// they may repeat it.
func refusalOf(p pushfake.Delivery, isOurs bool) delivery.Refusal {
	tell := isOurs || delivery.HideToken(p.Endpoint) == p.Endpoint
	r := delivery.Refusal{Status: p.Status}
	switch {
	case p.Err == nil && tell:
		r.Reason, r.Detail = answered(p.Status, p.Answer)
	case p.Err == nil:
		r.Reason = reasonOf(p.Status)
	case errors.Is(p.Err, context.DeadlineExceeded):
		r.Reason, r.Detail = "timeout", fmt.Sprintf("there was no answer within the ack deadline of %v", p.AckDeadline)
	case errors.Is(p.Err, syscall.ECONNREFUSED):
		r.Reason, r.Detail = "unreachable", "nothing listens at the endpoint: the connection was refused"
	default:
		r.Reason = "no_answer"
		if dns := (*net.DNSError)(nil); tell {
			r.Detail = delivery.OneLine(p.Err.Error())
		} else if errors.As(p.Err, &dns) { // which has the name of the host alone
			r.Detail = delivery.OneLine(dns.Error())
		}
	}
	return r
}

// reasonForm is what the name of a reason looks like.
var reasonForm = regexp.MustCompile(`^[a-z0-9_]{1,40}$`)

// reasonOf returns the name of a status that does not acknowledge.
func reasonOf(status int) string {
	if reason := problem.Reason(problem.New(status, "")); reasonForm.MatchString(reason) {
		return reason
	}
	return fmt.Sprintf("status_%d", status)
}

// answered returns the reason and the sentence of an answer that does not acknowledge.
func answered(status int, body []byte) (reason, detail string) {
	var own struct{ Reason, Detail string }
	if json.Unmarshal(body, &own) == nil && own.Detail != "" {
		if !reasonForm.MatchString(own.Reason) {
			own.Reason = reasonOf(status)
		}
		return own.Reason, delivery.OneLine(own.Detail)
	}
	text := strings.Join(strings.Fields(string(body)), " ")
	if text == "" || strings.HasPrefix(text, "<") { // a page for people, or XML
		return reasonOf(status), ""
	}
	return reasonOf(status), delivery.OneLine("the endpoint says: " + text)
}

// ownPushes knows the connections over which this run pushes to itself, by the
// address of the side that pushes.
type ownPushes struct {
	port string // of the functions
	mu   sync.Mutex
	from map[string]struct{}
}

// dialed remembers a connection of a dispatcher.
func (o *ownPushes) dialed(c net.Conn) {
	if _, port, _ := net.SplitHostPort(c.RemoteAddr().String()); port == o.port {
		o.mu.Lock()
		defer o.mu.Unlock()
		o.from[c.LocalAddr().String()] = struct{}{}
	}
}

// changed forgets the connections that ended.
func (o *ownPushes) changed(c net.Conn, state http.ConnState) {
	if state == http.StateClosed || state == http.StateHijacked {
		o.mu.Lock()
		defer o.mu.Unlock()
		delete(o.from, c.RemoteAddr().String())
	}
}

func (o *ownPushes) include(address string) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	_, found := o.from[address]
	return found
}

// refused returns receive so that what it refuses of others than this run's own
// dispatchers is remembered too. Of those delivered tells, which knows the
// subscription.
func (d *deliveries) refused(receive http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if d.own.include(r.RemoteAddr) {
			receive.ServeHTTP(w, r)
			return
		}
		q := &quoting{ResponseWriter: w}
		receive.ServeHTTP(q, r)
		if q.status >= 400 {
			refusal := delivery.Refusal{Status: q.status}
			refusal.Reason, refusal.Detail = answered(q.status, q.body)
			d.log.Refused(time.Now(), refusal)
		}
	})
}

// quoting keeps the status of an answer and the beginning of the body of an error.
type quoting struct {
	http.ResponseWriter
	status int
	body   []byte
}

// maxQuoted is how much of an error's body is read, in bytes.
const maxQuoted = 4 << 10

func (q *quoting) WriteHeader(status int) {
	if q.status < 200 {
		q.status = status
	}
	q.ResponseWriter.WriteHeader(status)
}

func (q *quoting) Write(b []byte) (int, error) {
	if q.status >= 400 {
		q.body = append(q.body, b[:min(len(b), maxQuoted-len(q.body))]...)
	}
	return q.ResponseWriter.Write(b)
}

// Unwrap lets http.ResponseController reach the real writer.
func (q *quoting) Unwrap() http.ResponseWriter { return q.ResponseWriter }
