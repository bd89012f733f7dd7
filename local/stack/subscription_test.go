package stack

import (
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"cloud.google.com/go/pubsub/v2/apiv1/pubsubpb"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"
)

// terraformDefault returns what stands after "default =" in the block of a
// variable.
func terraformDefault(t *testing.T, source, variable string) string {
	t.Helper()
	block := regexp.MustCompile(`(?ms)^variable "`+variable+`" \{\n(.*?)^\}`).FindAllStringSubmatch(source, -1)
	if len(block) != 1 {
		t.Fatalf("%d variables are called %s", len(block), variable)
	}
	values := regexp.MustCompile(`(?m)^  default +=(.*)$`).FindAllStringSubmatch(block[0][1], -1)
	if len(values) != 1 {
		t.Fatalf("%s has %d defaults", variable, len(values))
	}
	return strings.TrimSpace(values[0][1])
}

func seconds(t *testing.T, s string) time.Duration {
	t.Helper()
	n, err := strconv.Atoi(s)
	if err != nil {
		t.Fatal(err)
	}
	return time.Duration(n) * time.Second
}

func TestLocalDeliversAsTerraformMakesIt(t *testing.T) {
	t.Parallel()
	b, err := os.ReadFile("../../terraform/variables.tf")
	if err != nil {
		t.Fatal(err)
	}
	variables := string(b)
	backoff := regexp.MustCompile(`^\{ minimum = (\d+), maximum = (\d+) \}$`).FindStringSubmatch(terraformDefault(t, variables, "retry_backoff_seconds"))
	if backoff == nil {
		t.Fatal("the default of retry_backoff_seconds is not { minimum = N, maximum = N }")
	}
	attempts, err := strconv.Atoi(terraformDefault(t, variables, "max_delivery_attempts"))
	if err != nil {
		t.Fatal(err)
	}
	ordering, err := strconv.ParseBool(terraformDefault(t, variables, "enable_message_ordering"))
	if err != nil {
		t.Fatal(err)
	}
	want := &pubsubpb.Subscription{
		AckDeadlineSeconds:    int32(seconds(t, terraformDefault(t, variables, "ack_deadline_seconds")).Seconds()),
		RetryPolicy:           RetryPolicy(seconds(t, backoff[1]), seconds(t, backoff[2])),
		DeadLetterPolicy:      &pubsubpb.DeadLetterPolicy{MaxDeliveryAttempts: int32(attempts)},
		EnableMessageOrdering: ordering,
	}
	if diff := cmp.Diff(want, TerraformDefaults(), protocmp.Transform()); diff != "" {
		t.Errorf("terraform/variables.tf and TerraformDefaults differ:\n%s", diff)
	}
}

func TestCalendarSyncsAsTerraformMakesIt(t *testing.T) {
	t.Parallel()
	b, err := os.ReadFile("../../terraform/calendar.tf")
	if err != nil {
		t.Fatal(err)
	}
	block := regexp.MustCompile(`(?ms)^resource "google_pubsub_subscription" "calendar_sync" \{\n(.*?)^\}`).FindStringSubmatch(string(b))
	if block == nil {
		t.Fatal("there is no such subscription in terraform/calendar.tf")
	}
	number := func(pattern string) time.Duration {
		found := regexp.MustCompile(`(?m)^ +`+pattern+`$`).FindAllStringSubmatch(block[1], -1)
		if len(found) != 1 {
			t.Fatalf("%d lines are like %s", len(found), pattern)
		}
		return seconds(t, found[0][1])
	}
	want := &pubsubpb.Subscription{
		AckDeadlineSeconds: int32(number(`ack_deadline_seconds += (\d+)`).Seconds()),
		RetryPolicy:        RetryPolicy(number(`minimum_backoff += "(\d+)s"`), number(`maximum_backoff += "(\d+)s"`)),
	}
	if strings.Contains(block[1], "dead_letter_policy") || strings.Contains(block[1], "enable_message_ordering") {
		t.Error("terraform/calendar.tf sets what calendarSync leaves out")
	}
	if diff := cmp.Diff(want, calendarSync(), protocmp.Transform()); diff != "" {
		t.Errorf("terraform/calendar.tf and calendarSync differ:\n%s", diff)
	}
}
