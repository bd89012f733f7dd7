// Package pubsubtest is the conformance suite of Pub/Sub servers: what Google
// documents of topics, subscriptions, delivery and push, tried over gRPC on a
// real server. Every row of it observes one behaviour and says in a few words
// what it saw, so that a server's known difference is asserted as strictly as
// the documented behaviour: when the server changes, its row fails.
//
// The rows with what Google's emulator does are the table in docs/fidelity.md.
package pubsubtest

import (
	"context"
	"fmt"
	"runtime/debug"
	"strings"
	"sync"
	"testing"
	"time"

	"cloud.google.com/go/iam/apiv1/iampb"
	"cloud.google.com/go/pubsub/v2/apiv1/pubsubpb"
	"github.com/googleapis/gax-go/v2"
	"google.golang.org/genproto/googleapis/rpc/code"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Target is a server to try.
type Target struct {
	Conn grpc.ClientConnInterface
	// Project is where the suite creates its topics; a name without "/".
	Project string
	// Advance moves the server's clock forward, which otherwise goes on as the
	// real one does. Where it is nil the suite waits, and leaves out the rows that
	// would take longer than a minute.
	Advance func(time.Duration)
	// Differences are the observations of rows in which the server is known to
	// differ, by the row's name.
	Differences map[string]string
}

// Row is one behaviour.
type Row struct {
	// Name is unique, in snake_case.
	Name string
	// Behaviour says what is looked at, Documented what Google's documentation
	// says of it.
	Behaviour, Documented string
	// Want is what the suite observes on a local server as it should be.
	Want string
	// NeedsClock says that it would take longer than a minute without
	// Target.Advance.
	NeedsClock bool

	observe func(*world) string
}

// Rows returns all rows, in the order of the table.
func Rows() []Row {
	var all []Row
	for _, group := range [][]Row{resourceRows, publishRows, pullRows, streamRows, seekRows, pushRows, absentRows} {
		all = append(all, group...)
	}
	return all
}

// maxRows is how many rows run at a time. They wait more than they work.
const maxRows = 64

// patience is how long a row waits for what must happen, and pause how long for
// what must not.
const (
	patience = 30 * time.Second
	pause    = 1500 * time.Millisecond
)

// Run tries every row, each in a subtest that fails when the observation is
// neither what the row wants nor the target's known difference. It calls target
// once for each row, so that a clock is one row's own. All rows together take
// about half a minute of real time, and a third of that with a clock that can be moved.
func Run(t *testing.T, target func(t *testing.T) Target) {
	t.Helper()
	rows := Rows()
	targets := make([]Target, len(rows))
	observed := make([]string, len(rows))
	var all sync.WaitGroup
	running := make(chan struct{}, maxRows)
	for i, row := range rows {
		targets[i] = target(t)
		if row.NeedsClock && targets[i].Advance == nil {
			continue
		}
		all.Add(1)
		go func() {
			defer all.Done()
			running <- struct{}{}
			defer func() { <-running }()
			observed[i] = row.try(t.Context(), targets[i])
		}()
	}
	all.Wait()
	var holding []string
	for i, row := range rows {
		t.Run(row.Name, func(t *testing.T) {
			want, known := targets[i].Differences[row.Name]
			switch {
			case row.NeedsClock && targets[i].Advance == nil:
				t.Skip("needs a target with a clock that can be moved")
			case known && want == row.Want:
				t.Error("the known difference is none")
			case !known:
				want = row.Want
			}
			if observed[i] == row.Want {
				holding = append(holding, row.Name)
			}
			if observed[i] != want {
				t.Errorf("%s\ndocumented: %s\nobserved %q\nwant     %q", row.Behaviour, row.Documented, observed[i], want)
			}
		})
	}
	t.Logf("%d of %d rows hold: %s", len(holding), len(rows), strings.Join(holding, ", "))
}

// broken is the panic of a row that cannot go on.
type broken string

// try runs a row. What stops it is its observation.
func (r Row) try(ctx context.Context, target Target) (observed string) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	w := &world{
		Target:     target,
		ctx:        ctx,
		row:        strings.ReplaceAll(r.Name, "_", "-"),
		publisher:  pubsubpb.NewPublisherClient(target.Conn),
		subscriber: pubsubpb.NewSubscriberClient(target.Conn),
		policies:   iampb.NewIAMPolicyClient(target.Conn),
	}
	defer func() {
		for _, f := range w.cleanups {
			f()
		}
		cancel()
		switch p := recover().(type) {
		case nil:
		case broken:
			observed = "broken: " + string(p)
		default:
			observed = fmt.Sprintf("panic: %v\n%s", p, debug.Stack())
		}
	}()
	return r.observe(w)
}

// world is what one row works with.
type world struct {
	Target
	ctx        context.Context
	row        string // begins the names of all that the row creates
	publisher  pubsubpb.PublisherClient
	subscriber pubsubpb.SubscriberClient
	policies   iampb.IAMPolicyClient

	names    int
	ahead    time.Duration // of the server's clock
	cleanups []func()
}

// advance moves the server's clock.
func (w *world) advance(d time.Duration) {
	w.Advance(d)
	w.ahead += d
}

// now is the server's time.
func (w *world) now() time.Time { return time.Now().Add(w.ahead) }

// must ends the row when err is not nil.
func must(what string, err error) {
	if err != nil {
		panic(broken(fmt.Sprintf("%s: %s", what, status.Convert(err).Message())))
	}
}

// name returns a full name that is new.
func (w *world) name(collection string) string {
	w.names++
	return w.named(collection, fmt.Sprintf("%s-%d", w.row, w.names))
}

func (w *world) named(collection, id string) string {
	return "projects/" + w.Project + "/" + collection + "/" + id
}

// topic creates a topic and returns its name.
func (w *world) topic(with ...func(*pubsubpb.Topic)) string {
	topic := &pubsubpb.Topic{Name: w.name("topics")}
	for _, f := range with {
		f(topic)
	}
	_, err := w.publisher.CreateTopic(w.ctx, topic)
	must("CreateTopic", err)
	return topic.Name
}

// tryTopic creates a topic and returns the answer.
func (w *world) tryTopic(with func(*pubsubpb.Topic)) (*pubsubpb.Topic, error) {
	topic := &pubsubpb.Topic{Name: w.name("topics")}
	with(topic)
	return w.publisher.CreateTopic(w.ctx, topic)
}

// subscribe creates a subscription and returns its name.
func (w *world) subscribe(topic string, with ...func(*pubsubpb.Subscription)) string {
	s, err := w.trySubscribe(topic, with...)
	must("CreateSubscription", err)
	return s.Name
}

// trySubscribe creates a subscription and returns the answer.
func (w *world) trySubscribe(topic string, with ...func(*pubsubpb.Subscription)) (*pubsubpb.Subscription, error) {
	s := &pubsubpb.Subscription{Name: w.name("subscriptions"), Topic: topic}
	for _, f := range with {
		f(s)
	}
	created, err := w.subscriber.CreateSubscription(w.ctx, s)
	if err == nil && s.PushConfig != nil {
		// Nothing is left that goes on pushing.
		w.cleanups = append(w.cleanups, func() {
			_, _ = w.subscriber.DeleteSubscription(w.ctx, &pubsubpb.DeleteSubscriptionRequest{Subscription: s.Name})
		})
	}
	return created, err
}

func (w *world) get(subscription string) *pubsubpb.Subscription {
	s, err := w.subscriber.GetSubscription(w.ctx, &pubsubpb.GetSubscriptionRequest{Subscription: subscription})
	must("GetSubscription", err)
	return s
}

func (w *world) tryPublish(topic string, messages ...*pubsubpb.PubsubMessage) ([]string, error) {
	answer, err := w.publisher.Publish(w.ctx, &pubsubpb.PublishRequest{Topic: topic, Messages: messages})
	return answer.GetMessageIds(), err
}

func (w *world) publish(topic string, messages ...*pubsubpb.PubsubMessage) []string {
	ids, err := w.tryPublish(topic, messages...)
	must("Publish", err)
	return ids
}

// texts publishes messages with these data, in one request.
func (w *world) texts(topic string, data ...string) {
	messages := make([]*pubsubpb.PubsubMessage, len(data))
	for i, d := range data {
		messages[i] = text(d)
	}
	w.publish(topic, messages...)
}

func text(data string) *pubsubpb.PubsubMessage { return &pubsubpb.PubsubMessage{Data: []byte(data)} }

func keyed(key, data string) *pubsubpb.PubsubMessage {
	return &pubsubpb.PubsubMessage{Data: []byte(data), OrderingKey: key}
}

// poll returns what a subscription has to give right now, or the error.
func (w *world) poll(subscription string, most int32) ([]*pubsubpb.ReceivedMessage, error) {
	//lint:ignore SA1019 what is not there now is not waited for
	request := &pubsubpb.PullRequest{Subscription: subscription, MaxMessages: most, ReturnImmediately: true}
	answer, err := w.subscriber.Pull(w.ctx, request)
	return answer.GetReceivedMessages(), err
}

// pull returns want messages, or as many as came within wait.
func (w *world) pull(subscription string, want int, wait time.Duration) []*pubsubpb.ReceivedMessage {
	var got []*pubsubpb.ReceivedMessage
	w.until(wait, func() bool {
		messages, err := w.poll(subscription, int32(want-len(got)))
		must("Pull", err)
		got = append(got, messages...)
		return len(got) >= want
	})
	return got
}

// one returns the next message.
func (w *world) one(subscription string) *pubsubpb.ReceivedMessage {
	got := w.pull(subscription, 1, patience)
	if len(got) == 0 {
		panic(broken("no message came"))
	}
	return got[0]
}

// until waits until done reports true, at most wait, and returns what it
// reported last.
func (w *world) until(wait time.Duration, done func() bool) bool {
	const step = 50 * time.Millisecond
	for end := time.Now().Add(wait); ; {
		if done() {
			return true
		}
		if time.Now().After(end) || gax.Sleep(w.ctx, step) != nil {
			return false
		}
	}
}

// expire waits until leases of ten seconds are over.
func (w *world) expire() {
	if w.Advance != nil {
		w.advance(11 * time.Second)
		return
	}
	w.until(11*time.Second, func() bool { return false })
}

// pass lets some of the server's time pass; a fifth of it is real where its clock can be
// moved.
func (w *world) pass(d time.Duration) {
	if w.Advance != nil {
		w.advance(d - d/5)
		d /= 5
	}
	_ = gax.Sleep(w.ctx, d) // what comes next fails when the row has no time left
}

func (w *world) ack(subscription string, messages ...*pubsubpb.ReceivedMessage) {
	_, err := w.subscriber.Acknowledge(w.ctx, &pubsubpb.AcknowledgeRequest{Subscription: subscription, AckIds: ackIDs(messages)})
	must("Acknowledge", err)
}

func (w *world) nack(subscription string, messages ...*pubsubpb.ReceivedMessage) {
	must("ModifyAckDeadline", w.modify(subscription, 0, ackIDs(messages)...))
}

func (w *world) modify(subscription string, seconds int32, ids ...string) error {
	_, err := w.subscriber.ModifyAckDeadline(w.ctx, &pubsubpb.ModifyAckDeadlineRequest{
		Subscription: subscription, AckIds: ids, AckDeadlineSeconds: seconds,
	})
	return err
}

func ackIDs(messages []*pubsubpb.ReceivedMessage) []string {
	ids := make([]string, len(messages))
	for i, m := range messages {
		ids[i] = m.AckId
	}
	return ids
}

// dataOf returns the data of messages, in order, with a space between.
func dataOf(messages []*pubsubpb.ReceivedMessage) string {
	all := make([]string, len(messages))
	for i, m := range messages {
		all[i] = string(m.Message.Data)
	}
	return strings.Join(all, " ")
}

// codeOf returns the code of an error as Google writes it.
func codeOf(err error) string { return code.Code(status.Code(err)).String() }

// outcomes collects how cases ended that should all end alike.
type outcomes struct {
	want codes.Code
	odd  []string
}

func (o *outcomes) add(name string, err error) {
	if status.Code(err) != o.want {
		o.odd = append(o.odd, name+" "+codeOf(err))
	}
}

// String returns "all" and the code, or the cases that ended otherwise.
func (o *outcomes) String() string {
	if len(o.odd) == 0 {
		return "all " + code.Code(o.want).String()
	}
	return "all " + code.Code(o.want).String() + " but: " + strings.Join(o.odd, ", ")
}
