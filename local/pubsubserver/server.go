// Package pubsubserver is a Pub/Sub for one machine: topics, subscriptions,
// snapshots and their messages in one file. A Server implements Pub/Sub's gRPC
// services PublisherServer and SubscriberServer, and IAM's IAMPolicyServer, whose
// policies nothing enforces.
//
// What Publish and Acknowledge answered is durable, and so are seeks. The
// acknowledgements of pushes and streams are so after 20 ms or with the next
// commit, delivery attempts and the times of the next ones soon. Leases are not, so
// that what was being delivered when the process ended is delivered again. With message
// ordering, a message counts as acknowledged when those of its ordering key before it are.
//
// # Limits
//
// Schemas, message transforms, exactly-once delivery, customer-managed keys,
// tags, and export to BigQuery, Bigtable and Cloud Storage are refused with
// UNIMPLEMENTED. One message per ordering key is outstanding at a time for pushes, one
// batch for Pull. Restarting counts as activity of a subscription that could expire.
package pubsubserver

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"cloud.google.com/go/pubsub/v2/apiv1/pubsubpb"
	"example.com/pushinbox/local/datadir"
	"example.com/pushinbox/local/wallclock"
	"example.com/pushinbox/shared/inbox/groupcommit"
	"go.etcd.io/bbolt"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Clock is the time of a Server.
type Clock interface {
	Now() time.Time
	// At calls f, which does not block, when it is t or later. The function that it returns cancels
	// the call.
	At(t time.Time, f func()) (stop func() bool)
}

// SystemClock is the time of the system.
type SystemClock struct{}

// Now returns the system's time.
func (SystemClock) Now() time.Time { return time.Now() }

// At calls f at t.
func (SystemClock) At(t time.Time, f func()) func() bool {
	return time.AfterFunc(time.Until(t), f).Stop
}

// Options are what Open can do without.
type Options struct {
	// Path is the file. Empty means a temporary file that is deleted by Close.
	Path string
	// NoSync leaves out fsync: what was published last can be lost, or the file
	// damaged, when the machine (not the process) stops.
	NoSync bool
	// Clock is the system's when nil.
	Clock Clock
	// Logger is slog.Default when nil.
	Logger *slog.Logger
	// Push starts to deliver the messages of a subscription that has a push
	// endpoint, and returns a function that stops the delivery. The Server calls
	// both one at a time, as the settings of subscriptions change. Push must not
	// change settings. Without it, such subscriptions keep their messages.
	Push func(settings *pubsubpb.Subscription, q *Queue) (stop func())
}

// Server is a Pub/Sub. Create one with Open.
type Server struct {
	db   *bbolt.DB
	file *os.File
	size int64 // of the file, which a cut one is smaller than
	path string
	// temporary is the file to delete in the end, or empty.
	temporary string
	clock     Clock
	wall      *wallclock.Clock // nil where clock is not the system's
	log       *slog.Logger
	push      func(*pubsubpb.Subscription, *Queue) func()
	writes    *groupcommit.Group[*write]
	closing   chan struct{}
	closed    sync.Once
	// background counts the goroutines of later.
	background sync.WaitGroup

	// settings is held by whoever changes topics, subscriptions or snapshots.
	settings sync.Mutex

	// mu protects what follows. It is never held while the file is synced or a
	// message is read.
	mu            sync.Mutex
	stopped       bool // nothing more is written in the background
	topics        map[string]*topic
	topicIDs      map[uint32]*topic // with those that were deleted and still have messages
	subscriptions map[string]*subscription
	snapshots     map[string]*snapshot
	seq           uint64 // of the last message
	lastPublish   int64  // Unix nanoseconds
	unsettled     []settlement
	settling      bool // settleNow will be called
	stopHousework func() bool
}

const (
	// firstMap is how much of the file is mapped at least: growing the map
	// stops readers and writers.
	firstMap = 64 << 20
	// maxCommitItems and maxCommitBytes bound one commit, whose items are in
	// memory twice, and maxDeletes what one write of it deletes.
	maxCommitItems = 1000
	maxCommitBytes = 8 << 20
	maxDeletes     = 5000
	// alone is the size of a write that shares its commit with no other.
	alone = maxCommitBytes + 1
	// houseworkEvery is how often what has expired by expiryTime is deleted. It is not
	// delivered or returned, deleted or not.
	houseworkEvery = time.Minute
)

// Open opens the file, and starts pushing where Options.Push is set. It fails with datadir.ErrLocked when another
// process has the file open.
func Open(o Options) (*Server, error) {
	s := &Server{
		path:          o.Path,
		clock:         o.Clock,
		log:           o.Logger,
		closing:       make(chan struct{}),
		topics:        make(map[string]*topic),
		topicIDs:      make(map[uint32]*topic),
		subscriptions: make(map[string]*subscription),
		snapshots:     make(map[string]*snapshot),
	}
	if s.clock == nil {
		s.clock, s.wall = SystemClock{}, wallclock.New(nil)
	}
	if s.log == nil {
		s.log = slog.Default()
	}
	var err error
	s.writes, err = groupcommit.New(s.commit, groupcommit.Options{MaxItems: maxCommitItems, MaxBytes: maxCommitBytes, InFlight: 1})
	if err != nil {
		return nil, err
	}
	if s.path == "" {
		f, err := os.CreateTemp("", "pubsub-*.db")
		if err != nil {
			return nil, fmt.Errorf("pubsubserver: %w", err)
		}
		f.Close()
		s.path, s.temporary, o.NoSync = f.Name(), f.Name(), true
	}
	s.db, s.file, err = datadir.OpenChecked(s.path, firstMap, nil, "move it away to start with an empty one: what was not delivered is lost")
	if err != nil {
		return nil, fmt.Errorf("pubsubserver: %w", err)
	}
	s.db.NoSync = o.NoSync
	if err := s.load(); err != nil {
		return nil, errors.Join(fmt.Errorf("pubsubserver: %s cannot be read: %w; move it away to start with an empty one: what was not delivered is lost", s.path, err), s.db.Close())
	}
	// Where files can be deleted while they are open, nothing is left behind
	// even when Close is not called.
	s.deleteTemporary()
	s.mu.Lock()
	s.scheduleHousework()
	s.mu.Unlock()
	s.StartPushing(o.Push)
	return s, nil
}

// StartPushing has push deliver the messages of every subscription that has a push
// endpoint, as Options.Push does from Open on.
func (s *Server) StartPushing(push func(settings *pubsubpb.Subscription, q *Queue) (stop func())) {
	s.settings.Lock()
	defer s.settings.Unlock()
	s.push = push
	for _, sub := range s.subscriptions {
		s.restartPush(sub)
	}
}

// Close ends pulls and pushes, finishes what is being written, and closes the
// file.
func (s *Server) Close() error {
	var err error
	s.closed.Do(func() {
		close(s.closing)
		s.settings.Lock()
		s.mu.Lock()
		s.stopHousework()
		subs := make([]*subscription, 0, len(s.subscriptions))
		for _, sub := range s.subscriptions {
			subs = append(subs, sub)
		}
		s.mu.Unlock()
		for _, sub := range subs {
			if sub.stopPush != nil {
				sub.stopPush()
			}
		}
		s.settings.Unlock()
		s.mu.Lock()
		s.stopped = true
		for _, sub := range subs {
			sub.disarm()
			sub.notify()
		}
		s.mu.Unlock()
		s.background.Wait()
		for range (s.countUnsettled() + maxDeletes - 1) / maxDeletes {
			if err := s.write(context.Background(), nothing(), 0); err != nil {
				s.log.Error("Pub/Sub cannot write its file", "path", s.path, "error", err)
			}
		}
		s.writes.Close()
		err = s.db.Close()
		s.deleteTemporary()
	})
	return err
}

func (s *Server) deleteTemporary() {
	if s.temporary != "" {
		os.Remove(s.temporary)
	}
}

var errClosing = status.Error(codes.Unavailable, "The server is closing.")

// expiryTime is the time by which something may expire: not that of a clock which has
// just leapt ahead, and may be set right again.
func (s *Server) expiryTime() time.Time {
	if s.wall == nil {
		return s.clock.Now()
	}
	_, believed := s.wall.Read()
	return believed
}

// checkClock has leases and waits end as if the clock had not been set back. It is called
// every minute, and when one begins or may have ended. s.mu must be held.
func (s *Server) checkClock() {
	if s.wall == nil {
		return
	}
	if back := s.wall.Back(); back > 0 {
		s.log.Warn("the clock was set back; what Pub/Sub waits for comes as if it had not been", "by", back.Round(time.Second))
		for _, sub := range s.subscriptions {
			sub.setBack(back, s.clock.Now())
		}
	}
}

// scheduleHousework has housework run after its time.
func (s *Server) scheduleHousework() {
	s.stopHousework = s.clock.At(s.clock.Now().Add(houseworkEvery), s.housework)
}

// housework deletes what has expired.
func (s *Server) housework() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopped {
		return
	}
	s.checkClock()
	now := s.expiryTime()
	expired := false
	for _, sub := range s.subscriptions {
		sub.expireMessages(now)
		expired = expired || sub.expired(now)
	}
	for _, snap := range s.snapshots {
		expired = expired || snap.expired(now)
	}
	for _, t := range s.topicIDs {
		if t.sweepable(now) {
			s.sweep(t)
		}
	}
	if expired {
		s.background.Go(s.deleteExpired)
	}
	s.scheduleHousework()
}

// deleteExpired deletes the subscriptions and snapshots that have expired.
func (s *Server) deleteExpired() {
	s.settings.Lock()
	defer s.settings.Unlock()
	s.mu.Lock()
	var subs []*subscription
	var snaps []*snapshot
	now := s.expiryTime()
	for _, sub := range s.subscriptions {
		if sub.expired(now) {
			subs = append(subs, sub)
		}
	}
	for _, snap := range s.snapshots {
		if snap.expired(now) {
			snaps = append(snaps, snap)
		}
	}
	s.mu.Unlock()
	for _, sub := range subs {
		s.log.Info("a subscription has expired", "subscription", sub.pb.Name)
		s.deleteSubscription(sub)
	}
	for _, snap := range snaps {
		s.deleteSnapshot(snap)
	}
}

// Backlog returns how many messages of the subscription are not acknowledged,
// and when the oldest of them was published.
func (s *Server) Backlog(subscription string) (messages int, oldest time.Time, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	sub, err := s.findSubscription(subscription)
	if err != nil {
		return 0, time.Time{}, err
	}
	return sub.backlog(), sub.oldest(), nil
}

// Status is a subscription and what waits in it.
type Status struct {
	Subscription *pubsubpb.Subscription
	// Backlog is how many messages are not acknowledged, and Oldest when the oldest of
	// them was published.
	Backlog int
	Oldest  time.Time
}

// Statuses returns the status of every subscription, by name.
func (s *Server) Statuses() []Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.expiryTime()
	all := make([]Status, 0, len(s.subscriptions))
	for _, sub := range s.subscriptions {
		if !sub.expired(now) {
			all = append(all, Status{sub.public(), sub.backlog(), sub.oldest()})
		}
	}
	slices.SortFunc(all, func(a, b Status) int { return strings.Compare(a.Subscription.Name, b.Subscription.Name) })
	return all
}

// Undelivered returns how many messages of all push subscriptions are not
// acknowledged.
func (s *Server) Undelivered() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for _, sub := range s.subscriptions {
		if sub.pb.PushConfig.GetPushEndpoint() != "" {
			n += sub.backlog()
		}
	}
	return n
}

// write makes one change of the file.
func (s *Server) write(ctx context.Context, w *write, size int) error {
	err := s.writes.Do(ctx, w, size)
	if errors.Is(err, groupcommit.ErrClosed) {
		return errClosing
	}
	if err != nil && ctx.Err() != nil {
		return status.FromContextError(ctx.Err()).Err()
	}
	return err
}

// later makes one change of the file in the background. s.mu must be held.
func (s *Server) later(w *write, size int) {
	if s.stopped {
		return
	}
	s.background.Go(func() {
		if err := s.write(context.Background(), w, size); err != nil && status.Code(err) != codes.NotFound {
			s.log.Error("Pub/Sub cannot write its file", "path", s.path, "error", err)
		}
	})
}
