package doctor

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// The bounds that Terraform's alerts have, too.
const (
	leastAcked = 0.99
	mostWait   = 10 * time.Minute
)

func checkAcknowledged(x *examination) {
	x.each(func(name, id string, _ *subscription, _ *Wanted) {
		if !x.have(id, &x.pushes) {
			return
		}
		classes := x.pushes.value[id]
		var all float64
		for _, n := range classes {
			all += n
		}
		if all == 0 {
			if waiting, ok := x.backlog.value[id]; ok && waiting == 0 {
				x.ok(id, "nothing was pushed in the last hour, and nothing waits")
				return
			}
			x.unknown(id, "no data: Monitoring has no push of the last hour, which is not the same as none")
			return
		}
		share := classes["ack"] / all
		if share >= leastAcked {
			x.ok(id, "%.4g %% of %.0f pushes of the last hour were acknowledged", 100*share, all)
			return
		}
		var parts []string
		for _, class := range slices.Sorted(maps.Keys(classes)) {
			if class != "ack" && classes[class] > 0 {
				parts = append(parts, fmt.Sprintf("%.0f %s", classes[class], told(class)))
			}
		}
		f := Finding{On: id, What: "pushes are not acknowledged",
			Evidence:    fmt.Sprintf("%.3g %% of %.0f pushes of the last hour were acknowledged; of the others %s", 100*share, all, strings.Join(parts, ", ")),
			Consequence: "Pub/Sub slows down and tries again, and gives messages up after some attempts", Command: x.readLog()}
		if reasons := x.reasons(); reasons != "" {
			f.Evidence += "; receive refused: " + reasons
		}
		x.bad(f)
	})
}

// reasons are those for which receive refused most, and how often.
func (x *examination) reasons() string {
	counts, errs := map[string]int{}, map[string]string{}
	for _, e := range x.refusals.value.Entries {
		counts[e.JSONPayload.Refusal]++
		if errs[e.JSONPayload.Refusal] == "" { // the latest
			errs[e.JSONPayload.Refusal] = e.JSONPayload.Error
		}
	}
	names := slices.SortedFunc(maps.Keys(counts), func(a, b string) int { return counts[b] - counts[a] })
	var parts []string
	for _, name := range names[:min(len(names), 3)] {
		parts = append(parts, fmt.Sprintf("%d × %s (%s)", counts[name], told(name), told(errs[name])))
	}
	return strings.Join(parts, ", ")
}

func checkLatency(x *examination) {
	x.each(func(name, id string, s *subscription, _ *Wanted) {
		if !x.have(id, &x.latency) {
			return
		}
		micros, ok := x.latency.value[id]
		if !ok {
			if waiting, ok := x.backlog.value[id]; ok && waiting == 0 && len(x.pushes.value[id]) == 0 {
				x.ok(id, "nothing was pushed in the last hour, and nothing waits")
				return
			}
			x.unknown(id, "no data: Monitoring has no latency of the last hour")
			return
		}
		p99 := time.Duration(micros) * time.Microsecond
		deadline := time.Duration(s.AckDeadlineSeconds) * time.Second
		if deadline == 0 || p99 < deadline*9/10 {
			x.ok(id, "99 %% of pushes took less than %v", p99.Round(time.Millisecond))
			return
		}
		x.bad(Finding{On: id, What: "receive answers too late", Evidence: fmt.Sprintf("the slowest 1 %% of pushes took %v and more, and Pub/Sub waits %v", p99.Round(time.Millisecond), deadline),
			Consequence: "a push that is not answered in time comes again, though it may be stored", Command: x.run("logs read")})
	})
}

func checkBacklog(x *examination) {
	x.each(func(name, id string, _ *subscription, _ *Wanted) {
		if !x.have(id, &x.oldest) || !x.have(id, &x.backlog) {
			return
		}
		waiting, counted := x.backlog.value[id]
		age, ok := x.oldest.value[id]
		switch oldest := time.Duration(age) * time.Second; {
		case !counted && !ok:
			x.unknown(id, "no data: Monitoring has no backlog of the last 15 minutes, which is not the same as none")
		case oldest > mostWait:
			x.bad(Finding{On: id, What: "messages wait too long", Evidence: fmt.Sprintf("the oldest waits for %v, and %.0f wait", oldest, waiting),
				Consequence: "what is published now arrives late, and what is older than the subscription keeps it is lost", Command: x.readLog()})
		default:
			x.ok(id, "%.0f wait, the oldest for %v", waiting, oldest)
		}
	})
}

func checkDeadLetters(x *examination) {
	if !x.keepsDeadLetters() {
		return
	}
	on := short(x.target.DeadLetterSubscription)
	if !x.have(on, &x.backlog) {
		return
	}
	waiting, ok := x.backlog.value[on]
	switch {
	case !ok:
		x.unknown(on, "no data: Monitoring has no count of dead letters of the last 15 minutes, which is not the same as none")
	case waiting > 0:
		x.bad(Finding{On: on, What: "dead letters wait", Evidence: fmt.Sprintf("%.0f messages were given up", waiting),
			Consequence: "they are not in the inbox, unless their acknowledgement was lost, and are lost after 31 days", Command: x.own("", "dead-letters", "list")})
	default:
		x.ok(on, "there are no dead letters")
	}
}

func checkScheduler(x *examination) {
	if !x.target.Calendar {
		return
	}
	for _, name := range slices.Sorted(maps.Keys(x.jobs)) {
		j := x.jobs[name]
		f := Finding{On: name, Consequence: "channels end and are not renewed, and what a notification missed is not synced"}
		switch {
		case j.state == absent && x.target.SchedulerRegion == "":
			x.unknown(name, "there is no such job in %s; Terraform's scheduler_region may be another", x.target.Region)
		case j.state == absent:
			f.What, f.Evidence, f.Command = "a job of Cloud Scheduler does not exist", "Cloud Scheduler answers 404", x.apply()
			x.bad(f)
		case !x.have(name, j):
		case j.value.State != "ENABLED":
			f.What, f.Evidence = "a job of Cloud Scheduler does not run", "its state is "+told(j.value.State)
			f.Command = x.gcloud("scheduler", "jobs", "resume", name, "--location="+x.target.schedulerRegion())
			x.bad(f)
		case j.value.Status.Code != 0:
			f.What, f.Evidence = "the last run of a job of Cloud Scheduler failed", fmt.Sprintf("code %d %s", j.value.Status.Code, told(j.value.Status.Message))
			f.Command = x.gcloud("scheduler", "jobs", "run", name, "--location="+x.target.schedulerRegion())
			x.bad(f)
		default:
			x.ok(name, "it runs")
		}
	}
}

// leastChannel is how long a channel lives at least while it is renewed in time.
const leastChannel = 24 * time.Hour

func checkChannels(x *examination) {
	const on = "calendar"
	if !x.target.Calendar || !x.have(on, &x.channels) {
		return
	}
	// A calendar has an old channel beside its new one for a while.
	last := map[string]time.Time{}
	for _, d := range x.channels.value.Documents {
		id, ends := d.text("calendarId"), d.at("expiration")
		if ends.IsZero() { // not confirmed by Google, or without an end
			continue
		}
		if ends.After(last[id]) {
			last[id] = ends
		}
	}
	for _, id := range slices.Sorted(maps.Keys(last)) {
		left := last[id].Sub(x.at)
		if left < leastChannel {
			x.bad(Finding{On: on, What: "a channel of a calendar ends soon, or has ended", Evidence: fmt.Sprintf("that of %s ends at %s", told(id), last[id].UTC().Format(time.RFC3339)),
				Consequence: "without a channel Google sends no notifications, and changes are seen by the periodic sync only",
				Command:     x.gcloud("scheduler", "jobs", "run", "inbox-calendar-renew", "--location="+x.target.schedulerRegion())})
			return
		}
	}
	x.ok(on, "%d calendars have a channel", len(last))
}
