package inboxclient

import (
	"errors"
	"fmt"
	"net/http"
	"testing"
)

func TestDelivery(t *testing.T) {
	t.Parallel()
	status, body := http.StatusOK, `{"at":"2026-11-26T03:00:00Z","subscriptions":[{"name":"s","state":"paused","backlog":null,"lastHour":{"pushes":0}}],"refusals":[],"unknown":[]}`
	c, _ := newClient(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/delivery" || r.Header.Get("Accept") != "application/json" { // others get the page
			t.Errorf("%s, Accept %q", r.URL, r.Header.Get("Accept"))
		}
		w.WriteHeader(status)
		fmt.Fprint(w, body)
	}, nil)
	r, err := c.Delivery(t.Context())
	if err != nil || len(r.Subscriptions) != 1 || r.Subscriptions[0].Backlog != nil || *r.Subscriptions[0].LastHour.Pushes != 0 {
		t.Errorf("%+v, %v", r, err)
	}
	for _, body = range []string{"<html>", "{}", "null"} {
		if _, err := c.Delivery(t.Context()); !errors.Is(err, errAnswer) {
			t.Errorf("%s: %v", body, err)
		}
	}
	status = http.StatusNotFound
	if _, err := c.Delivery(t.Context()); !IsNotFound(err) {
		t.Errorf("404: %v", err)
	}
}
