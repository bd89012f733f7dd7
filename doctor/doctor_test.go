package doctor_test

import (
	"encoding/json"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"example.com/pushinbox/doctor"
	"example.com/pushinbox/doctor/doctortest"
)

// everything is the settings (HCL) with which nothing is off.
const everything = `
  calendar           = {}
  mns                = { topic_owners = ["1234567890123456"] }
  mns_secret         = "` + doctortest.Marker + `"
  verification_token = "` + doctortest.Marker + `"
  search_attributes  = ["tenant"]
`

// open is the settings (HCL) with which strangers reach receive, without allUsers, and
// every form is pushed.
const open = `
  receive_ingress    = "all"
  invoker_check_off  = true
  more_subscriptions = {
    inbox-bare = { form = "bare", filter = "attributes.kind = \"a\"" }
    inbox-new  = { form = "unwrapped", ack_deadline_seconds = 30 }
  }
`

// examine examines the world as Terraform's outputs tell it.
func examine(t *testing.T, w *doctortest.World) *doctor.Report {
	t.Helper()
	target, err := doctor.FromTerraform("terraform", w.Outputs)
	if err != nil {
		t.Fatal(err)
	}
	return report(t, w, target)
}

// byName examines the world by the name of a subscription.
func byName(t *testing.T, w *doctortest.World) *doctor.Report {
	t.Helper()
	target, err := doctor.Named(doctortest.Project, "inbox-push")
	if err != nil {
		t.Fatal(err)
	}
	return report(t, w, target)
}

func report(t *testing.T, w *doctortest.World, target *doctor.Target) *doctor.Report {
	t.Helper()
	r, err := doctor.Examine(t.Context(), doctor.Options{Google: w.Client(), Probe: w.Client(), Now: time.Now}, target)
	if err != nil {
		t.Fatal(err)
	}
	if unknown := w.Unknown(); len(unknown) > 0 {
		t.Errorf("the world was asked what it does not know: %v", unknown)
	}
	b, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(b), doctortest.Marker) {
		t.Errorf("the shared token is in %s", b)
	}
	return r
}

// not returns the findings that are not ok.
func not(r *doctor.Report) (bad, unknown []doctor.Finding) {
	for _, f := range r.Findings {
		switch f.Result {
		case doctor.Bad:
			bad = append(bad, f)
		case doctor.Unknown:
			unknown = append(unknown, f)
		}
	}
	return bad, unknown
}

func TestHealthy(t *testing.T) {
	t.Parallel()
	for name, settings := range map[string]string{
		"defaults":              "",
		"everything":            everything,
		"open_with_three_forms": open,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := doctortest.New(t, settings)
			for how, r := range map[string]*doctor.Report{"terraform": examine(t, w), "name": byName(t, w)} {
				if bad, unknown := not(r); len(bad)+len(unknown) > 0 {
					t.Errorf("by %s a healthy inbox has bad %+v and unknown %+v", how, bad, unknown)
				}
				if how == "terraform" && r.Count(doctor.OK) < len(doctor.Checks())-2 {
					t.Errorf("only %d checks say ok", r.Count(doctor.OK))
				}
			}
		})
	}
}

// printed are the commands of all findings so far; TestCommandsExist asks for them.
var printed sync.Map

// redirecting is Google that sends whoever asks elsewhere.
type redirecting struct{ t *testing.T }

func (g redirecting) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL.Host == "elsewhere.example" {
		g.t.Errorf("%s was followed", r.URL)
	}
	return &http.Response{
		StatusCode: http.StatusTemporaryRedirect, Header: http.Header{"Location": {"https://elsewhere.example/"}}, Body: http.NoBody, Request: r,
	}, nil
}

// TestNoRedirect: who follows one takes the credential along.
func TestNoRedirect(t *testing.T) {
	t.Parallel()
	target, err := doctor.Named(doctortest.Project, "inbox-push")
	if err != nil {
		t.Fatal(err)
	}
	google := &http.Client{Transport: redirecting{t}}
	probe := &http.Client{Transport: redirecting{t}, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	r, err := doctor.Examine(t.Context(), doctor.Options{Google: google, Probe: probe, Now: time.Now}, target)
	if err != nil || r.Count(doctor.Unknown) == 0 {
		t.Errorf("%+v, %v", r, err)
	}
}
