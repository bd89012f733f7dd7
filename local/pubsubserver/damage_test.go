package pubsubserver

import (
	"bytes"
	"encoding/binary"
	"log/slog"
	"os"
	"strings"
	"testing"
	"time"

	"cloud.google.com/go/pubsub/v2/apiv1/pubsubpb"
	"example.com/pushinbox/local/datadir"
	"go.etcd.io/bbolt"
)

// edit closes the server and changes its file.
func (w *world) edit(change func(tx *bbolt.Tx) error) {
	w.Helper()
	w.must(w.Server.Close())
	db, _, err := datadir.OpenBolt(w.options.Path, 0)
	w.must(err)
	w.must(db.Update(change))
	w.must(db.Close())
}

// TestDamagedMessage changes bytes of a message on the disk: it is named and left out, and
// not delivered changed. The others are.
func TestDamagedMessage(t *testing.T) {
	for name, change := range map[string]func(b []byte) []byte{
		"data":   func(b []byte) []byte { return bytes.ReplaceAll(b, []byte("second message"), []byte("second massage")) },
		"header": func(b []byte) []byte { return damageBefore(b, "second message", 20) },
		"zeros":  func(b []byte) []byte { return bytes.ReplaceAll(b, []byte("second message"), make([]byte, 14)) },
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(w *world) {
				var log bytes.Buffer
				w.options.Logger = slog.New(slog.NewTextHandler(&log, nil))
				w.reopen()
				w.createSub(&pubsubpb.Subscription{})
				w.publish("first message", "second message", "third message")
				damage := func() {
					b, err := os.ReadFile(w.options.Path)
					w.must(err)
					w.must(os.WriteFile(w.options.Path, change(b), 0o600))
				}
				// While it runs, and when it is opened again.
				damage()
				for _, when := range []string{"running", "reopened"} {
					log.Reset()
					if when == "reopened" {
						w.reopen()
					}
					w.expect(subS, "first message", "third message")
					if !strings.Contains(log.String(), "level=ERROR") || !strings.Contains(log.String(), "damaged") {
						t.Errorf("%s: the log says %q", when, log.String())
					}
					time.Sleep(time.Minute)
				}
			})
		})
	}
}

// damageBefore changes a byte that is n bytes before each s.
func damageBefore(b []byte, s string, n int) []byte {
	for at := 0; ; at++ {
		i := bytes.Index(b[at:], []byte(s))
		if i < 0 {
			return b
		}
		at += i
		b[at-n] ^= 0x40
	}
}

// TestDamagedRecord opens a file in which the record of a topic or a subscription is
// damaged: it is refused, and the error says of which.
func TestDamagedRecord(t *testing.T) {
	for _, c := range []struct {
		bucket []byte
		name   string
	}{{bucketTopics, topicT}, {bucketSubscriptions, subS}, {bucketSnapshots, snapA}} {
		t.Run(string(c.bucket), func(t *testing.T) {
			inWorld(t, func(w *world) {
				w.createSub(&pubsubpb.Subscription{})
				_, err := w.CreateSnapshot(t.Context(), &pubsubpb.CreateSnapshotRequest{Name: snapA, Subscription: subS})
				w.must(err)
				w.edit(func(tx *bbolt.Tx) error {
					v := bytes.Clone(tx.Bucket(c.bucket).Get([]byte(c.name)))
					v[len(v)-datadir.SumSize-1] ^= 1
					return tx.Bucket(c.bucket).Put([]byte(c.name), v)
				})
				s, err := Open(w.options)
				if err == nil {
					w.Server = s
					t.Fatal("it is opened")
				}
				if !strings.Contains(err.Error(), c.name) || !strings.Contains(err.Error(), "damaged") || !strings.Contains(err.Error(), "move it away") {
					t.Errorf("the error is %v", err)
				}
				w.must(os.Remove(w.options.Path))
				w.open()
			})
		})
	}
}

// TestDamagedMark damages what the file has of an acknowledgement: the message comes once
// more.
func TestDamagedMark(t *testing.T) {
	inWorld(t, func(w *world) {
		w.createSub(&pubsubpb.Subscription{})
		w.createSub(&pubsubpb.Subscription{Name: subOther}) // so that the messages stay
		w.publish("a", "b")
		w.ack(subS, w.expect(subS, "a", "b"))
		w.edit(func(tx *bbolt.Tx) error {
			key, value := tx.Bucket(bucketMarks).Cursor().First()
			value = bytes.Clone(value)
			value[0] ^= 1
			return tx.Bucket(bucketMarks).Put(bytes.Clone(key), value)
		})
		w.open()
		w.expect(subS, "a")
	})
}

// TestVersion1 opens a file without checksums, as version 1 wrote them: all is there, and
// what comes to it has checksums.
func TestVersion1(t *testing.T) {
	inWorld(t, func(w *world) {
		w.createSub(&pubsubpb.Subscription{RetryPolicy: &pubsubpb.RetryPolicy{MinimumBackoff: duration(10 * time.Minute), MaximumBackoff: duration(10 * time.Minute)}})
		w.createSub(&pubsubpb.Subscription{Name: subOther})
		w.publish("acknowledged")
		w.ack(subS, w.expect(subS, "acknowledged"))
		w.publish("refused")
		w.nack(subS, w.expect(subS, "refused"))
		w.publish("fresh")
		w.edit(func(tx *bbolt.Tx) error {
			for _, name := range [][]byte{bucketTopics, bucketSubscriptions, bucketMessages, bucketMarks} {
				b := tx.Bucket(name)
				old := make(map[string][]byte)
				w.must(b.ForEach(func(k, v []byte) error {
					v, ok := datadir.Unseal(k, v)
					if !ok {
						t.Errorf("in %s, %x has no checksum", name, k)
					}
					v = bytes.Clone(v)
					if len(v) > attemptsSize {
						binary.BigEndian.PutUint32(v, binary.BigEndian.Uint32(v)&^sealed)
					}
					old[string(k)] = v
					return nil
				}))
				for k, v := range old {
					w.must(b.Put([]byte(k), v))
				}
			}
			return tx.Bucket(bucketFormat).Put(keyVersion, []byte(version1))
		})
		w.open()
		w.publish("new")
		w.reopen()
		w.expect(subOther, "acknowledged", "refused", "fresh", "new")
		w.ack(subS, w.expect(subS, "fresh", "new"))
		time.Sleep(10 * time.Minute)
		w.expect(subS, "refused")
		w.edit(func(tx *bbolt.Tx) error {
			if v := tx.Bucket(bucketFormat).Get(keyVersion); string(v) != version {
				t.Errorf("the format is %q", v)
			}
			return nil
		})
		w.open()
	})
}

// TestAttemptsAfterAFailedWrite takes the file away while the attempts of a message are
// written: those of the next one are, once it is back.
func TestAttemptsAfterAFailedWrite(t *testing.T) {
	inWorld(t, func(w *world) {
		w.createSub(&pubsubpb.Subscription{RetryPolicy: &pubsubpb.RetryPolicy{MinimumBackoff: duration(10 * time.Minute), MaximumBackoff: duration(10 * time.Minute)}})
		w.publish("lost", "saved")
		got := w.expect(subS, "lost", "saved")
		path := w.options.Path
		w.must(os.Rename(path, path+".away"))
		w.nack(subS, got[:1])
		w.must(os.Rename(path+".away", path))
		w.nack(subS, got[1:])
		w.reopen()
		w.expect(subS, "lost")
	})
}
