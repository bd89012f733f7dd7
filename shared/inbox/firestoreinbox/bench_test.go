package firestoreinbox

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"cloud.google.com/go/firestore"
	"example.com/pushinbox/shared/emulator"
	"example.com/pushinbox/shared/inbox"
	"golang.org/x/sys/unix"
	"google.golang.org/api/option"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

// BenchmarkPut stores messages of 1 KiB from 1 and from 500 goroutines, with
// the client's Create, with its BulkWriter and with this package, and reports
// for the latter two how they compare with Create: messages per second
// (x-create) and this process's CPU time per message (x-create-cpu).
func BenchmarkPut(b *testing.B) {
	host := emulator.Firestore(b)
	// Connected as in production, with the library's instrumentation, and not
	// by FIRESTORE_EMULATOR_HOST, which leaves that out.
	client, err := firestore.NewClient(b.Context(), emulator.Project(),
		option.WithEndpoint(host), option.WithoutAuthentication(),
		option.WithGRPCDialOption(grpc.WithTransportCredentials(insecure.NewCredentials())),
		option.WithGRPCDialOption(grpc.WithPerRPCCredentials(owner{})))
	if err != nil {
		b.Fatal(err)
	}
	defer client.Close()
	in := open(b, host, emulator.Project(), nil)
	defer in.Close()
	var next atomic.Int64
	create := func() (*firestore.DocumentRef, map[string]any) {
		m := benchMessage(&next)
		id := inbox.ID(m.Source, m.Subscription, m.MessageID)
		attributes := map[string]any{}
		for k, v := range m.Attributes {
			attributes[k] = v
		}
		return client.Collection("messages").Doc(id), map[string]any{
			fieldSource: m.Source, fieldSubscription: m.Subscription, fieldMessageID: m.MessageID,
			fieldPublishTime: m.PublishTime, fieldReceivedAt: firestore.ServerTimestamp,
			fieldShard: shard(id, 16), fieldExpireAt: time.Now().Add(time.Hour), fieldSize: len(m.Data),
			fieldData: m.Data, fieldAttributes: attributes,
			fieldVerified: map[string]any{
				"issuer": m.Verified.Issuer, "audience": m.Verified.Audience, "email": m.Verified.Email,
				"emailVerified": true, "subject": m.Verified.Subject,
				"issuedAt": m.Verified.IssuedAt, "expiresAt": m.Verified.ExpiresAt,
			},
		}
	}
	bulk := client.BulkWriter(b.Context())
	defer bulk.End()
	ways := []struct {
		name string
		put  func() error
	}{
		{"create", func() error {
			doc, data := create()
			_, err := doc.Create(b.Context(), data)
			return err
		}},
		{"bulkwriter", func() error {
			doc, data := create()
			job, err := bulk.Create(doc, data)
			if err != nil {
				return err
			}
			_, err = job.Results()
			return err
		}},
		{"group", func() error {
			_, err := in.Put(b.Context(), benchMessage(&next))
			return err
		}},
	}
	for range 3000 { // let Java compile what is measured
		if err := ways[0].put(); err != nil {
			b.Fatal(err)
		}
	}
	// One after the other, in turns, so that whatever else the machine does
	// meets all alike.
	b.Run("latency", func(b *testing.B) {
		took := make([][]time.Duration, len(ways))
		for b.Loop() {
			for i, way := range ways {
				if way.name == "bulkwriter" {
					continue // a second each
				}
				start := time.Now()
				if err := way.put(); err != nil {
					b.Fatal(err)
				}
				took[i] = append(took[i], time.Since(start))
			}
		}
		median := func(i int) float64 {
			slices.Sort(took[i])
			return float64(took[i][len(took[i])/2].Nanoseconds())
		}
		b.ReportMetric(median(0)/1e3, "create-p50-µs")
		b.ReportMetric(median(2)/1e3, "group-p50-µs")
		b.ReportMetric(median(2)/median(0), "x-create")
	})
	for _, putters := range []int{1, 500} {
		var rate, cpu float64 // of create
		for _, way := range ways {
			b.Run(fmt.Sprintf("%s/%d", way.name, putters), func(b *testing.B) {
				var left atomic.Int64
				left.Store(int64(b.N))
				var wg sync.WaitGroup
				cpu0 := cpuTime(b)
				b.ResetTimer()
				for range putters {
					wg.Go(func() {
						for left.Add(-1) >= 0 {
							if err := way.put(); err != nil {
								b.Error(err)
								return
							}
						}
					})
				}
				wg.Wait()
				b.StopTimer()
				r := float64(b.N) / b.Elapsed().Seconds()
				c := float64((cpuTime(b) - cpu0).Microseconds()) / float64(b.N)
				b.ReportMetric(r, "msgs/s")
				b.ReportMetric(c, "cpu-µs/msg")
				if way.name == "create" {
					rate, cpu = r, c
				} else if rate > 0 {
					b.ReportMetric(r/rate, "x-create")
					b.ReportMetric(c/cpu, "x-create-cpu")
				}
			})
		}
	}
}

func benchMessage(next *atomic.Int64) *inbox.Message {
	data := make([]byte, 1<<10)
	for i := range data {
		data[i] = byte(rand.Uint32())
	}
	now := time.Now()
	return &inbox.Message{
		Source:       inbox.SourcePubSub,
		Subscription: "projects/p/subscriptions/s",
		MessageID:    fmt.Sprint(2070443601311540 + next.Add(1)),
		PublishTime:  now,
		Data:         data,
		Attributes:   map[string]string{"kind": "order.created", "origin": "shop"},
		Verified: inbox.Verified{
			Issuer: "https://accounts.google.com", Audience: "https://receive-1.europe-west1.run.app",
			Email: "push@p.iam.gserviceaccount.com", EmailVerified: true, Subject: "113774264463038321964",
			IssuedAt: now, ExpiresAt: now.Add(time.Hour),
		},
	}
}

// owner is the credential that Google's emulator wants.
type owner struct{}

func (owner) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return map[string]string{"authorization": "Bearer owner"}, nil
}
func (owner) RequireTransportSecurity() bool { return false }

// cpuTime returns the CPU time that this process has used.
func cpuTime(tb testing.TB) time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		tb.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
