package firestoreinbox

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"cloud.google.com/go/firestore"
	"example.com/pushinbox/shared/inbox"
	"example.com/pushinbox/testkit/emulator"
	"golang.org/x/sys/unix"
	"google.golang.org/api/option"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

// BenchmarkPut stores messages of 1 KiB from 1 and from 500 goroutines: with
// the client's Create, with its BulkWriter and with this package. They take
// turns, so that whatever else the machine does meets all alike. For 1 it
// reports the median latency, for 500 the messages per second and this
// process's CPU time per message, each also as a multiple of Create's.
func BenchmarkPut(b *testing.B) {
	host := emulator.Firestore(b)
	// Connected as in production, with the library's instrumentation, and not
	// by FIRESTORE_EMULATOR_HOST, which leaves that out.
	project, other := emulator.Project(), emulator.Project()
	client, err := firestore.NewClient(b.Context(), project,
		option.WithEndpoint(host), option.WithoutAuthentication(),
		option.WithGRPCDialOption(grpc.WithTransportCredentials(insecure.NewCredentials())),
		option.WithGRPCDialOption(grpc.WithPerRPCCredentials(owner{})))
	if err != nil {
		b.Fatal(err)
	}
	defer client.Close()
	in := open(b, host, other)
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
	// The emulator keeps all in memory and slows down as that fills.
	clearAll := func(b *testing.B) {
		for _, name := range []string{project, other} {
			req, err := http.NewRequestWithContext(b.Context(), http.MethodDelete,
				"http://"+host+"/emulator/v1/projects/"+name+"/databases/(default)/documents", nil)
			if err != nil {
				b.Fatal(err)
			}
			res, err := http.DefaultClient.Do(req)
			if err != nil {
				b.Fatal(err)
			}
			res.Body.Close()
			if res.StatusCode != http.StatusOK {
				b.Fatalf("clearing the emulator: %s", res.Status)
			}
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
	// round has putters put n messages in one way.
	round := func(b *testing.B, put func() error, putters, n int) {
		var left atomic.Int64
		left.Store(int64(n))
		var wg sync.WaitGroup
		for range putters {
			wg.Go(func() {
				for left.Add(-1) >= 0 {
					if err := put(); err != nil {
						b.Error(err)
						return
					}
				}
			})
		}
		wg.Wait()
	}
	round(b, ways[0].put, 100, 5000) // let Java compile what is measured
	round(b, ways[2].put, 100, 5000)

	b.Run("1", func(b *testing.B) {
		took := make([][]time.Duration, len(ways))
		for b.Loop() {
			for i, way := range ways {
				if way.name == "bulkwriter" && len(took[i]) >= 3 {
					continue // a second each
				}
				start := time.Now()
				if err := way.put(); err != nil {
					b.Fatal(err)
				}
				took[i] = append(took[i], time.Since(start))
			}
		}
		create := 0.0
		for i, way := range ways {
			slices.Sort(took[i])
			p50 := float64(took[i][len(took[i])/2].Microseconds())
			b.ReportMetric(p50, way.name+"-p50-µs")
			if create == 0 {
				create = p50
			}
			b.ReportMetric(p50/create, way.name+"-x-create")
		}
	})
	b.Run("500", func(b *testing.B) {
		const n = 4000
		took, cpu := make([]time.Duration, len(ways)), make([]time.Duration, len(ways))
		rounds := 0
		for b.Loop() {
			for i, way := range ways {
				cpu0, start := cpuTime(b), time.Now()
				round(b, way.put, 500, n)
				took[i] += time.Since(start)
				cpu[i] += cpuTime(b) - cpu0
				clearAll(b)
			}
			rounds++
		}
		for i, way := range ways {
			b.ReportMetric(float64(rounds*n)/took[i].Seconds(), way.name+"-msgs/s")
			b.ReportMetric(float64(cpu[i].Microseconds())/float64(rounds*n), way.name+"-cpu-µs/msg")
			b.ReportMetric(took[0].Seconds()/took[i].Seconds(), way.name+"-x-create")
			b.ReportMetric(cpu[i].Seconds()/cpu[0].Seconds(), way.name+"-cpu-x-create")
		}
	})
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
