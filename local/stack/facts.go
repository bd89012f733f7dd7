package stack

import (
	"context"
	"errors"
	"maps"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"cloud.google.com/go/pubsub/v2/apiv1/pubsubpb"
	"google.golang.org/protobuf/types/known/emptypb"

	"example.com/pushinbox/local/pubsubserver"
	"example.com/pushinbox/shared/delivery"
	"example.com/pushinbox/shared/httpapi"
	"example.com/pushinbox/shared/inbox"
	"example.com/pushinbox/shared/pushendpoint"
)

// FactsPath is where a run tells what its doctor wants to know besides GET /delivery.
const FactsPath = "/local/facts"

const (
	// probeSize is the size of the file that is written to see whether one can be, in
	// bytes.
	probeSize = 64 << 10
	// dialPatience is how long an emulator may take to accept a connection.
	dialPatience = time.Second
	// maxTopics is how many topics are counted.
	maxTopics = 100
)

// Facts are what only the run itself knows of how it is.
type Facts struct {
	StartedAt time.Time `json:"startedAt"`
	// Topics are those to which somebody has published in this run, or tried to.
	Topics []TopicFacts `json:"topics"`
	// Pushes are the subscriptions of this run's Pub/Sub that push.
	Pushes []PushFacts `json:"pushes"`
	// Audience and Account are what receive expects of the pushes' tokens.
	Audience string     `json:"audience"`
	Account  string     `json:"account"`
	Inbox    InboxFacts `json:"inbox"`
	// WriteError says why the data directory cannot be written to, and FreeBytes how
	// much room there is on its disk, where that is known.
	WriteError string  `json:"writeError,omitempty"`
	FreeBytes  *uint64 `json:"freeBytes,omitempty"`
	// Emulators are those of Google that the run uses.
	Emulators []EmulatorFacts `json:"emulators"`
}

// TopicFacts are what was published to a topic in this run.
type TopicFacts struct {
	Name      string    `json:"name"` // full
	Published int64     `json:"published"`
	Last      time.Time `json:"last"`
	// ToNobody is how many of those messages were published while the topic had no
	// subscription.
	ToNobody int64 `json:"toNobody"`
	// Refused is how many publish requests were refused, LastRefused when the last one
	// was, and Why.
	Refused     int64     `json:"refused"`
	LastRefused time.Time `json:"lastRefused,omitzero"`
	Why         string    `json:"why,omitempty"`
	// IsMissing says that there is no such topic, and Subscriptions how many it has.
	IsMissing     bool `json:"isMissing"`
	Subscriptions int  `json:"subscriptions"`
}

// PushFacts are how a subscription pushes, without the value of a shared token.
type PushFacts struct {
	Name     string `json:"name"` // full
	Endpoint string `json:"endpoint"`
	Audience string `json:"audience,omitempty"`
	Account  string `json:"account,omitempty"` // empty: it is not signed
	// DeadLetterTopic is the full name of the topic of what it gives up.
	DeadLetterTopic string `json:"deadLetterTopic,omitempty"`
	// NoDeadLetterTopic says that this topic does not exist.
	NoDeadLetterTopic bool `json:"noDeadLetterTopic,omitempty"`
	// LastAcked is when the last push was acknowledged that the run knows of.
	LastAcked          time.Time `json:"lastAcked,omitzero"`
	IsOurs             bool      `json:"isOurs"` // it pushes to a function of the run
	AckDeadlineSeconds int32     `json:"ackDeadlineSeconds"`
	MaxAttempts        int32     `json:"maxAttempts,omitempty"`
}

// InboxFacts are how the storing of pushes went in this run.
type InboxFacts struct {
	Stored int64 `json:"stored"`
	Failed int64 `json:"failed"`
	// SmallestFailed is the size of the smallest that could not be stored, and
	// LargestStored that of the largest that was stored since the first failure, in
	// bytes of data. LastFailed is after LastStored where the last one failed.
	SmallestFailed int       `json:"smallestFailed"`
	LargestStored  int       `json:"largestStored"`
	LastError      string    `json:"lastError,omitempty"`
	LastFailed     time.Time `json:"lastFailed,omitzero"`
	LastStored     time.Time `json:"lastStored,omitzero"`
}

// EmulatorFacts say whether an emulator of Google's is there.
type EmulatorFacts struct {
	Variable string `json:"variable"`
	Host     string `json:"host"`
	Error    string `json:"error,omitempty"`
}

// facts serves Facts.
func (s *Stack) facts(w http.ResponseWriter, r *http.Request) {
	o := s.options
	f := Facts{
		StartedAt: s.started, Topics: []TopicFacts{}, Pushes: []PushFacts{}, Emulators: []EmulatorFacts{},
		Audience: s.URL + "/receive", Account: PushAccount, Inbox: s.stored.facts(), WriteError: errorText(s.probeData()),
	}
	if free, known := freeBytes(o.Data); known {
		f.FreeBytes = &free
	}
	for variable, host := range map[string]string{"PUBSUB_EMULATOR_HOST": o.PubSubEmulator, "FIRESTORE_EMULATOR_HOST": o.FirestoreEmulator} {
		if host != "" {
			f.Emulators = append(f.Emulators, EmulatorFacts{variable, host, errorText(accepts(r.Context(), host, dialPatience))})
		}
	}
	all, err := s.statuses(r.Context())
	if err == nil {
		for _, status := range all {
			if sub := status.Subscription; sub.PushConfig.GetPushEndpoint() != "" && len(f.Pushes) < maxSubscriptions {
				f.Pushes = append(f.Pushes, s.pushFacts(r.Context(), sub))
			}
		}
	}
	if s.own != nil {
		f.Topics = s.own.published.facts()
		for i, t := range f.Topics {
			f.Topics[i].IsMissing = s.own.lacks(r.Context(), t.Name)
			for _, status := range all {
				if status.Subscription.Topic == t.Name {
					f.Topics[i].Subscriptions++
				}
			}
		}
	}
	httpapi.WriteJSON(w, http.StatusOK, f)
}

func errorText(err error) string {
	if err == nil {
		return ""
	}
	return delivery.OneLine(err.Error())
}

func (s *Stack) pushFacts(ctx context.Context, sub *pubsubpb.Subscription) PushFacts {
	p := PushFacts{
		Name: sub.Name, Endpoint: delivery.HideToken(sub.PushConfig.PushEndpoint), IsOurs: s.deliveries.isOurs(sub.PushConfig.PushEndpoint),
		AckDeadlineSeconds: sub.AckDeadlineSeconds, MaxAttempts: sub.DeadLetterPolicy.GetMaxDeliveryAttempts(),
		DeadLetterTopic: sub.DeadLetterPolicy.GetDeadLetterTopic(), LastAcked: s.deliveries.log.LastAcked(sub.Name).UTC(),
	}
	if p.DeadLetterTopic != "" && s.own != nil {
		p.NoDeadLetterTopic = s.own.lacks(ctx, p.DeadLetterTopic)
	}
	if oidc := sub.PushConfig.GetOidcToken(); oidc != nil {
		p.Account, p.Audience = oidc.ServiceAccountEmail, oidc.Audience
		if p.Audience == "" {
			p.Audience = sub.PushConfig.PushEndpoint
		}
		p.Audience = delivery.HideToken(p.Audience)
	}
	return p
}

// probeData returns an error when nothing can be written in the data directory.
func (s *Stack) probeData() error {
	file, err := os.CreateTemp(s.options.Data, "probe-*.part")
	if err != nil {
		return err
	}
	defer os.Remove(file.Name())
	_, err = file.Write(make([]byte, probeSize))
	return errors.Join(err, file.Close())
}

// watchedStore is a store that counts what it stores.
type watchedStore struct {
	pushendpoint.Store
	mu sync.Mutex
	InboxFacts
}

// Put implements pushendpoint.Store.
func (s *watchedStore) Put(ctx context.Context, m *inbox.Message) (stored bool, err error) {
	size := len(m.Data)
	stored, err = s.Store.Put(ctx, m)
	s.mu.Lock()
	defer s.mu.Unlock()
	if err == nil {
		s.Stored++
		s.LargestStored, s.LastStored = max(s.LargestStored, size), time.Now().UTC()
		return stored, nil
	}
	if s.Failed++; s.Failed == 1 {
		s.SmallestFailed, s.LargestStored = size, 0
	}
	s.SmallestFailed = min(s.SmallestFailed, size)
	s.LastError, s.LastFailed = delivery.OneLine(err.Error()), time.Now().UTC()
	return stored, err
}

func (s *watchedStore) facts() InboxFacts {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.InboxFacts
}

// publications counts what is published, by topic.
type publications struct {
	mu     sync.Mutex
	topics map[string]*TopicFacts
}

// add counts a request to publish n messages, to a topic without a subscription or not.
func (p *publications) add(topic string, n int, toNobody bool, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	t := p.topics[topic]
	if t == nil {
		if len(topic) > 512 {
			return // no topic has such a name
		}
		p.makeRoom()
		t = &TopicFacts{Name: topic}
		p.topics[topic] = t
	}
	t.Last = time.Now().UTC()
	if err != nil {
		t.Refused++
		t.LastRefused, t.Why = t.Last, delivery.OneLine(plainStatus(err).Error())
		return
	}
	t.Published += int64(n)
	if toNobody {
		t.ToNobody += int64(n)
	}
}

// forget forgets a topic that was deleted.
func (p *publications) forget(topic string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.topics, topic)
}

// makeRoom forgets the topic that was quiet longest, if there are too many.
func (p *publications) makeRoom() {
	if len(p.topics) < maxTopics {
		return
	}
	quietest := slices.MinFunc(slices.Collect(maps.Values(p.topics)), func(a, b *TopicFacts) int { return a.Last.Compare(b.Last) })
	delete(p.topics, quietest.Name)
}

func (p *publications) facts() []TopicFacts {
	p.mu.Lock()
	defer p.mu.Unlock()
	all := []TopicFacts{}
	for _, t := range p.topics {
		all = append(all, *t)
	}
	slices.SortFunc(all, func(a, b TopicFacts) int { return strings.Compare(a.Name, b.Name) })
	return all
}

// countedPublisher is the Publisher of this process, whose publishing is counted.
type countedPublisher struct {
	*pubsubserver.Server
	published *publications
}

// Publish implements pubsubpb.PublisherServer.
func (c countedPublisher) Publish(ctx context.Context, r *pubsubpb.PublishRequest) (*pubsubpb.PublishResponse, error) {
	// Who gets the message may delete the subscription before Publish returns.
	toNobody := !c.HasSubscription(r.GetTopic())
	published, err := c.Server.Publish(ctx, r)
	c.published.add(r.GetTopic(), len(r.GetMessages()), toNobody, err)
	return published, err
}

// DeleteTopic implements pubsubpb.PublisherServer.
func (c countedPublisher) DeleteTopic(ctx context.Context, r *pubsubpb.DeleteTopicRequest) (*emptypb.Empty, error) {
	deleted, err := c.Server.DeleteTopic(ctx, r)
	if err == nil {
		c.published.forget(r.GetTopic())
	}
	return deleted, err
}
