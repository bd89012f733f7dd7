package firestoreinbox

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"testing"
	"time"

	"example.com/pushinbox/shared/inbox"
	"example.com/pushinbox/testkit/emulator"
	"github.com/google/go-cmp/cmp"

	pb "cloud.google.com/go/firestore/apiv1/firestorepb"
)

// The layout as the revision of November 2026 wrote and read it, frozen: while a
// deployment goes on, both revisions write to one database. Change nothing here.
const (
	frozenID      = "616c2f954a10f6748d8a227ad57d44b72bb1c242" // of pubsub, projects/p/subscriptions/s, old-small
	frozenLargeID = "a30931c9081b8e76bed69b87de857b40d1d1467c" // of pubsub, projects/p/subscriptions/s, old-large
)

// frozenDocument is a message's document as that revision wrote it.
func frozenDocument(messageID string, size, shard int, data []byte, more map[string]*pb.Value) map[string]*pb.Value {
	fields := map[string]*pb.Value{
		"source":          stringValue("pubsub"),
		"subscription":    stringValue("projects/p/subscriptions/s"),
		"messageId":       stringValue(messageID),
		"shard":           intValue(shard),
		"expireAt":        timeValue(time.Now().Add(time.Hour)),
		"size":            intValue(size),
		"publishTime":     timeValue(time.Date(2026, 11, 1, 10, 0, 0, 0, time.UTC)),
		"orderingKey":     stringValue("o"),
		"deliveryAttempt": intValue(2),
		"data":            bytesValue(data),
		"verified": mapValue(map[string]*pb.Value{
			"issuer": stringValue("https://accounts.google.com"), "audience": stringValue("a"), "email": stringValue("e"),
			"emailVerified": boolValue(true), "subject": stringValue("s"),
			"issuedAt": timeValue(time.Date(2026, 11, 1, 9, 0, 0, 0, time.UTC)), "expiresAt": timeValue(time.Date(2026, 11, 1, 10, 0, 0, 0, time.UTC)),
		}),
		"attributes":      mapValue(map[string]*pb.Value{"k": stringValue("v")}),
		"otherAttributes": {ValueType: &pb.Value_ArrayValue{ArrayValue: &pb.ArrayValue{Values: []*pb.Value{mapValue(map[string]*pb.Value{"key": stringValue("__k__"), "value": stringValue("v")})}}}},
	}
	for name, v := range more {
		fields[name] = v
	}
	return fields
}

// frozenMessage reads a message's document, and its chunks, as that revision did.
func frozenMessage(t *testing.T, in *Inbox, id string) *inbox.Message {
	t.Helper()
	read := func(name string) map[string]*pb.Value {
		d, err := in.client.GetDocument(in.outgoing(t.Context()), &pb.GetDocumentRequest{Name: in.documents + "/" + name})
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		return d.GetFields()
	}
	f := read("messages/" + id)
	m := &inbox.Message{
		ID:              id,
		Source:          f["source"].GetStringValue(),
		Subscription:    f["subscription"].GetStringValue(),
		MessageID:       f["messageId"].GetStringValue(),
		PublishTime:     timeOf(f["publishTime"]),
		ReceivedAt:      timeOf(f["receivedAt"]),
		Data:            f["data"].GetBytesValue(),
		Size:            int(f["size"].GetIntegerValue()),
		OrderingKey:     f["orderingKey"].GetStringValue(),
		DeliveryAttempt: int(f["deliveryAttempt"].GetIntegerValue()),
		Attributes:      map[string]string{},
	}
	if shard := f["shard"].GetIntegerValue(); f["shard"] == nil || shard < 0 || shard > 15 || timeOf(f["expireAt"]).IsZero() || m.ReceivedAt.IsZero() {
		t.Errorf("%s: shard %v, expireAt %v, receivedAt %v: the old revision would neither list nor delete it", id, f["shard"], f["expireAt"], f["receivedAt"])
	}
	for k, v := range f["attributes"].GetMapValue().GetFields() {
		m.Attributes[k] = v.GetStringValue()
	}
	for _, v := range f["otherAttributes"].GetArrayValue().GetValues() {
		m.Attributes[v.GetMapValue().Fields["key"].GetStringValue()] = v.GetMapValue().Fields["value"].GetStringValue()
	}
	if v := f["verified"].GetMapValue().GetFields(); v != nil {
		m.Verified = inbox.Verified{
			Issuer: v["issuer"].GetStringValue(), Audience: v["audience"].GetStringValue(), Email: v["email"].GetStringValue(),
			EmailVerified: v["emailVerified"].GetBooleanValue(), Subject: v["subject"].GetStringValue(),
			IssuedAt: timeOf(v["issuedAt"]), ExpiresAt: timeOf(v["expiresAt"]),
		}
	}
	m.Data = append(m.Data, f["dataRest"].GetBytesValue()...)
	for i := range int(f["chunks"].GetIntegerValue()) {
		chunk := read(fmt.Sprintf("messages-chunks/%s-%x-%02d", id, f["sha256"].GetBytesValue()[:20], i))
		m.Data = append(m.Data, chunk["data"].GetBytesValue()...)
	}
	return m
}

// frozenWrite creates documents as that revision did: chunks first, receivedAt by
// the server.
func frozenWrite(t *testing.T, in *Inbox, name string, fields map[string]*pb.Value) {
	t.Helper()
	w := &pb.Write{Operation: &pb.Write_Update{Update: &pb.Document{Name: in.documents + "/" + name, Fields: fields}}}
	if fields["source"] != nil {
		w.CurrentDocument = &pb.Precondition{ConditionType: &pb.Precondition_Exists{Exists: false}}
		w.UpdateTransforms = []*pb.DocumentTransform_FieldTransform{{FieldPath: "receivedAt", TransformType: &pb.DocumentTransform_FieldTransform_SetToServerValue{
			SetToServerValue: pb.DocumentTransform_FieldTransform_REQUEST_TIME,
		}}}
	}
	if _, err := in.client.Commit(in.outgoing(t.Context()), &pb.CommitRequest{Database: in.database, Writes: []*pb.Write{w}}); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
}

// TestRevisionsShareADatabase writes with the old layout and with today's, and reads
// both in both ways.
func TestRevisionsShareADatabase(t *testing.T) {
	t.Parallel()
	in := open(t, emulator.Firestore(t), emulator.Project())
	defer in.Close()
	large := bytes.Repeat([]byte("0123456789"), 250_000)
	sum := sha256.Sum256(large)
	frozenWrite(t, in, "messages/"+frozenID, frozenDocument("old-small", 10, 5, []byte("0123456789"), nil))
	for i, end := range []int{1_004_096, 2_004_096, 2_500_000} {
		frozenWrite(t, in, fmt.Sprintf("messages-chunks/%s-%x-%02d", frozenLargeID, sum[:20], i), map[string]*pb.Value{
			"data": bytesValue(large[4096+1_000_000*i : end]), "expireAt": timeValue(time.Now().Add(49 * time.Hour)),
		})
	}
	frozenWrite(t, in, "messages/"+frozenLargeID, frozenDocument("old-large", len(large), 9, large[:4096], map[string]*pb.Value{
		"chunks": intValue(3), "sha256": bytesValue(sum[:]),
	}))

	want := func(messageID string, data []byte) *inbox.Message {
		return &inbox.Message{
			Source: "pubsub", Subscription: "projects/p/subscriptions/s", MessageID: messageID, Data: data,
			PublishTime: time.Date(2026, 11, 1, 10, 0, 0, 0, time.UTC), OrderingKey: "o", DeliveryAttempt: 2,
			Attributes: map[string]string{"k": "v", "__k__": "v"},
			Verified: inbox.Verified{
				Issuer: "https://accounts.google.com", Audience: "a", Email: "e", EmailVerified: true, Subject: "s",
				IssuedAt: time.Date(2026, 11, 1, 9, 0, 0, 0, time.UTC), ExpiresAt: time.Date(2026, 11, 1, 10, 0, 0, 0, time.UTC),
			},
		}
	}
	messages := map[string]*inbox.Message{
		"old-small": want("old-small", []byte("0123456789")), "old-large": want("old-large", large),
		"new-small": want("new-small", []byte("x")), "new-middle": want("new-middle", large[:5000]), "new-large": want("new-large", large),
	}
	bad := inbox.Quarantine("pubsub", "", inbox.ReasonData, []byte("bad"))
	messages[bad.MessageID] = bad
	for name, m := range messages {
		if name == "old-small" || name == "old-large" {
			continue
		}
		if stored, err := in.Put(t.Context(), m); !stored || err != nil {
			t.Fatalf("%s: %v, %v", name, stored, err)
		}
	}
	whole := cmp.Comparer(bytes.Equal) // cmp's own way takes seconds for 2.5 MB
	for name, m := range messages {
		// What the other revision stored is a duplicate.
		if stored, err := in.Put(t.Context(), m); stored || err != nil {
			t.Errorf("%s again: %v, %v", name, stored, err)
		}
		id := inbox.ID(m.Source, m.Subscription, m.MessageID)
		got, err := in.Get(t.Context(), id)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		m.ID, m.Size, m.ReceivedAt = id, len(m.Data), got.ReceivedAt
		if m.Attributes == nil {
			m.Attributes = map[string]string{}
		}
		if diff := cmp.Diff(m, got, whole); diff != "" {
			t.Errorf("%s, read by the new revision: %.1000s", name, diff)
		}
		old := *m
		old.Quarantined = "" // unknown then
		if diff := cmp.Diff(&old, frozenMessage(t, in, id), whole); diff != "" {
			t.Errorf("%s, read by the old revision: %.1000s", name, diff)
		}
	}
	for _, q := range []inbox.Query{{}, {Source: "pubsub"}} {
		page, err := in.List(t.Context(), q)
		if err != nil || len(page.Events) != len(messages) {
			t.Errorf("%d of %d messages are listed: %v", len(page.Events), len(messages), err)
		}
	}
}
