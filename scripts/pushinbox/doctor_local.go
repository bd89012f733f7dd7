package main

import (
	"context"
	"os"
	"time"

	"example.com/pushinbox/doctor"
	"example.com/pushinbox/local/checkup"
)

// doctorLocal finds what is wrong with a pushinbox local on this machine: the one that
// has its data in a directory, or the one that is found.
func doctorLocal(ctx context.Context, data string) *doctor.Report {
	found := checkup.Examine(ctx, checkup.Options{
		Data: data, Getenv: os.Getenv, Now: time.Now, DefaultURL: defaultAddress,
	})
	r := &doctor.Report{At: found.At, Project: found.Project, Subscriptions: found.Subscriptions, Findings: []doctor.Finding{}}
	for _, f := range found.Findings {
		r.Findings = append(r.Findings, doctor.Finding{
			Check: f.Check, On: f.On, Result: doctor.Result(f.Result), What: f.What,
			Evidence: f.Evidence, Consequence: f.Consequence, Command: f.Command, Because: f.Because,
		})
	}
	return r
}
