package stack

import (
	"cmp"
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"path/filepath"
	"strings"
	"time"

	mnsfunction "example.com/pushinbox/functions/mns"
	"example.com/pushinbox/local/mnsfake"
	"example.com/pushinbox/local/pushfake"
	"example.com/pushinbox/shared/httpapi"
	"example.com/pushinbox/shared/mns"
	"example.com/pushinbox/shared/problem"
)

const (
	// MNSPath is where the stand-in for MNS is, and MNSFunction the function.
	MNSPath     = "/local/mns"
	MNSFunction = "/mns"
	// SignPath is where a recorded push of MNS gets a signature.
	SignPath = "/local/sign"
	// MNSLog is the file in the data directory that the function logs to.
	MNSLog = "mns.log"
	// maxMNSLog is how long it may be, in bytes. The one before it is kept besides, as
	// mns.log.1.
	maxMNSLog = 10 << 20
)

// startMNS mounts the function mns and the stand-in whose pushes it trusts, and
// starts that one's pushing.
func (s *Stack) startMNS(context.Context) error {
	signer, err := mnsfake.NewSigner(cmp.Or(s.options.MNSKeyBits, 512))
	if err != nil {
		return err
	}
	s.mnsSigner = signer
	service, err := mnsfake.New(signer, &mnsfake.Options{OnPush: s.pushed})
	if err != nil {
		return err
	}
	verifier, err := mns.NewVerifier(&mns.VerifierOptions{Transport: signer.Transport()})
	if err != nil {
		return err
	}
	// As Cloud Logging would get it, for `pushinbox logs`.
	log, err := openLog(filepath.Join(s.options.Data, MNSLog), maxMNSLog)
	if err != nil {
		return dataError(s.options.Data, err)
	}
	s.onClose(MNSLog, log.Close)
	function, err := mnsfunction.New(s.options.mns(), verifier, s.store,
		slog.New(slog.NewMultiHandler(httpapi.NewLogger(log).Handler(), s.log("mns").Handler())))
	if err != nil {
		return err
	}
	s.handle(MNSFunction, function) // MNS signs the path as it is
	s.handle(MNSFunction+"/", function)
	// Its clients sign with an AccessKey in the header where a key would stand.
	s.handle(MNSPath+"/", http.StripPrefix(MNSPath, service))
	s.handle("POST "+SignPath, s.keyed(jsonBodies(sign(signer))))
	if s.MNSEndpoint, err = s.serveAlone("mns-port", s.options.MNSPort, service); err != nil {
		return err
	}
	s.background("the pushing of MNS", service.Run)
	return nil
}

// PushToSign is a push of MNS that was recorded and is to be sent again: its
// signature is of another day, and of another endpoint.
type PushToSign struct {
	Target string      `json:"target"` // path and query
	Header http.Header `json:"header"`
	Body   []byte      `json:"body"`
}

// sign answers with the headers that the push would have from the stand-in, now.
func sign(signer *mnsfake.Signer) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, err := httpapi.ReadBody(w, r, 4*mns.MaxBodySize, 1)
		if err != nil {
			httpapi.WriteError(w, err)
			return
		}
		var p PushToSign
		if err := json.Unmarshal(b, &p); err != nil || p.Header == nil || !strings.HasPrefix(p.Target, "/") {
			httpapi.WriteError(w, &problem.Error{Status: http.StatusBadRequest, Detail: "this is not a push to sign", Cause: err})
			return
		}
		signer.Sign(p.Header, http.MethodPost, p.Target, p.Body, time.Now())
		httpapi.WriteJSON(w, http.StatusOK, p.Header)
	})
}

// pushed reports a push of the stand-in.
func (s *Stack) pushed(p mnsfake.Push) {
	if s.options.OnDelivery != nil {
		s.options.OnDelivery(pushfake.Delivery{
			MessageID: p.MessageID, Attempt: p.Attempt, Status: p.Status, Err: p.Err, Acked: p.Done(),
			Duration: p.Duration, RetryIn: p.RetryIn,
		})
	}
}
