package calendar

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	gcal "google.golang.org/api/calendar/v3"
	"google.golang.org/api/googleapi"
)

// TestActsForSubject reads a calendar as a user, by domain-wide delegation: the
// function's own account, whose token comes from the metadata server, has a
// claim to be the user signed by Google, and trades it for the user's token. All
// of Google's servers are stood in for by one that checks what each is asked.
func TestActsForSubject(t *testing.T) {
	const account, subject = "inbox-calendar@p.iam.gserviceaccount.com", "rooms@example.com"
	metadataServer := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Metadata-Flavor", "Google")
		switch {
		case strings.HasSuffix(r.URL.Path, "/service-accounts/default/email"):
			_, _ = io.WriteString(w, account)
		case strings.HasSuffix(r.URL.Path, "/service-accounts/default/token"):
			w.Header().Set("Content-Type", "application/json")
			_, _ = io.WriteString(w, `{"access_token":"of-the-function","token_type":"Bearer","expires_in":3600}`)
		case strings.HasSuffix(r.URL.Path, "/universe/universe-domain"):
			_, _ = io.WriteString(w, "googleapis.com")
		default:
			http.NotFound(w, r)
		}
	}))
	defer metadataServer.Close()
	home := t.TempDir()
	for name, value := range map[string]string{
		"GCE_METADATA_HOST": strings.TrimPrefix(metadataServer.URL, "http://"), "GOOGLE_APPLICATION_CREDENTIALS": "", "HOME": home, "CLOUDSDK_CONFIG": home,
	} {
		t.Setenv(name, value)
	}

	asked := map[string]int{}
	forbidden := false
	google := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked[r.Host]++
		w.Header().Set("Content-Type", "application/json")
		bearer := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
		switch r.Host {
		case "iamcredentials.googleapis.com":
			var body struct{ Payload string }
			var claims struct{ Iss, Sub, Scope string }
			if err := json.NewDecoder(r.Body).Decode(&body); err != nil {
				t.Error(err)
			}
			if err := json.Unmarshal([]byte(body.Payload), &claims); err != nil {
				t.Error(err)
			}
			if bearer != "of-the-function" || !strings.HasSuffix(r.URL.Path, "/"+account+":signJwt") ||
				claims.Iss != account || claims.Sub != subject || claims.Scope != gcal.CalendarEventsReadonlyScope {
				t.Errorf("signJwt is asked by %q at %s for %+v", bearer, r.URL.Path, claims)
			}
			_, _ = io.WriteString(w, `{"signedJwt":"signed"}`)
		case "oauth2.googleapis.com":
			if err := r.ParseForm(); err != nil || r.Form.Get("assertion") != "signed" {
				t.Errorf("the token is asked for with %v", r.Form)
			}
			if forbidden {
				w.WriteHeader(http.StatusUnauthorized)
				_, _ = io.WriteString(w, `{"error":"unauthorized_client"}`)
				return
			}
			_, _ = io.WriteString(w, `{"access_token":"of-the-user","token_type":"Bearer","expires_in":3600}`)
		case "www.googleapis.com":
			if bearer != "of-the-user" {
				t.Errorf("the calendar is read with the token %q", bearer)
			}
			_, _ = io.WriteString(w, `{"items":[{"id":"1"}],"nextSyncToken":"s"}`)
		default:
			t.Errorf("a request to %s", r.Host)
		}
	}))
	defer google.Close()
	transport := http.DefaultTransport.(*http.Transport)
	before := transport.DialTLSContext
	transport.DialTLSContext = func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, google.Listener.Addr().String())
	}
	defer func() { transport.DialTLSContext = before }()

	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	service, err := googleCalendar(ctx, subject)
	if err != nil {
		t.Fatal(err)
	}
	events, err := service.Events.List(subject).Context(ctx).Do()
	if err != nil || len(events.Items) != 1 {
		t.Fatalf("listed %+v, %v", events, err)
	}
	for _, host := range []string{"iamcredentials.googleapis.com", "oauth2.googleapis.com", "www.googleapis.com"} {
		if asked[host] != 1 {
			t.Errorf("%s is asked %d times", host, asked[host])
		}
	}

	// A delegation that is not allowed is a refusal, and not an outage to be
	// sat out.
	forbidden = true
	if service, err = googleCalendar(ctx, subject); err != nil {
		t.Fatal(err)
	}
	_, err = service.Events.List(subject).Context(ctx).Do()
	if refused := (*googleapi.Error)(nil); !errors.As(err, &refused) || refused.Code != http.StatusUnauthorized || !strings.Contains(refused.Message, "unauthorized_client") {
		t.Errorf("without delegation: %v", err)
	}
}
