package pubsubserver

import (
	"context"
	"errors"
	"io"
	"time"

	"cloud.google.com/go/pubsub/v2/apiv1/pubsubpb"
)

const (
	// maxPull and maxPullSize bound the messages of one answer, whose size may
	// be exceeded by the last of them.
	maxPull     = 1000
	maxPullSize = 4 << 20
	// maxPullWait is how long Pull waits for a message.
	maxPullWait = 90 * time.Second
	// heartbeat is how often a stream says that it is alive, to clients that
	// know what to do with an empty answer.
	heartbeat = 30 * time.Second
)

// stream is the flow control of a StreamingPull.
type stream struct {
	maxMessages, maxBytes int64 // 0 or less: no limit
	messages, bytes       int64
	// wanted are ordering keys of which it has the batch, and more is there.
	wanted map[*lane]struct{}
}

func (st *stream) wants(l *lane) {
	if st == nil {
		return
	}
	if st.wanted == nil {
		st.wanted = make(map[*lane]struct{})
	}
	st.wanted[l] = struct{}{}
}

func (st *stream) add(d *delivery) {
	if st != nil {
		st.messages++
		st.bytes += int64(d.size)
	}
}

func (st *stream) remove(d *delivery) {
	st.messages--
	st.bytes -= int64(d.size)
}

// room returns how many messages may be sent now, and about how many bytes.
func (st *stream) room() (n, size int) {
	n, size = maxPull, maxPullSize
	if st != nil && st.maxMessages > 0 {
		n = int(min(int64(n), st.maxMessages-st.messages))
	}
	if st != nil && st.maxBytes > 0 {
		size = int(min(int64(size), st.maxBytes-st.bytes))
		if size <= 0 {
			n = 0
		}
	}
	return n, size
}

// pullable returns why a subscription cannot be pulled from, or nil.
func (sub *subscription) pullable() error {
	switch {
	case sub.ended != nil:
		return sub.ended
	case sub.pb.Detached:
		return errDetached(sub.pb.Name)
	case sub.pb.PushConfig.GetPushEndpoint() != "":
		return failedPrecondition("This method is not supported for this subscription type: %s has a push endpoint. Remove the endpoint to pull.", sub.pb.Name)
	}
	return nil
}

// pull leases messages that are due, at most n, until ack from now, 0 meaning
// the subscription's own deadline. When there are none it returns a channel
// that is closed when there may be some.
func (sub *subscription) pull(n int, ack time.Duration, st *stream) ([]*pubsubpb.ReceivedMessage, <-chan struct{}, error) {
	s := sub.s
	s.mu.Lock()
	if err := sub.pullable(); err != nil {
		s.mu.Unlock()
		return nil, nil, err
	}
	if ack == 0 {
		ack = time.Duration(sub.pb.AckDeadlineSeconds) * time.Second
	}
	room, size := st.room()
	leased := sub.lease(min(n, room), size, ack, st)
	if len(leased) == 0 {
		changed := sub.wait()
		s.mu.Unlock()
		return nil, changed, nil
	}
	seqs := make([]uint64, len(leased))
	received := make([]*pubsubpb.ReceivedMessage, len(leased))
	for i, d := range leased {
		seqs[i] = d.seq
		received[i] = &pubsubpb.ReceivedMessage{AckId: sub.ackID(d)}
		if sub.pb.DeadLetterPolicy != nil {
			received[i].DeliveryAttempt = d.attempts + 1
		}
	}
	s.mu.Unlock()
	messages, err := s.read(seqs)
	if err != nil {
		return nil, nil, err // the leases end by themselves
	}
	there := received[:0]
	for i, m := range messages {
		if m != nil {
			received[i].Message = m
			there = append(there, received[i])
		}
	}
	return there, nil, nil
}

// Pull returns messages, and waits for the first unless it is to return
// immediately.
func (s *Server) Pull(ctx context.Context, r *pubsubpb.PullRequest) (*pubsubpb.PullResponse, error) {
	sub, err := s.subscription(r.Subscription)
	if err != nil {
		return nil, err
	}
	if r.MaxMessages <= 0 {
		return nil, invalid("Invalid max_messages given (value=%d): it must be positive.", r.MaxMessages)
	}
	wait, cancel := context.WithTimeout(ctx, maxPullWait)
	defer cancel()
	for {
		received, changed, err := sub.pull(int(min(r.MaxMessages, maxPull)), 0, nil)
		//lint:ignore SA1019 deprecated for callers of Pub/Sub
		if err != nil || len(received) > 0 || r.ReturnImmediately {
			return &pubsubpb.PullResponse{ReceivedMessages: received}, err
		}
		if changed == nil {
			continue
		}
		select {
		case <-changed:
		case <-wait.Done():
			return &pubsubpb.PullResponse{}, ctx.Err()
		case <-s.closing:
			return nil, errClosing
		}
	}
}

// StreamingPull sends messages as they are due, within the flow control of the
// first request.
func (s *Server) StreamingPull(grpc pubsubpb.Subscriber_StreamingPullServer) error {
	first, err := grpc.Recv()
	if err != nil {
		return err
	}
	sub, err := s.subscription(first.Subscription)
	if err != nil {
		return err
	}
	if err := checkStreamDeadline(first.StreamAckDeadlineSeconds); err != nil {
		return err
	}
	st := &stream{maxMessages: first.MaxOutstandingMessages, maxBytes: first.MaxOutstandingBytes}
	ended := make(chan error, 1)
	deadline := make(chan time.Duration, 1)
	go func() { ended <- sub.follow(grpc, first, deadline) }()

	properties := &pubsubpb.StreamingPullResponse_SubscriptionProperties{MessageOrderingEnabled: s.public(sub).EnableMessageOrdering}
	ack := time.Duration(first.StreamAckDeadlineSeconds) * time.Second
	ready := make(chan struct{})
	close(ready)
	var beat <-chan time.Time
	if first.ProtocolVersion >= 1 {
		ticker := time.NewTicker(heartbeat)
		defer ticker.Stop()
		beat = ticker.C
	}
	for {
		received, changed, err := sub.pull(maxPull, ack, st)
		if err != nil {
			return err
		}
		if changed == nil {
			changed = ready // but look at the others
		}
		select {
		case <-changed:
			if changed != ready {
				continue
			}
		case ack = <-deadline:
		case err := <-ended:
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		case <-s.closing:
			return errClosing
		case <-beat:
		}
		if err := grpc.Send(&pubsubpb.StreamingPullResponse{ReceivedMessages: received, SubscriptionProperties: properties}); err != nil {
			return err
		}
	}
}

// checkStreamDeadline checks the ack deadline of a stream, in seconds.
func checkStreamDeadline(n int32) error {
	if n < minAckDeadline || n > maxAckDeadline {
		return invalid("Invalid stream_ack_deadline_seconds given (value=%d): it must be between %d and %d.", n, minAckDeadline, maxAckDeadline)
	}
	return nil
}

// follow does what the requests of a stream say until it ends.
func (sub *subscription) follow(grpc pubsubpb.Subscriber_StreamingPullServer, r *pubsubpb.StreamingPullRequest, deadline chan time.Duration) error {
	for first := true; ; first = false {
		switch {
		case first:
		case r.Subscription != "":
			return invalid("The subscription of a stream is set by its first request (value=%s).", r.Subscription)
		case r.MaxOutstandingMessages != 0 || r.MaxOutstandingBytes != 0 || r.ProtocolVersion != 0:
			return invalid("max_outstanding_messages, max_outstanding_bytes and protocol_version of a stream are set by its first request.")
		case r.StreamAckDeadlineSeconds != 0:
			if err := checkStreamDeadline(r.StreamAckDeadlineSeconds); err != nil {
				return err
			}
			select {
			case <-deadline: // an earlier one
			default:
			}
			deadline <- time.Duration(r.StreamAckDeadlineSeconds) * time.Second
		}
		if err := sub.answer(r); err != nil {
			return err
		}
		var err error
		if r, err = grpc.Recv(); err != nil {
			return err
		}
	}
}

// answer acknowledges and changes leases as a stream's request says.
func (sub *subscription) answer(r *pubsubpb.StreamingPullRequest) error {
	acks, err := parseAckIDs(r.AckIds)
	if err != nil {
		return err
	}
	modified, err := parseAckIDs(r.ModifyDeadlineAckIds)
	if err != nil {
		return err
	}
	if len(modified) != len(r.ModifyDeadlineSeconds) {
		return invalid("There are %d modify_deadline_ack_ids and %d modify_deadline_seconds: the numbers must be the same.", len(modified), len(r.ModifyDeadlineSeconds))
	}
	for _, n := range r.ModifyDeadlineSeconds {
		if n < 0 || n > maxAckDeadline {
			return invalid("Invalid modify_deadline_seconds given (value=%d): it must be between 0 and %d.", n, maxAckDeadline)
		}
	}
	sub.s.mu.Lock()
	defer sub.s.mu.Unlock()
	sub.settle(sub.acknowledgeAll(acks))
	for i, id := range modified {
		sub.extend(id, time.Duration(r.ModifyDeadlineSeconds[i])*time.Second)
	}
	return nil
}
