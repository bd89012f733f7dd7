package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/api/option"
	googlehttp "google.golang.org/api/transport/http"

	"example.com/pushinbox/doctor"
	"example.com/pushinbox/local/checkup"
	"example.com/pushinbox/local/stack"
	"example.com/pushinbox/shared/delivery"
)

// exitUnknown is doctor's exit code where nothing is bad and something is unknown.
const exitUnknown = programExit(3)

// defaultTerraform is the module's folder where none is named.
const defaultTerraform = "terraform"

// connector returns a client with the caller's credentials for Google, and one without.
type connector func(context.Context) (google, probe *http.Client, err error)

func newDoctor() *cobra.Command { return doctorCommand(defaultClients) }

func doctorCommand(connect connector) *cobra.Command {
	var dir, project, subscription, data string
	var local bool
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Find what is wrong with an inbox, and the command that fixes it",
		Long: `Find what is wrong with an inbox, and the command that fixes it.

It reads the whole way of a message from Google, with your own credentials (those of
"gcloud auth application-default login"): project, subscriptions, accounts and grants, the
function receive, Firestore, dead letters, numbers, schedules. It compares that with what
Terraform wants; where you name a subscription instead, it compares the parts with each
other. It takes less than 15 seconds and changes nothing: besides reading, it sends receive
one request without a token.

Each finding says what was seen, what follows from it, and the command that fixes it. What
cannot be found out is "unknown", with the missing permission or the finding that explains
it. roles/viewer and roles/iam.securityReviewer show you nearly all of it.

--local checks the running "pushinbox local" in the same way: that it answers, its data
directory, disk, ports, clock and emulators, where programs publish, and each subscription
whose endpoint refuses, and why.

Exit codes: 0 all is well, 1 something is bad, 2 wrong call, 3 nothing is bad, but
something is unknown.`,
		Example: `  pushinbox doctor                         # the inbox of the module in ./terraform
  pushinbox doctor --terraform ../infra/inbox
  pushinbox doctor --project my-project --subscription inbox-push
  pushinbox doctor --local
  pushinbox doctor --format json | jq -r '.findings[] | select(.result == "bad") | .command'`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if local || data != "" {
				if dir+project+subscription != "" {
					return usageError{errors.New("--local does not go with --terraform, --project and --subscription: it checks this machine")}
				}
				return tell(cmd, checkup.Examine(cmd.Context(), checkup.Options{Data: data, Getenv: os.Getenv, Now: time.Now, DefaultURL: defaultAddress}))
			}
			target, err := doctorTarget(cmd.Context(), dir, project, subscription)
			if err != nil {
				return err
			}
			google, probe, err := connect(cmd.Context())
			if err != nil {
				return err
			}
			report, err := doctor.Examine(cmd.Context(), doctor.Options{Google: google, Probe: probe, Now: time.Now}, target)
			if err != nil {
				return err
			}
			return tell(cmd, report)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&dir, "terraform", "", "the folder of the Terraform module that made the inbox; by default ./terraform, if it is there")
	flags.StringVar(&project, "project", "", "in place of --terraform: the project of the function receive")
	flags.StringVar(&subscription, "subscription", "", "with --project: the name of the push subscription, full if it is of another project")
	flags.BoolVar(&local, "local", false, "check the pushinbox local on this machine")
	flags.StringVar(&data, "data", "", "with --local: the `DIRECTORY` that the pushinbox local has its --data in; by default the nearest "+stack.DefaultData+" from here upwards")
	formatFlag(cmd)
	return cmd
}

// doctorTarget returns the inbox that the flags name.
func doctorTarget(ctx context.Context, dir, project, subscription string) (*doctor.Target, error) {
	switch {
	case dir != "" && project+subscription != "":
		return nil, usageError{errors.New("give --terraform, or --project and --subscription: each says which inbox is meant")}
	case (project == "") != (subscription == ""):
		return nil, usageError{errors.New("--project and --subscription go together")}
	case project != "":
		target, err := doctor.Named(project, subscription)
		if err != nil {
			return nil, usageError{err}
		}
		return target, nil
	case dir == "":
		if found, _ := filepath.Glob(filepath.Join(defaultTerraform, "*.tf")); len(found) == 0 {
			return nil, usageError{errors.New("there is no Terraform module in ./terraform; give --terraform DIR, or --project and --subscription, or --local for the running pushinbox local")}
		}
		dir = defaultTerraform
	}
	printed, err := terraformOutput(ctx, dir)
	if err != nil {
		return nil, err
	}
	return doctor.FromTerraform(dir, printed)
}

// defaultClients uses the application default credentials.
func defaultClients(ctx context.Context) (google, probe *http.Client, err error) {
	google, _, err = googlehttp.NewClient(ctx, option.WithScopes("https://www.googleapis.com/auth/cloud-platform"))
	if err != nil {
		return nil, nil, fmt.Errorf("no credentials for Google: run `gcloud auth application-default login`, or set GOOGLE_APPLICATION_CREDENTIALS: %w", err)
	}
	probe = &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	return google, probe, nil
}

// tell prints a report, and returns the exit code that it comes to.
func tell(cmd *cobra.Command, r *doctor.Report) error {
	if wantsJSON(cmd) {
		if err := show(cmd, r, ""); err != nil {
			return err
		}
	} else if err := tellText(cmd.OutOrStdout(), r); err != nil {
		return err
	}
	switch {
	case r.Count(doctor.Bad) > 0:
		return programExit(exitFailed)
	case r.Count(doctor.Unknown) > 0:
		return exitUnknown
	}
	return nil
}

// tellText prints what is bad and what is unknown in full, and what is ok in short.
func tellText(w io.Writer, r *doctor.Report) error {
	t := terminalOf(w)
	var b strings.Builder
	line := func(label, text string) {
		if text != "" {
			fmt.Fprintf(&b, "      %s %s\n", t.paint(dim, pad(label, 12)), visible(text))
		}
	}
	all, names := make(map[string]int), make(map[string][]string)
	for _, f := range r.Findings {
		all[f.Check]++
		if f.Result == doctor.OK && f.On != "" {
			names[f.Check] = append(names[f.Check], f.On[strings.LastIndex(f.On, "/")+1:])
		}
	}
	var fine []string // each check once, with the names where it is of several things
	for _, f := range r.Findings {
		switch f.Result {
		case doctor.OK:
			switch of := names[f.Check]; {
			case all[f.Check] == 1 || len(of) == 0:
				if !slices.Contains(fine, f.Check) {
					fine = append(fine, f.Check)
				}
			case of[0] != "":
				fine = append(fine, fmt.Sprintf("%s (%s)", f.Check, strings.Join(of, ", ")))
				of[0] = "" // it is written
			}
			continue
		case doctor.Bad:
			fmt.Fprintf(&b, "%s %s: %s\n", t.paint(red, pad("BAD", 5)), visible(where(f)), visible(f.What))
		case doctor.Unknown:
			fmt.Fprintf(&b, "%s %s: %s\n", t.paint(cyan, pad("?", 5)), visible(where(f)), visible(f.What))
		}
		line("seen", f.Evidence)
		line("follows", f.Consequence)
		if f.Because != "" {
			line("because of", f.Because)
		}
		if f.Command != "" {
			// Whole, to be copied: what is hidden on a terminal is written out.
			fmt.Fprintf(&b, "      %s %s\n", t.paint(dim, pad("run", 12)), visibleWhole(f.Command))
		}
	}
	if len(fine) > 0 {
		fmt.Fprintf(&b, "%s %s\n", pad("ok", 5), visible(strings.Join(fine, ", ")))
	}
	fmt.Fprintf(&b, "\n%s: %s, %s, %s\n", visible(r.Project), many(r.Count(doctor.Bad), "finding"), delivery.Count(r.Count(doctor.Unknown))+" unknown", delivery.Count(r.Count(doctor.OK))+" ok")
	_, err := io.WriteString(w, b.String())
	return err
}

// where names a check and what it is of.
func where(f doctor.Finding) string {
	if f.On == "" {
		return f.Check
	}
	return f.Check + ", " + f.On
}

// visibleWhole is visible for a text that must not be cut.
func visibleWhole(s string) string {
	var b strings.Builder
	for _, r := range s {
		writeVisible(&b, r)
	}
	return b.String()
}
