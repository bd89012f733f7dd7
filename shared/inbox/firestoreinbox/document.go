package firestoreinbox

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"

	"example.com/pushinbox/shared/inbox"
	"google.golang.org/protobuf/types/known/timestamppb"

	pb "cloud.google.com/go/firestore/apiv1/firestorepb"
)

// The fields of a message's document. Users' own clients read them too.
const (
	fieldSource          = "source"
	fieldSubscription    = "subscription"
	fieldMessageID       = "messageId"
	fieldPublishTime     = "publishTime"
	fieldReceivedAt      = "receivedAt" // set by the server, so writers' clocks do not matter
	fieldShard           = "shard"
	fieldExpireAt        = "expireAt"
	fieldSize            = "size"
	fieldData            = "data"            // the first inbox.PreviewSize bytes
	fieldDataRest        = "dataRest"        // the others, apart so that lists leave them out
	fieldChunks          = "chunks"          // or the number of documents that hold the others
	fieldDigest          = "sha256"          // of all data, when in chunks: it names them
	fieldAttributes      = "attributes"      // a map
	fieldOtherAttributes = "otherAttributes" // those that no map can have: see otherAttribute
	fieldOrderingKey     = "orderingKey"
	fieldDeliveryAttempt = "deliveryAttempt"
	fieldVerified        = "verified" // a map, its keys as in the message's JSON
	// A map with the reason, absent from other messages. Its member "is" is true, since
	// a query compares for equality and the reasons are many.
	fieldQuarantined   = "quarantined"
	fieldIsQuarantined = fieldQuarantined + ".is"
)

// listed are the fields that lists read.
var listed = []string{
	fieldSource, fieldSubscription, fieldMessageID, fieldPublishTime, fieldReceivedAt, fieldSize, fieldData,
	fieldAttributes, fieldOtherAttributes, fieldOrderingKey, fieldDeliveryAttempt, fieldVerified,
	fieldQuarantined, fieldExpireAt,
}

const (
	// maxDocument is the largest size of a document as a protocol buffer. Firestore
	// allows 1 MiB by a formula of its own, "Storage size calculations", which gives
	// less but for a few bytes; the margin covers those and the data's field names.
	maxDocument = 1<<20 - 16<<10
	// chunkSize is the data of one chunk document.
	chunkSize = 1_000_000
	// chunkGrace is how much later than its message a chunk expires. Firestore
	// deletes expired documents within about a day and in any order, and the
	// message should be deleted first.
	chunkGrace = 48 * time.Hour
	// maxMapKey is the longest key of a map, in bytes.
	maxMapKey = 1500
	// digestSize is how many bytes of the data's SHA-256 name its chunks.
	digestSize = 20
)

// document returns m's document without its data and receivedAt.
func (in *Inbox) document(m *inbox.Message) *pb.Document {
	id := inbox.ID(m.Source, m.Subscription, m.MessageID)
	fields := map[string]*pb.Value{
		fieldSource:       stringValue(m.Source),
		fieldSubscription: stringValue(m.Subscription),
		fieldMessageID:    stringValue(m.MessageID),
		fieldShard:        intValue(shard(id, in.shards)),
		fieldExpireAt:     timeValue(in.now().Add(in.ttl)),
		fieldSize:         intValue(len(m.Data)),
	}
	if !m.PublishTime.IsZero() {
		fields[fieldPublishTime] = timeValue(m.PublishTime)
	}
	if m.OrderingKey != "" {
		fields[fieldOrderingKey] = stringValue(m.OrderingKey)
	}
	if m.DeliveryAttempt != 0 {
		fields[fieldDeliveryAttempt] = intValue(m.DeliveryAttempt)
	}
	if m.Verified != (inbox.Verified{}) {
		fields[fieldVerified] = verifiedValue(&m.Verified)
	}
	if m.Quarantined != "" {
		fields[fieldQuarantined] = mapValue(map[string]*pb.Value{"reason": stringValue(string(m.Quarantined)), "is": boolValue(true)})
	}
	attributes := make(map[string]*pb.Value, len(m.Attributes))
	var others []*pb.Value
	for k, v := range m.Attributes {
		if otherAttribute(k) {
			others = append(others, mapValue(map[string]*pb.Value{"key": stringValue(k), "value": stringValue(v)}))
		} else {
			attributes[k] = stringValue(v)
		}
	}
	if len(attributes) > 0 {
		fields[fieldAttributes] = mapValue(attributes)
	}
	if len(others) > 0 {
		fields[fieldOtherAttributes] = arrayValue(others)
	}
	return &pb.Document{Name: in.name(id), Fields: fields}
}

// otherAttribute reports whether Firestore refuses k as the key of a map. Such
// attributes are stored in an array instead, as maps of key and value.
func otherAttribute(k string) bool {
	return k == "" || len(k) > maxMapKey || strings.HasPrefix(k, "__") && strings.HasSuffix(k, "__")
}

// name returns the name of a message's document.
func (in *Inbox) name(id string) string { return in.documents + "/" + in.collection + "/" + id }

// chunkName returns the name of the i-th chunk of a message. It contains the
// digest of the data, so that different data with the same identity never mixes.
func (in *Inbox) chunkName(id string, digest []byte, i int) string {
	return fmt.Sprintf("%s/%s-chunks/%s-%x-%02d", in.documents, in.collection, id, digest[:digestSize], i)
}

// shard returns the shard of a message. The ID is a hash, so its first bytes
// spread evenly.
func shard(id string, shards int) int {
	var b [4]byte
	_, _ = hex.Decode(b[:], []byte(id[:8])) // inbox.ID makes hex digits
	return int(binary.BigEndian.Uint32(b[:]) % uint32(shards))
}

func stringValue(s string) *pb.Value {
	return &pb.Value{ValueType: &pb.Value_StringValue{StringValue: s}}
}
func intValue(i int) *pb.Value {
	return &pb.Value{ValueType: &pb.Value_IntegerValue{IntegerValue: int64(i)}}
}
func boolValue(b bool) *pb.Value {
	return &pb.Value{ValueType: &pb.Value_BooleanValue{BooleanValue: b}}
}
func bytesValue(b []byte) *pb.Value { return &pb.Value{ValueType: &pb.Value_BytesValue{BytesValue: b}} }

func timeValue(t time.Time) *pb.Value {
	return &pb.Value{ValueType: &pb.Value_TimestampValue{TimestampValue: timestamppb.New(t.Truncate(time.Microsecond))}}
}

func arrayValue(values []*pb.Value) *pb.Value {
	return &pb.Value{ValueType: &pb.Value_ArrayValue{ArrayValue: &pb.ArrayValue{Values: values}}}
}

func mapValue(fields map[string]*pb.Value) *pb.Value {
	return &pb.Value{ValueType: &pb.Value_MapValue{MapValue: &pb.MapValue{Fields: fields}}}
}

func verifiedValue(v *inbox.Verified) *pb.Value {
	fields := map[string]*pb.Value{
		"issuer":        stringValue(v.Issuer),
		"audience":      stringValue(v.Audience),
		"email":         stringValue(v.Email),
		"emailVerified": boolValue(v.EmailVerified),
		"subject":       stringValue(v.Subject),
	}
	if !v.IssuedAt.IsZero() {
		fields["issuedAt"] = timeValue(v.IssuedAt)
	}
	if !v.ExpiresAt.IsZero() {
		fields["expiresAt"] = timeValue(v.ExpiresAt)
	}
	return mapValue(fields)
}

// message returns the message that d holds, its data cut to the preview.
func message(d *pb.Document) inbox.Message {
	f := d.GetFields()
	m := inbox.Message{
		ID:              documentID(d),
		Source:          f[fieldSource].GetStringValue(),
		Subscription:    f[fieldSubscription].GetStringValue(),
		MessageID:       f[fieldMessageID].GetStringValue(),
		PublishTime:     timeOf(f[fieldPublishTime]),
		ReceivedAt:      timeOf(f[fieldReceivedAt]),
		Data:            f[fieldData].GetBytesValue(),
		Size:            int(f[fieldSize].GetIntegerValue()),
		OrderingKey:     f[fieldOrderingKey].GetStringValue(),
		DeliveryAttempt: int(f[fieldDeliveryAttempt].GetIntegerValue()),
		Quarantined:     inbox.Reason(f[fieldQuarantined].GetMapValue().GetFields()["reason"].GetStringValue()),
	}
	m.Truncated = m.Size > len(m.Data)
	attributes := f[fieldAttributes].GetMapValue().GetFields()
	others := f[fieldOtherAttributes].GetArrayValue().GetValues()
	m.Attributes = make(map[string]string, len(attributes)+len(others))
	for k, v := range attributes {
		m.Attributes[k] = v.GetStringValue()
	}
	for _, v := range others {
		e := v.GetMapValue().GetFields()
		m.Attributes[e["key"].GetStringValue()] = e["value"].GetStringValue()
	}
	if v := f[fieldVerified].GetMapValue().GetFields(); v != nil {
		m.Verified = inbox.Verified{
			Issuer:        v["issuer"].GetStringValue(),
			Audience:      v["audience"].GetStringValue(),
			Email:         v["email"].GetStringValue(),
			EmailVerified: v["emailVerified"].GetBooleanValue(),
			Subject:       v["subject"].GetStringValue(),
			IssuedAt:      timeOf(v["issuedAt"]),
			ExpiresAt:     timeOf(v["expiresAt"]),
		}
	}
	return m
}

// expired reports whether d is past its expiry, though Firestore has not deleted
// it yet.
func (in *Inbox) expired(d *pb.Document) bool {
	at := timeOf(d.GetFields()[fieldExpireAt])
	return !at.IsZero() && !at.After(in.now())
}

// position returns where d's message stands.
func position(d *pb.Document) inbox.Position {
	return inbox.Position{
		ReceivedAt: timeOf(d.GetFields()[fieldReceivedAt]),
		Commit:     micros(d.GetCreateTime()),
		ID:         documentID(d),
	}
}

func documentID(d *pb.Document) string {
	return d.GetName()[strings.LastIndexByte(d.GetName(), '/')+1:]
}

func timeOf(v *pb.Value) time.Time { return micros(v.GetTimestampValue()) }

// micros returns t in whole microseconds, the precision of positions and of
// Firestore; zero when there is none.
func micros(t *timestamppb.Timestamp) time.Time {
	if t == nil {
		return time.Time{}
	}
	return t.AsTime().Truncate(time.Microsecond)
}

// chunk is a part of a message's data in a document of its own.
type chunk struct {
	name       string
	start, end int // of the data
}

// errCorrupt is the cause when a document is not one that Put wrote.
var errCorrupt = errors.New("firestoreinbox: the document is not whole")

// chunksOf returns the chunks of size bytes of data.
func (in *Inbox) chunksOf(id string, digest []byte, size int) []chunk {
	var chunks []chunk
	for start := inbox.PreviewSize; start < size; start += chunkSize {
		chunks = append(chunks, chunk{
			name:  in.chunkName(id, digest, len(chunks)),
			start: start,
			end:   min(start+chunkSize, size),
		})
	}
	return chunks
}

// digest names the chunks of data.
func digest(data []byte) []byte {
	sum := sha256.Sum256(data)
	return sum[:]
}
