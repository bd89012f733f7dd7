// Package googleerror reads the errors of Google's REST APIs, in the form that all of
// them share, for those who ask without Google's clients.
package googleerror

import (
	"encoding/json"
	"fmt"
)

// Cause is a cause of an error that the status does not tell.
type Cause int

// The causes.
const (
	Other     Cause = iota // the status tells it
	Disabled               // the API is off
	Perimeter              // VPC Service Controls refused the call
)

// Error is an answer that is an error. Everything but Status and Cause is as the service
// wrote it, and may be empty.
type Error struct {
	Status  int
	Message string
	Cause   Cause
	// Service is the API that is off, and Consumer the project for which it is.
	Service, Consumer string
	// Violation is the unique ID of what VPC Service Controls refused.
	Violation string
	// Permission is the missing permission.
	Permission string
}

// Error returns the status and the message.
func (e *Error) Error() string { return fmt.Sprintf("%d %s", e.Status, e.Message) }

// Of returns the error of an answer. A body of another form says nothing more.
func Of(status int, body []byte) *Error {
	var answer struct {
		Error struct {
			Message string
			Details []struct {
				Reason     string
				Metadata   map[string]string
				Violations []struct{ Type, Description string }
			}
		}
	}
	_ = json.Unmarshal(body, &answer)
	e := &Error{Status: status, Message: answer.Error.Message}
	perimeter := func(id string) {
		if e.Cause == Other { // it is in two details, often
			e.Cause, e.Violation = Perimeter, id
		}
	}
	for _, d := range answer.Error.Details {
		switch {
		case d.Reason == "SERVICE_DISABLED" && e.Cause == Other:
			e.Cause, e.Service, e.Consumer = Disabled, d.Metadata["service"], d.Metadata["consumer"]
		case d.Reason == "SECURITY_POLICY_VIOLATED":
			perimeter(d.Metadata["uid"])
		}
		for _, v := range d.Violations {
			if v.Type == "VPC_SERVICE_CONTROLS" {
				perimeter(v.Description)
			}
		}
		if p := d.Metadata["permission"]; p != "" {
			e.Permission = p
		}
	}
	return e
}
