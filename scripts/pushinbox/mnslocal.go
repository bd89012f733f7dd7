package main

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	mnsfunction "example.com/pushinbox/functions/mns"
	"example.com/pushinbox/local/mnsfake"
	"example.com/pushinbox/local/pushfake"
	"example.com/pushinbox/shared/httpapi"
	"example.com/pushinbox/shared/inbox"
	"example.com/pushinbox/shared/mns"
	"example.com/pushinbox/shared/problem"
)

const (
	// mnsPath is where the stand-in for MNS is, and mnsFunction the function.
	mnsPath     = "/local/mns"
	mnsFunction = "/mns"
	// signPath is where a recorded push of MNS gets a signature.
	signPath = "/local/sign"
	// mnsLog is the file in --data that the function logs to.
	mnsLog = "mns.log"
)

// localMNS is the function mns, and a stand-in for the service whose pushes it
// trusts.
type localMNS struct {
	signer   *mnsfake.Signer
	service  *mnsfake.Server
	function http.Handler
	log      *os.File
	stop     func() // ends the pushing; what is under way is answered
}

// openMNS starts the stand-in's pushing. Whoever calls it stops that, and closes
// the log.
func (l *local) openMNS(store inbox.Inbox) (*localMNS, error) {
	signer, err := mnsfake.NewSigner(nil)
	if err != nil {
		return nil, err
	}
	m := &localMNS{signer: signer}
	if m.service, err = mnsfake.New(signer, &mnsfake.Options{OnPush: l.pushed}); err != nil {
		return nil, err
	}
	verifier, err := mns.NewVerifier(&mns.VerifierOptions{Transport: signer.Transport()})
	if err != nil {
		return nil, err
	}
	// The log of this run, as Cloud Logging would get it, for `pushinbox logs`.
	if m.log, err = os.OpenFile(filepath.Join(l.data, mnsLog), os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600); err != nil {
		return nil, dataError(l.data, err)
	}
	m.function, err = mnsfunction.New(mnsfunction.Config{
		Project: l.settings.Project, Owners: []string{mnsfake.Owner}, Secret: l.settings.MNSSecret, Body: l.settings.MNSBody,
	}, verifier, store, slog.New(slog.NewMultiHandler(httpapi.NewLogger(m.log).Handler(), l.log("mns").Handler())))
	if err != nil {
		_ = m.log.Close()
		return nil, usageError{err}
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() { m.service.Run(ctx); close(ended) }()
	m.stop = func() { cancel(); <-ended }
	return m, nil
}

// mount serves the function and the stand-in.
func (m *localMNS) mount(mux *http.ServeMux) {
	mux.Handle(mnsFunction, m.function)
	mux.Handle(mnsFunction+"/", m.function)
	mux.Handle(mnsPath+"/", guarded(http.StripPrefix(mnsPath, m.service)))
	mux.Handle("POST "+signPath, guarded(http.HandlerFunc(m.sign)))
}

// pushToSign is a push of MNS that was recorded and is to be sent again: its
// signature is of another day, and of another endpoint.
type pushToSign struct {
	Target string      `json:"target"` // path and query
	Header http.Header `json:"header"`
	Body   []byte      `json:"body"`
}

// sign answers with the headers that the push would have from the stand-in, now.
func (m *localMNS) sign(w http.ResponseWriter, r *http.Request) {
	b, err := httpapi.ReadBody(w, r, 4*mns.MaxBodySize, 1)
	if err != nil {
		httpapi.WriteError(w, err)
		return
	}
	var p pushToSign
	if err := json.Unmarshal(b, &p); err != nil || p.Header == nil || !strings.HasPrefix(p.Target, "/") {
		httpapi.WriteError(w, &problem.Error{Status: http.StatusBadRequest, Detail: "this is no push to sign", Cause: err})
		return
	}
	m.signer.Sign(p.Header, http.MethodPost, p.Target, p.Body, time.Now())
	httpapi.WriteJSON(w, http.StatusOK, p.Header)
}

// pushed prints a push of the stand-in.
func (l *local) pushed(p mnsfake.Push) {
	l.delivered(pushfake.Delivery{
		MessageID: p.MessageID, Attempt: p.Attempt, Status: p.Status, Err: p.Err, Acked: p.Done(),
		Duration: p.Duration, RetryIn: p.RetryIn,
	})
}
