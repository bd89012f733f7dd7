package console

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/heapprofiler"
	"github.com/chromedp/cdproto/performance"
	"github.com/chromedp/chromedp"
)

// observe notes in the window how long after its publishing each message was
// painted. Publisher and browser read the same clock. A message's data begins
// with when it was published, in milliseconds.
const observe = `(() => {
	window.delays = [];
	window.newest = 0;
	new MutationObserver(changes => requestAnimationFrame(() => {
		const now = Date.now();
		for (const change of changes)
			for (const row of change.addedNodes) {
				const [sent, n] = row.querySelector("td.c-data").innerText.split(" ").map(Number);
				delays.push(now - sent);
				newest = Math.max(newest, n);
			}
	})).observe(document.querySelector("#rows"), {childList: true});
})()`

// BenchmarkScreen measures the time from publishing to the screen: through the
// API, the topic, the signed push, verification, the inbox, the live feed, and
// into a window. Run 50 a second with -benchtime 1500x (half a minute) and 500 a
// second with -benchtime 30000x (a minute).
func BenchmarkScreen(b *testing.B) {
	for _, rate := range []int{50, 500} {
		b.Run(fmt.Sprintf("%d_a_second", rate), func(b *testing.B) { benchmarkScreen(b, rate) })
	}
}

func benchmarkScreen(b *testing.B, rate int) {
	s := start(b)
	w := s.open(b, desk)
	w.live()
	w.do(chromedp.Evaluate[chromedp.Void](observe), call(performance.Enable, performance.EnableParams{}))
	heap := func() (bytes, nodes float64) {
		metrics, err := chromedp.Run(w.Context, func(ctx context.Context, t *chromedp.Target) (performance.GetMetricsResult, error) {
			if _, err := cdp.Call(ctx, t, heapprofiler.CollectGarbage, cdp.Empty{}); err != nil {
				return performance.GetMetricsResult{}, err
			}
			return cdp.Call(ctx, t, performance.GetMetrics, cdp.Empty{})
		})
		if err != nil {
			b.Fatal(err)
		}
		for _, m := range metrics.Metrics {
			switch m.Name {
			case "JSHeapUsedSize":
				bytes = m.Value
			case "Nodes":
				nodes = m.Value
			}
		}
		return bytes, nodes
	}
	var delays []float64
	drain := func() {
		delays = append(delays, eval[[]float64](w, `delays.splice(0)`)...)
	}
	var early, earlyNodes float64
	const batches = 50 // a second
	tick := time.NewTicker(time.Second / batches)
	defer tick.Stop()
	b.ResetTimer()
	for n := 0; n < b.N; {
		<-tick.C
		var messages []message
		for range min(rate/batches, b.N-n) {
			n++
			messages = append(messages, message{Data: fmt.Appendf(nil, "%d %d and what else it says", time.Now().UnixMilli(), n)})
		}
		s.publish(b, messages...)
		if n >= b.N/4 && early == 0 {
			early, earlyNodes = heap()
		}
	}
	published := time.Now()
	w.until(fmt.Sprintf(`newest === %d`, b.N))
	behind := time.Since(published)
	b.StopTimer()
	late, lateNodes := heap()
	drain()
	slices.Sort(delays)
	b.ReportMetric(delays[len(delays)/2], "p50-ms")
	b.ReportMetric(delays[len(delays)*95/100], "p95-ms")
	b.ReportMetric(float64(len(delays))/float64(b.N), "shown/published")
	b.ReportMetric(float64(behind.Milliseconds()), "behind-ms")
	b.ReportMetric(early/1e6, "heap-MB-at-a-quarter")
	b.ReportMetric(late/1e6, "heap-MB-at-the-end")
	b.ReportMetric(earlyNodes, "nodes-at-a-quarter")
	b.ReportMetric(lateNodes, "nodes-at-the-end")
	b.ReportMetric(0, "ns/op")
	if rows := w.rows(); len(rows) > 300 {
		b.Errorf("the window keeps %d rows", len(rows))
	}
	var newest struct{ Messages []stored }
	if err := json.Unmarshal(s.get(b, "/messages?pageSize=300"), &newest); err != nil {
		b.Fatal(err)
	}
	if got, want := w.rows(), idsOf(newest.Messages); !slices.Equal(got, want[:len(got)]) {
		b.Error("the window's rows are not the newest messages")
	}
}
