package pubsubserver

import (
	"cmp"
	"container/heap"
	"encoding/base64"
	"encoding/binary"
	"maps"
	"math"
	"slices"
	"sort"
	"strconv"
	"strings"
	"time"

	"cloud.google.com/go/pubsub/v2/apiv1/pubsubpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"example.com/pushinbox/shared/inbox"
)

// subscription is a subscription with its unacknowledged messages. Each of them
// is in one place: in fresh, in deliveries, or in the rest of a lane.
type subscription struct {
	record
	s      *Server
	pb     *pubsubpb.Subscription
	topic  *topic
	filter filter
	// fresh are messages that were never delivered, by seq.
	fresh fifo
	// deliveries are those that were, and those that are next of their key.
	deliveries map[uint64]*delivery
	ready      schedule         // to be delivered now, by since when
	timed      schedule         // leased or waiting, by until when
	lanes      map[uint64]*lane // of the ordering keys with a delivery
	leases     uint32           // counts leases
	// unsaved are those whose attempts are to be written.
	unsaved []*delivery
	// changed is closed when something can be leased that could not be before,
	// or the subscription has ended; nil when nobody waits.
	changed  chan struct{}
	ended    error // what pulls get from now on
	active   time.Time
	alarm    time.Time
	disarm   func() bool
	stopPush func() // guarded by Server.settings
}

// delivery is a message that is being delivered or was before.
type delivery struct {
	seq      uint64
	key      uint64
	at       int64 // Unix nanoseconds: when its state ends, or since when it is ready
	owner    *stream
	attempts int32 // that have failed
	lease    uint32
	index    int32 // in its schedule
	size     int32
	state    state
}

type state uint8

const (
	stateReady   state = iota
	stateWaiting       // for the next attempt
	stateLeased
	stateDead  // on its way to the dead-letter topic
	stateHeld  // behind one of its ordering key that is delivered again; due at the earliest at
	stateAcked // behind one of its ordering key that is not acknowledged yet
)

// lane is an ordering key with deliveries. A push dispatcher has one of its messages, a
// pull as many as it takes, and a stream also those that come meanwhile; another one gets
// some when all of them are settled. Only the first of a batch is ever ready or waiting:
// when it is to be delivered again, those after it are too, also those that are
// acknowledged.
type lane struct {
	batch []*delivery // by seq
	rest  fifo        // what comes after them
}

// open says whether what comes next can be leased, too: by owner, or with the leases after
// before.
func (l *lane) open(before uint32, owner *stream) bool {
	first, last := l.batch[0], l.batch[len(l.batch)-1]
	return first.state == stateLeased && (first.lease > before || owner != nil && first.owner == owner) &&
		(last.state == stateLeased || last.state == stateAcked)
}

// after returns what comes after d in its batch.
func (l *lane) after(d *delivery) []*delivery {
	if l.batch[len(l.batch)-1] == d { // without a search, as where a lease goes on
		return nil
	}
	return l.batch[slices.Index(l.batch, d)+1:]
}

// schedule is a heap of deliveries by time.
type schedule []*delivery

func (h schedule) Len() int { return len(h) }
func (h schedule) Less(i, j int) bool {
	return h[i].at < h[j].at || h[i].at == h[j].at && h[i].seq < h[j].seq
}
func (h schedule) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].index, h[j].index = int32(i), int32(j)
}
func (h *schedule) Push(x any) {
	d := x.(*delivery)
	d.index = int32(len(*h))
	*h = append(*h, d)
}
func (h *schedule) Pop() any {
	last := len(*h) - 1
	d := (*h)[last]
	(*h)[last] = nil
	*h = (*h)[:last]
	return d
}

// forever is the end of a lease that the dispatcher ends.
const forever = math.MaxInt64

// addSubscription adds a subscription. Server.mu must be held, but by load.
func (s *Server) addSubscription(r record, pb *pubsubpb.Subscription) *subscription {
	sub := &subscription{record: r, s: s, pb: pb, topic: s.topicByID(r.Topic), active: s.clock.Now(), disarm: func() bool { return false }}
	sub.filter, _ = parseFilter(pb.Filter) // it was parsed before it was stored
	sub.clear()
	s.subscriptions[pb.Name] = sub
	if !pb.Detached {
		sub.topic.subs[sub] = struct{}{}
		sub.topic.setKeep()
	}
	return sub
}

// clear forgets all messages.
func (sub *subscription) clear() {
	for _, d := range sub.deliveries {
		sub.disown(d)
	}
	sub.fresh = nil
	sub.deliveries = make(map[uint64]*delivery)
	sub.lanes = make(map[uint64]*lane)
	sub.ready, sub.timed, sub.unsaved = nil, nil, nil
}

// wants says whether a message published now is one for the subscription.
func (sub *subscription) wants(attributes map[string]string, at int64) bool {
	return at >= sub.Until && (sub.filter == nil || sub.filter(attributes))
}

// outdated says whether a message is older than the subscription keeps them.
func (sub *subscription) outdated(e *entry) bool {
	keep := max(sub.pb.MessageRetentionDuration.AsDuration(), sub.topic.pb.GetMessageRetentionDuration().AsDuration())
	return e.time+int64(keep) <= sub.s.expiryTime().UnixNano()
}

// expired says whether nobody waits for messages, and nobody did anything with
// the subscription for as long as its expiration policy says.
func (sub *subscription) expired(now time.Time) bool {
	ttl := sub.pb.ExpirationPolicy.GetTtl().AsDuration()
	return ttl > 0 && sub.changed == nil && !now.Before(sub.active.Add(ttl))
}

// wait returns a channel that is closed by notify.
func (sub *subscription) wait() <-chan struct{} {
	if sub.changed == nil {
		sub.changed = make(chan struct{})
	}
	return sub.changed
}

func (sub *subscription) notify() {
	if sub.changed != nil {
		close(sub.changed)
		sub.changed = nil
	}
}

// end makes pulls fail.
func (sub *subscription) end(err error) {
	sub.ended = err
	sub.disarm()
	sub.notify()
}

// unacked returns the messages that are not acknowledged, by seq.
func (sub *subscription) unacked() []uint64 {
	seqs := slices.Concat(sub.fresh, slices.Collect(maps.Keys(sub.deliveries)))
	for _, l := range sub.lanes {
		seqs = append(seqs, l.rest...)
	}
	slices.Sort(seqs)
	return seqs
}

// backlog returns how many messages are not acknowledged.
func (sub *subscription) backlog() int {
	n := len(sub.fresh) + len(sub.deliveries)
	for _, l := range sub.lanes {
		n += len(l.rest)
	}
	return n
}

// oldest returns when the first message that is not acknowledged was published, or
// no time where there is none.
func (sub *subscription) oldest() time.Time {
	first := uint64(math.MaxUint64)
	if len(sub.fresh) > 0 {
		first = sub.fresh[0]
	}
	for seq := range sub.deliveries { // what is in a lane's rest is later
		first = min(first, seq)
	}
	if e := sub.topic.find(first); e != nil {
		return time.Unix(0, e.time)
	}
	return time.Time{}
}

// put puts a delivery where its state belongs.
func (sub *subscription) put(d *delivery, to state, at int64) {
	d.state, d.at = to, at
	switch {
	case to == stateReady:
		heap.Push(&sub.ready, d)
	case (to == stateWaiting || to == stateLeased) && at != forever:
		heap.Push(&sub.timed, d)
	default:
		d.index = -1
	}
}

// take takes a delivery out of its schedule.
func (sub *subscription) take(d *delivery) {
	switch {
	case d.state == stateReady:
		heap.Remove(&sub.ready, int(d.index))
	case d.index >= 0:
		heap.Remove(&sub.timed, int(d.index))
	}
	d.index = -1
}

// add makes a delivery of a message.
func (sub *subscription) add(e *entry, attempts int32) *delivery {
	d := &delivery{seq: e.seq, attempts: attempts, size: e.size}
	sub.deliveries[d.seq] = d
	if sub.pb.EnableMessageOrdering && e.key != 0 {
		d.key = e.key
		l := sub.lanes[d.key]
		if l == nil {
			l = &lane{}
			sub.lanes[d.key] = l
		}
		i, _ := slices.BinarySearchFunc(l.batch, d.seq, func(d *delivery, seq uint64) int { return cmp.Compare(d.seq, seq) })
		l.batch = slices.Insert(l.batch, i, d)
	}
	return d
}

// lane returns the lane of a message's ordering key; nil where it has none, or no delivery.
func (sub *subscription) lane(e *entry) *lane {
	if !sub.pb.EnableMessageOrdering {
		return nil
	}
	return sub.lanes[e.key]
}

// first says whether nothing of its ordering key is before d.
func (sub *subscription) first(d *delivery) bool {
	return d.key == 0 || sub.lanes[d.key].batch[0] == d
}

// due makes a delivery, which is in no schedule, due at a time, or when those of its
// ordering key before it are settled, if that is later.
func (sub *subscription) due(d *delivery, at int64, now time.Time) {
	switch {
	case !sub.first(d):
		sub.put(d, stateHeld, at)
	case at > now.UnixNano():
		sub.put(d, stateWaiting, at)
		sub.arm()
	default:
		// It takes turns with what is published now, also while that has a later time.
		sub.put(d, stateReady, at+max(0, sub.s.lastPublish-now.UnixNano()))
		sub.notify()
	}
}

// hold takes what is after d in its batch from whoever has it: it is delivered again, after d.
func (sub *subscription) hold(d *delivery, now time.Time) {
	if d.key == 0 {
		return
	}
	for _, later := range sub.lanes[d.key].after(d) {
		at := later.at
		switch later.state {
		case stateDead:
			continue
		case stateLeased, stateAcked:
			at = now.UnixNano()
		}
		sub.take(later)
		sub.disown(later)
		sub.put(later, stateHeld, at)
	}
}

// restore adds a message that was delivered before the file was opened.
func (sub *subscription) restore(e *entry, attempts int32, next int64) {
	if l := sub.lane(e); l != nil {
		l.rest.push(e.seq)
		return
	}
	d := sub.add(e, attempts)
	// The clock may have been set back since.
	latest := sub.s.clock.Now().Add(max(RetryDelay(sub.pb.RetryPolicy, int(attempts)), burialRetry))
	sub.put(d, stateWaiting, min(next, latest.UnixNano()))
}

// setBack has what is waited for come when it would if the clock had not been set back.
// What comes within the longest lease is of before the clock was ahead, if it was by more.
func (sub *subscription) setBack(by time.Duration, now time.Time) {
	longest := maxAckDeadline * time.Second
	for _, d := range sub.deliveries {
		if d.at != forever && (by < longest || d.at > now.Add(longest).UnixNano()) {
			d.at -= int64(by)
		}
	}
	heap.Init(&sub.timed)
	heap.Init(&sub.ready)
	sub.disarm()
	sub.alarm = time.Time{}
	sub.arm()
}

// lease takes up to n messages that are due, with about size bytes, until a
// time that is after ack; 0 means forever, and only one message of each ordering key.
// The messages themselves are still to be read.
func (sub *subscription) lease(n, size int, ack time.Duration, owner *stream) []*delivery {
	sub.s.checkClock()
	now := sub.s.clock.Now()
	sub.active = now
	until, before := int64(forever), uint32(math.MaxUint32)
	if ack > 0 {
		until, before = now.Add(ack).UnixNano(), sub.leases
	}
	var leased []*delivery
	for len(leased) < n && (size > 0 || len(leased) == 0) {
		var d *delivery
		if ack > 0 && len(leased) > 0 {
			d = sub.behind(leased[len(leased)-1], now)
		}
		if d == nil {
			d = sub.more(owner, now)
		}
		if d == nil {
			d = sub.next(now, before, owner)
		}
		if d == nil {
			break
		}
		sub.leases++
		d.lease, d.owner = sub.leases, owner
		sub.put(d, stateLeased, until)
		owner.add(d)
		size -= int(d.size)
		leased = append(leased, d)
	}
	if len(leased) > 0 {
		if l := sub.lanes[leased[len(leased)-1].key]; l != nil && len(l.rest) > 0 {
			owner.wants(l)
		}
	}
	sub.arm()
	return leased
}

// more takes what comes next of an ordering key of which a stream has the batch, and had no
// room for more.
func (sub *subscription) more(owner *stream, now time.Time) *delivery {
	if owner == nil {
		return nil
	}
	for l := range owner.wanted {
		if len(l.rest) > 0 && l.open(math.MaxUint32, owner) {
			if len(sub.ready) > 0 && sub.ready[0].at < sub.topic.find(l.rest[0]).time {
				continue // that waits longer
			}
			if d := sub.behind(l.batch[len(l.batch)-1], now); d != nil {
				return d
			}
		}
		delete(owner.wanted, l)
	}
	return nil
}

// behind takes what is due and next of the ordering key of d, which is leased.
func (sub *subscription) behind(d *delivery, now time.Time) *delivery {
	if d.key == 0 {
		return nil
	}
	l := sub.lanes[d.key]
	if later := l.after(d); len(later) > 0 {
		if later[0].state == stateHeld && later[0].at <= now.UnixNano() {
			return later[0]
		}
		return nil
	}
	for len(l.rest) > 0 {
		e := sub.topic.find(l.rest.pop())
		if !sub.outdated(e) {
			return sub.add(e, 0)
		}
		sub.settle([]uint64{e.seq})
	}
	return nil
}

// next takes what is due longest. It can be of an ordering key that is open.
func (sub *subscription) next(now time.Time, before uint32, owner *stream) *delivery {
	var outdated []uint64
	defer func() { sub.settle(outdated) }()
	for {
		var fresh *entry
		if len(sub.fresh) > 0 {
			fresh = sub.topic.find(sub.fresh[0])
			if l := sub.lane(fresh); l != nil && (len(l.rest) > 0 || !l.open(before, owner)) {
				l.rest.push(sub.fresh.pop())
				l.batch[0].owner.wants(l)
				continue
			}
			if sub.outdated(fresh) {
				outdated = append(outdated, sub.fresh.pop())
				continue
			}
		}
		if len(sub.ready) > 0 && (fresh == nil || sub.ready[0].at < fresh.time) {
			d := sub.ready[0]
			sub.take(d)
			if sub.outdated(sub.topic.find(d.seq)) {
				sub.remove(d, now)
				outdated = append(outdated, d.seq)
				continue
			}
			return d
		}
		if fresh == nil {
			return nil
		}
		sub.fresh.pop()
		return sub.add(fresh, 0)
	}
}

// remove removes a delivery, which is in no schedule, and makes the next one of
// its key ready.
func (sub *subscription) remove(d *delivery, now time.Time) {
	delete(sub.deliveries, d.seq)
	sub.disown(d)
	if d.key == 0 {
		return
	}
	l := sub.lanes[d.key]
	i := slices.Index(l.batch, d)
	if i > 0 {
		l.batch = slices.Delete(l.batch, i, i+1)
		return
	}
	l.batch[0] = nil
	l.batch = l.batch[1:]
	switch {
	case len(l.batch) > 0:
		if next := l.batch[0]; next.state == stateHeld {
			sub.due(next, next.at, now)
			sub.save(next)
		}
	case len(l.rest) > 0:
		sub.due(sub.add(sub.topic.find(l.rest.pop()), 0), now.UnixNano(), now)
	default:
		delete(sub.lanes, d.key)
	}
}

// disown ends the hold of a stream on a delivery.
func (sub *subscription) disown(d *delivery) {
	if d.owner != nil {
		d.owner.remove(d)
		d.owner = nil
		sub.notify()
	}
}

// acknowledge removes a message, or as soon as those of its ordering key before it are.
// It returns acked and those that are removed. An older lease counts, too, but not of a
// message that came again since it comes after another one.
func (sub *subscription) acknowledge(acked []uint64, seq uint64, lease uint32, now time.Time) []uint64 {
	d := sub.deliveries[seq]
	switch {
	case d == nil:
		// It was delivered before a restart.
		if sub.fresh.delete(seq) {
			return append(acked, seq)
		}
		for _, l := range sub.lanes {
			if l.rest.delete(seq) {
				return append(acked, seq)
			}
		}
		return acked
	case d.state == stateDead:
		return acked
	case !sub.first(d):
		if d.state == stateLeased && d.lease == lease {
			sub.take(d)
			sub.disown(d)
			sub.put(d, stateAcked, 0)
		}
		return acked
	}
	for {
		sub.take(d)
		sub.remove(d, now)
		acked = append(acked, d.seq)
		l := sub.lanes[d.key]
		if l == nil || l.batch[0].state != stateAcked {
			return acked
		}
		d = l.batch[0]
	}
}

// settle writes soon that messages, which were removed, are acknowledged, and does
// not wait for it.
func (sub *subscription) settle(seqs []uint64) {
	if len(seqs) == 0 {
		return
	}
	s := sub.s
	if last := len(s.unsettled) - 1; last >= 0 && s.unsettled[last].sub == sub && s.unsettled[last].id == sub.ID {
		s.unsettled[last].seqs = append(s.unsettled[last].seqs, seqs...)
	} else {
		s.unsettled = append(s.unsettled, settlement{sub, sub.ID, seqs})
	}
	if !s.settling {
		s.settling = true
		s.clock.At(s.clock.Now().Add(settleDelay), s.settleNow)
	}
}

// settlement are acknowledgements that are still to be written.
type settlement struct {
	sub  *subscription
	id   uint32 // a seek gives sub another one
	seqs []uint64
}

// settleDelay is how long an acknowledgement waits for others, to share a commit
// with them. Any other commit takes it along.
const settleDelay = 20 * time.Millisecond

// settleNow writes the acknowledgements that no commit has taken along.
func (s *Server) settleNow() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.settling = false
	if len(s.unsettled) > 0 {
		s.later(nothing(), 0)
	}
}

// nothing returns a write that only has what is unsettled written.
func nothing() *write { return &write{apply: func(*transaction) error { return nil }} }

func (s *Server) countUnsettled() (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, u := range s.unsettled {
		n += len(u.seqs)
	}
	return n
}

// takeUnsettled returns the writes of acknowledgements that a commit takes along.
// s.mu must be held.
func (s *Server) takeUnsettled() (writes []*write) {
	room := maxDeletes
	for len(s.unsettled) > 0 && room > 0 {
		first := &s.unsettled[0]
		n := min(room, len(first.seqs))
		writes = append(writes, first.sub.settling(first.seqs[:n], first.id))
		room -= n
		if first.seqs = first.seqs[n:]; len(first.seqs) == 0 {
			s.unsettled = s.unsettled[1:]
		}
	}
	if len(s.unsettled) == 0 {
		s.unsettled = nil
	} else {
		s.later(nothing(), 0)
	}
	return writes
}

// settlingSize counts an acknowledgement so that no commit has more than
// maxDeletes of them.
func settlingSize(seqs []uint64) int { return len(seqs) * (maxCommitBytes / maxDeletes) }

// settling is the write of acknowledgements, at most maxDeletes, of when the
// subscription had this ID.
func (sub *subscription) settling(seqs []uint64, id uint32) *write {
	var gone []uint64
	unneeded := 0 // how many of seqs were made so
	return &write{
		apply: func(tx *transaction) error {
			now := sub.s.expiryTime()
			for _, seq := range seqs {
				deleted, err := tx.unref(sub.topic, seq, id, now)
				unneeded++
				if err != nil {
					return err
				}
				if deleted {
					gone = append(gone, seq)
				}
			}
			return nil
		},
		done: func(err error) {
			switch {
			case err == nil:
				sub.topic.forget(gone)
			case sub.ID == id && sub.ended == nil: // or nobody needs them any more
				for i, seq := range seqs {
					if e := sub.topic.find(seq); e != nil && i < unneeded {
						e.refs++
					}
				}
				sub.giveBack(seqs)
			}
		},
	}
}

// giveBack makes messages due again whose acknowledgements could not be written.
func (sub *subscription) giveBack(seqs []uint64) {
	now := sub.s.clock.Now()
	var fresh fifo
	for _, seq := range seqs {
		e := sub.topic.find(seq)
		if e == nil {
			continue
		}
		switch l := sub.lane(e); {
		case l == nil:
			fresh.push(seq)
		case seq > l.batch[len(l.batch)-1].seq:
			l.rest.push(seq)
			slices.Sort(l.rest)
		default:
			d := sub.add(e, 0)
			sub.hold(d, now)
			sub.due(d, now.UnixNano(), now)
		}
	}
	if len(fresh) > 0 {
		sub.fresh = append(fresh, sub.fresh...)
		slices.Sort(sub.fresh)
		sub.notify()
	}
}

// unref takes note that a subscription does not need a message any more, and
// deletes the message when nobody does.
func (tx *transaction) unref(t *topic, seq uint64, id uint32, now time.Time) (deleted bool, err error) {
	e := t.find(seq)
	if e == nil {
		return false, nil
	}
	e.refs--
	if t.unneeded(e, now) {
		return true, tx.deleteMessage(e)
	}
	e.marked = true
	return false, tx.markAcked(seq, id)
}

// nack makes a message, whose delivery has failed, due again or dead.
func (sub *subscription) nack(d *delivery, now time.Time) {
	sub.take(d)
	sub.disown(d)
	sub.hold(d, now)
	d.attempts++
	policy := sub.pb.DeadLetterPolicy
	delay := RetryDelay(sub.pb.RetryPolicy, int(d.attempts))
	if policy != nil && d.attempts >= policy.MaxDeliveryAttempts {
		if sub.s.topics[policy.DeadLetterTopic] != nil {
			sub.put(d, stateDead, 0)
			sub.bury(d, policy.DeadLetterTopic)
			return
		}
		delay = max(delay, burialRetry) // it is delivered further
	}
	sub.due(d, now.Add(delay).UnixNano(), now)
	sub.save(d)
}

// RetryDelay is how long a message rests after this many attempts.
func RetryDelay(p *pubsubpb.RetryPolicy, attempts int) time.Duration {
	if p == nil {
		return 0
	}
	delay, most := defaultMinBackoff, maxRetryBackoff
	if p.MinimumBackoff != nil {
		delay = p.MinimumBackoff.AsDuration()
	}
	if p.MaximumBackoff != nil {
		most = p.MaximumBackoff.AsDuration()
	}
	for ; attempts > 1 && delay > 0 && delay < most; attempts-- {
		delay *= 2
	}
	return max(0, min(delay, most))
}

// save has the attempts and the time of the next one written. Nobody sees those of a pulled
// message without a policy, and one that is not the first of its key would come before
// those before it after a restart.
func (sub *subscription) save(d *delivery) {
	if d.attempts == 0 || !sub.first(d) || sub.pb.DeadLetterPolicy == nil && sub.pb.RetryPolicy == nil && sub.pb.PushConfig.GetPushEndpoint() == "" {
		return
	}
	if sub.unsaved = append(sub.unsaved, d); len(sub.unsaved) > 1 {
		return // together with the first
	}
	taken := false
	sub.s.later(&write{apply: func(tx *transaction) error {
		unsaved := sub.unsaved
		sub.unsaved, taken = nil, true
		for _, d := range unsaved {
			e := sub.topic.find(d.seq)
			if e == nil || sub.deliveries[d.seq] != d || !sub.first(d) {
				continue
			}
			next := d.at
			if d.state == stateLeased {
				next = 0
			}
			e.marked = true
			if err := tx.markAttempts(d.seq, sub.ID, d.attempts, next); err != nil {
				return err
			}
		}
		return nil
	}, done: func(error) {
		if !taken { // the next one begins anew
			sub.unsaved = nil
		}
	}}, 0)
}

// bury moves a message to the dead-letter topic. If that is deleted meanwhile, the
// message is delivered further.
func (sub *subscription) bury(d *delivery, name string) {
	s := sub.s
	var p *publishing
	var deleted bool
	s.later(&write{
		apply: func(tx *transaction) error {
			if sub.deliveries[d.seq] != d {
				return nil
			}
			t := s.topics[name]
			if t == nil {
				return notFound(name)
			}
			m, err := decodeMessage(d.seq, tx.messages.Get(seqKey(d.seq)))
			if err != nil {
				return err
			}
			burial, err := newPublishing([]*pubsubpb.PubsubMessage{DeadLetter(m, sub.pb.Name, int(d.attempts))})
			if err != nil {
				return err
			}
			if err := burial.apply(s, t, tx); err != nil {
				return err
			}
			p = burial
			deleted, err = tx.unref(sub.topic, d.seq, sub.ID, s.expiryTime())
			return err
		},
		done: func(err error) {
			if sub.deliveries[d.seq] != d {
				return
			}
			now := s.clock.Now()
			if err != nil {
				if p != nil {
					sub.topic.find(d.seq).refs++
				}
				sub.due(d, now.Add(max(RetryDelay(sub.pb.RetryPolicy, int(d.attempts)), burialRetry)).UnixNano(), now)
				return
			}
			sub.remove(d, now)
			if deleted {
				sub.topic.forget([]uint64{d.seq})
			}
			p.done(nil)
		},
	}, int(d.size))
}

// burialRetry is how long a message at least waits that could not be moved to
// the dead-letter topic.
const burialRetry = 10 * time.Second

// DeadLetter returns what m becomes on the dead-letter topic of the subscription with this
// full name, after this many attempts.
func DeadLetter(m *pubsubpb.PubsubMessage, subscription string, attempts int) *pubsubpb.PubsubMessage {
	attributes := maps.Clone(m.Attributes)
	if attributes == nil {
		attributes = make(map[string]string)
	}
	name := strings.Split(subscription, "/")
	attributes[inbox.DeadLetterSource+"DeliveryCount"] = strconv.Itoa(attempts)
	attributes[inbox.DeadLetterSource+"Subscription"] = name[3]
	attributes[inbox.DeadLetterSource+"SubscriptionProject"] = name[1]
	attributes[inbox.DeadLetterSource+"TopicPublishTime"] = m.PublishTime.AsTime().Format("2006-01-02T15:04:05.000+00:00")
	return &pubsubpb.PubsubMessage{Data: m.Data, Attributes: attributes, OrderingKey: m.OrderingKey}
}

// arm has tick called when the next lease or wait ends.
func (sub *subscription) arm() {
	if len(sub.timed) == 0 || sub.ended != nil || sub.s.stopped {
		return
	}
	// An alarm that is too early does no harm, and is cheaper to leave alone.
	next := time.Unix(0, sub.timed[0].at)
	if !sub.alarm.IsZero() && !next.Before(sub.alarm) {
		return
	}
	sub.disarm()
	sub.alarm = next
	sub.disarm = sub.s.clock.At(next, sub.tick)
}

// tick ends the leases and waits whose time has come.
func (sub *subscription) tick() {
	sub.s.mu.Lock()
	defer sub.s.mu.Unlock()
	sub.s.checkClock()
	now := sub.s.clock.Now()
	sub.disarm() // a later alarm, if this is a late call of an earlier one
	sub.alarm = time.Time{}
	for len(sub.timed) > 0 && sub.timed[0].at <= now.UnixNano() {
		d := sub.timed[0]
		if d.state == stateLeased {
			sub.nack(d, now)
			continue
		}
		sub.take(d)
		sub.put(d, stateReady, d.at)
		sub.notify()
	}
	sub.arm()
}

// expireMessages drops what is too old and not being delivered.
func (sub *subscription) expireMessages(now time.Time) {
	entries := sub.topic.entries // by seq, and so by time
	n := sort.Search(len(entries), func(i int) bool { return !sub.outdated(&entries[i]) })
	if n == 0 {
		return
	}
	last := entries[n-1].seq
	var outdated []uint64
	for len(sub.fresh) > 0 && sub.fresh[0] <= last {
		outdated = append(outdated, sub.fresh.pop())
	}
	for _, l := range sub.lanes {
		for len(l.rest) > 0 && l.rest[0] <= last {
			outdated = append(outdated, l.rest.pop())
		}
	}
	for seq, d := range sub.deliveries {
		if seq <= last && (d.state == stateReady || d.state == stateWaiting || d.state == stateHeld) {
			sub.take(d)
			sub.remove(d, now)
			outdated = append(outdated, seq)
		}
	}
	sub.settle(outdated)
}

// Ack IDs name the subscription's ID, the lease and the message.
const ackIDSize = 16

func (sub *subscription) ackID(d *delivery) string {
	b := binary.BigEndian.AppendUint32(make([]byte, 0, ackIDSize), sub.ID)
	b = binary.BigEndian.AppendUint32(b, d.lease)
	b = binary.BigEndian.AppendUint64(b, d.seq)
	return base64.RawURLEncoding.EncodeToString(b)
}

type ackID struct {
	sub, lease uint32
	seq        uint64
}

func parseAckIDs(ids []string) ([]ackID, error) {
	parsed := make([]ackID, len(ids))
	for i, id := range ids {
		b, err := base64.RawURLEncoding.DecodeString(id)
		if err != nil || len(b) != ackIDSize {
			return nil, status.Errorf(codes.InvalidArgument, "You have passed an invalid ack ID to the service (ack_id=%s).", id)
		}
		parsed[i] = ackID{binary.BigEndian.Uint32(b), binary.BigEndian.Uint32(b[4:]), binary.BigEndian.Uint64(b[8:])}
	}
	return parsed, nil
}

// acknowledgeAll removes messages as acknowledge does and returns those that were there.
// Those from before a seek do not count.
func (sub *subscription) acknowledgeAll(ids []ackID) []uint64 {
	now := sub.s.clock.Now()
	sub.active = now
	seqs := make([]uint64, 0, len(ids))
	for _, id := range ids {
		if id.sub == sub.ID {
			seqs = sub.acknowledge(seqs, id.seq, id.lease, now)
		}
	}
	return seqs
}

// extend makes leases end after d from now; 0 ends them. Those that have ended
// already stay so.
func (sub *subscription) extend(id ackID, d time.Duration) {
	sub.s.checkClock()
	now := sub.s.clock.Now()
	sub.active = now
	m := sub.deliveries[id.seq]
	if m == nil || id.sub != sub.ID || m.state != stateLeased || m.lease != id.lease {
		return
	}
	if d == 0 {
		sub.nack(m, now)
	} else {
		sub.take(m)
		sub.put(m, stateLeased, now.Add(d).UnixNano())
	}
	sub.arm()
}

// fifo is a queue of messages, by seq.
type fifo []uint64

func (q *fifo) push(seq uint64) { *q = append(*q, seq) }

func (q *fifo) pop() uint64 {
	seq := (*q)[0]
	if *q = (*q)[1:]; len(*q) == 0 {
		*q = nil
	}
	return seq
}

func (q *fifo) delete(seq uint64) bool {
	i, ok := slices.BinarySearch(*q, seq)
	if ok {
		*q = slices.Delete(*q, i, i+1)
	}
	return ok
}
