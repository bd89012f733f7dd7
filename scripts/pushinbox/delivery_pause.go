package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"example.com/pushinbox/operations"
)

// pauseAnswer is what pause and resume print as JSON.
type pauseAnswer struct {
	Subscription string    `json:"subscription"`
	State        string    `json:"state"`
	Endpoint     string    `json:"endpoint"`
	Changed      bool      `json:"changed"`
	Principal    string    `json:"principal,omitempty"`
	At           time.Time `json:"at,omitzero"`
	LostFrom     time.Time `json:"lostFrom,omitzero"`
	Rebuilt      bool      `json:"rebuilt,omitempty"`
	Differs      bool      `json:"differs,omitempty"`
}

// changingDelivery completes a command, pause or resume, by what it does and what it prints.
func changingDelivery[T any](cmd *cobra.Command, print func(*cobra.Command, *operated, *clock, T) error, change func(context.Context, *operated) (T, error)) *cobra.Command {
	var o operate
	var secret pushToken
	var times clock
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		d, err := o.open(cmd.Context(), &secret)
		if err != nil {
			return err
		}
		defer d.Close()
		var outcome T
		err = d.audited(cmd, &o, "delivery."+cmd.Name(), d.subscription, func(ctx context.Context) (string, error) {
			outcome, err = change(ctx, d)
			return "", err
		})
		if err != nil {
			return err
		}
		return print(cmd, d, &times, outcome)
	}
	o.flags(cmd.Flags())
	o.yesFlag(cmd.Flags(), withoutLog)
	secret.flag(cmd.Flags())
	times.flag(cmd.Flags())
	formatFlag(cmd)
	return cmd
}

func newPause() *cobra.Command {
	return changingDelivery(&cobra.Command{
		Use:   "pause",
		Short: "Stop the pushes of a subscription; its messages wait",
		Long: `Stop the pushes of a subscription. Its messages wait until it is resumed; what waits for
longer than the subscription keeps messages (7 days by default) is lost.

` + operateHelp + `

The push configuration is recorded first, without the value of the shared token (?token=):
in Firestore, beside the inbox, where the resume of every operator finds it. The pause is
refused if resume could not restore it: you must be allowed to act as the push account
(iam.serviceAccounts.actAs) and to read the token.

Pub/Sub takes some minutes until the last push. The next "terraform apply" resumes the
delivery, unless the variable paused names the subscription.`,
		Example: `  pushinbox delivery pause
  pushinbox delivery pause --terraform terraform
  pushinbox delivery pause --project my-project --subscription inbox-push --format json`,
	}, printPaused, func(ctx context.Context, d *operated) (*operations.Paused, error) {
		return d.Pause(ctx, d.subscription)
	})
}

func printPaused(cmd *cobra.Command, d *operated, times *clock, p *operations.Paused) error {
	r := p.Operation
	if wantsJSON(cmd) {
		return show(cmd, pauseAnswer{Subscription: d.subscription, State: "paused", Endpoint: p.Endpoint, Changed: !p.Already, Principal: r.Principal, At: r.At, LostFrom: r.LostFrom}, "")
	}
	first := d.subscription + " is paused; it was pushed to " + p.Endpoint
	if p.Already {
		first = fmt.Sprintf("%s is paused already, by %s since %s; it was pushed to %s", d.subscription, r.Principal, times.exact(r.At), p.Endpoint)
	}
	lines := []string{first, "Its messages wait, and are lost from " + times.exact(r.LostFrom) + " on.", "Go on with: pushinbox delivery resume" + sameFlags(cmd)}
	if d.isCloud {
		lines = append(lines, "It takes minutes until the last push.")
		if d.key != "" {
			lines = append(lines, fmt.Sprintf("The next terraform apply resumes it, unless it has: paused = [%q]", d.key))
		}
	}
	return say(cmd, lines...)
}

func newResume() *cobra.Command {
	return changingDelivery(&cobra.Command{
		Use:   "resume",
		Short: "Push a paused subscription again, as it was",
		Long: `Push a paused subscription again, exactly as it was.

` + operateHelp + `

The push configuration comes from the record that pause wrote, its shared token from
Secret Manager with --terraform, else from --token-file or PUBSUB_VERIFICATION_TOKEN. If
there is no record, --terraform builds the configuration from Terraform's outputs.`,
		Example: `  pushinbox delivery resume
  pushinbox delivery resume --terraform terraform
  pushinbox delivery resume --project my-project --subscription inbox-push --token-file token.txt`,
	}, printResumed, func(ctx context.Context, d *operated) (*operations.Resumed, error) {
		return d.Resume(ctx, d.subscription, d.rebuild)
	})
}

func printResumed(cmd *cobra.Command, d *operated, times *clock, r *operations.Resumed) error {
	answer := pauseAnswer{Subscription: d.subscription, State: "delivering", Endpoint: r.Endpoint, Changed: !r.Already, Rebuilt: r.Rebuilt, Differs: r.Differs}
	if o := r.Operation; o != nil {
		answer.Principal, answer.At, answer.LostFrom = o.Principal, o.At, o.LostFrom
	}
	if wantsJSON(cmd) {
		return show(cmd, answer, "")
	}
	lines := []string{d.subscription + " is pushed to " + r.Endpoint + " again"}
	switch {
	case r.Already && r.Operation == nil:
		lines = []string{d.subscription + " is not paused; it is pushed to " + r.Endpoint}
	case r.Differs:
		lines = []string{d.subscription + " was resumed by other means, such as terraform apply: it is pushed to " + r.Endpoint + ", not as it was before the pause. It was left so, and the record of the pause is deleted."}
	case r.Already:
		lines = []string{d.subscription + " is pushed to " + r.Endpoint + " already; the record of the pause is deleted"}
	case r.Rebuilt:
		lines = append(lines, "There was no record of how it was; this is what Terraform's outputs say.")
	}
	if o := r.Operation; o != nil {
		lines = append(lines, fmt.Sprintf("It was paused by %s since %s.", o.Principal, times.exact(o.At)))
		if now := time.Now(); !o.LostFrom.IsZero() && o.LostFrom.Before(now) {
			lines = append(lines, "What had waited since before "+times.exact(o.LostFrom)+" may be lost: it was paused for longer than messages are kept.")
		}
	}
	return say(cmd, lines...)
}
