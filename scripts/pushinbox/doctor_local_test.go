package main

import (
	"encoding/json"
	"strings"
	"testing"

	"example.com/pushinbox/doctor"
)

// TestDoctorLocal examines a run that is healthy, one that nobody has published to, and
// none, as scripts do.
func TestDoctorLocal(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	examine := func(want int, args ...string) (r doctor.Report) {
		t.Helper()
		out, errs, code := runIn(t, []string{"PUBSUB_EMULATOR_HOST=", "GOOGLE_CLOUD_PROJECT="}, "", append([]string{"doctor", "--local", "--data", dir, "--format", "json"}, args...)...)
		if err := json.Unmarshal([]byte(out), &r); err != nil || code != want {
			t.Fatalf("exit %d, want %d; %v: %s%s", code, want, err, out, errs)
		}
		return r
	}
	if r := examine(1); r.Findings[0].Check != "run" || r.Findings[0].Command != "pushinbox local --data "+dir || r.Subscriptions == nil {
		t.Errorf("without a run: %+v", r)
	}
	run1 := start(t, dir)
	if r := examine(3); r.Count(doctor.Unknown) != 1 || r.Findings[0].Check != "topic" {
		t.Errorf("before anything was published: %+v", r.Findings)
	}
	run1.publish(t, "", "text/plain", "one")
	run1.acknowledged(t, 1)
	if r := examine(0); len(r.Subscriptions) != 3 {
		t.Errorf("a healthy run: %+v", r)
	}
	if out, errs, code := run(t, "", "delivery", "status", "--data", dir); code != 0 || !strings.Contains(out, "/inbox-push\tdelivering\t") {
		t.Errorf("delivery status --data: exit %d, %s%s", code, out, errs)
	}
	if _, errs, code := run(t, "", "doctor", "--local", "--terraform", "x"); code != 2 || !strings.Contains(errs, "--local does not go with") {
		t.Errorf("exit %d, %s", code, errs)
	}
}

// TestDoctorNamesWhatIsFine has each check once, and says of what it is.
func TestDoctorNamesWhatIsFine(t *testing.T) {
	t.Parallel()
	var b strings.Builder
	err := tellText(&b, &doctor.Report{Findings: []doctor.Finding{
		{Check: "endpoint", On: "orders-push-1", Result: doctor.Bad},
		{Check: "run", Result: doctor.OK}, {Check: "disk", On: "/d", Result: doctor.OK},
		{Check: "endpoint", On: "projects/p/subscriptions/inbox-push", Result: doctor.OK}, {Check: "endpoint", On: "bills-push-1", Result: doctor.OK},
	}})
	if err != nil || !strings.Contains(b.String(), "ok    run, disk, endpoint (inbox-push, bills-push-1)\n") {
		t.Errorf("%v: %s", err, b.String())
	}
}
