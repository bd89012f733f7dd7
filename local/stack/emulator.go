package stack

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"time"

	firestore "cloud.google.com/go/firestore/apiv1"
	"cloud.google.com/go/firestore/apiv1/firestorepb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"example.com/pushinbox/shared/firestoredial"
)

const (
	// emulatorPatience is how long an emulator may take to answer before a word is
	// said, and emulatorLimit how long when it accepted the connection: one that was
	// just started is slow.
	emulatorPatience = 2500 * time.Millisecond
	emulatorLimit    = 30 * time.Second
	// watchInterval is how often a running emulator is asked which run of it this
	// is, and watchTimeout how long it may take to answer.
	watchInterval = 500 * time.Millisecond
	watchTimeout  = 2 * time.Second
)

// emulator is one of Google's emulators that a local run uses.
type emulator struct {
	name, variable, host string
	// run tells one run of the emulator from another.
	run func(context.Context) (int64, error)
	log *slog.Logger

	current int64 // 0: not yet known
	// whole reports whether what restore creates is there; nil means always.
	whole func(context.Context) (bool, error)
}

// checkEmulatorHost says what to write where a value is not HOST:PORT.
func checkEmulatorHost(variable, value string) error {
	if value == "" {
		return nil
	}
	host := value
	if _, rest, found := strings.Cut(value, "://"); found {
		host = rest
	}
	host = strings.TrimRight(host, "/")
	_, port, err := net.SplitHostPort(host)
	if err == nil && port != "" && host == value && !strings.ContainsAny(value, "/@ ") {
		return nil
	}
	if err != nil || port == "" || strings.ContainsAny(host, "/@ ") {
		host = "localhost:8085"
	}
	return fmt.Errorf("%s %q is not HOST:PORT; write %s=%s, without http:// and path", variable, value, variable, host)
}

// connect waits until the emulator answers. Where nothing listens it fails at
// once.
func (e *emulator) connect(ctx context.Context) error {
	failed := func(err error) error {
		return fmt.Errorf("%s does not answer at %s=%s (%w); start it there, or unset %[2]s", e.name, e.variable, e.host, err)
	}
	err := accepts(ctx, e.host, emulatorPatience)
	if err != nil {
		return failed(err)
	}
	for _, limit := range []time.Duration{emulatorPatience, emulatorLimit} {
		call, cancel := context.WithTimeout(ctx, limit)
		e.current, err = e.run(call)
		cancel()
		switch status.Code(err) {
		case codes.DeadlineExceeded:
			e.log.Warn(fmt.Sprintf("%s at %s does not answer yet; waiting %v for it", e.name, e.host, emulatorLimit))
			continue
		case codes.Unavailable, codes.Unimplemented, codes.Canceled:
			return failed(err)
		}
		return nil // another error is one of the calls that follow, if it lasts
	}
	return failed(err)
}

// accepts returns an error unless somebody accepts connections at host in time.
func accepts(ctx context.Context, host string, patience time.Duration) error {
	conn, err := (&net.Dialer{Timeout: patience}).DialContext(ctx, "tcp", host)
	if err != nil {
		return err
	}
	return conn.Close()
}

// watch says, once each, when the emulator stops answering, answers again or was
// restarted, until ctx ends. After a restart it calls restore, if not nil, until
// that succeeds. lost is what a restart means.
func (e *emulator) watch(ctx context.Context, lost string, restore func(context.Context) error) {
	down := e.current == 0
	for tick := time.Tick(watchInterval); ; {
		select {
		case <-ctx.Done():
			return
		case <-tick:
		}
		call, cancel := context.WithTimeout(ctx, watchTimeout)
		run, err := e.run(call)
		whole := true
		if err == nil && e.whole != nil {
			whole, err = e.whole(call)
		}
		cancel()
		switch code := status.Code(err); {
		case ctx.Err() != nil:
			return
		case code == codes.Unavailable || code == codes.DeadlineExceeded:
			if !down {
				down = true
				e.log.Error(fmt.Sprintf("%s at %s does not answer; what needs it is tried again until it does", e.name, e.host), "err", err)
			}
			continue
		case err != nil:
			continue
		case e.current != 0 && run != e.current || !whole:
			if restore != nil {
				if err := restore(ctx); err != nil {
					if ctx.Err() == nil && !down {
						down = true
						e.log.Error(fmt.Sprintf("%s at %s has lost its topics and subscriptions, and they cannot be created yet", e.name, e.host), "err", err)
					}
					continue
				}
			}
			happened := "was restarted"
			if run == e.current {
				happened = "has lost a subscription"
			}
			e.log.Warn(fmt.Sprintf("%s at %s %s: %s", e.name, e.host, happened, lost))
		case down:
			e.log.Warn(fmt.Sprintf("%s at %s answers", e.name, e.host))
		}
		down, e.current = false, run
	}
}

// firestoreRun returns what reads, and first writes, the document in Firestore's
// emulator that says which run of it this is. An emulator that exports its data and
// imports it again keeps it.
func firestoreRun(client *firestore.Client, database string) func(context.Context) (int64, error) {
	const collection, id, field = "pushinbox-run", "run", "startedAt"
	parent := database + "/documents"
	get := func(ctx context.Context) (*firestorepb.Document, error) {
		return client.GetDocument(ctx, &firestorepb.GetDocumentRequest{Name: parent + "/" + collection + "/" + id})
	}
	return func(ctx context.Context) (int64, error) {
		document, err := get(ctx)
		if status.Code(err) == codes.NotFound {
			now := &firestorepb.Value{ValueType: &firestorepb.Value_IntegerValue{IntegerValue: time.Now().UnixMicro()}}
			document, err = client.CreateDocument(ctx, &firestorepb.CreateDocumentRequest{
				Parent: parent, CollectionId: collection, DocumentId: id,
				Document: &firestorepb.Document{Fields: map[string]*firestorepb.Value{field: now}},
			})
		}
		if status.Code(err) == codes.AlreadyExists { // another process was faster
			document, err = get(ctx)
		}
		if err != nil {
			return 0, err
		}
		return document.Fields[field].GetIntegerValue(), nil
	}
}

// connectFirestore waits for Firestore's emulator and begins to watch it. The run
// goes on without it: what happens when Firestore is down can be tried so.
func (s *Stack) connectFirestore(ctx context.Context) error {
	o := s.options
	client, err := firestore.NewClient(ctx, firestoredial.Options(o.FirestoreEmulator)...)
	if err != nil {
		return err
	}
	s.onClose("the client of Firestore's emulator", client.Close)
	client.CallOptions = &firestore.CallOptions{} // the generated ones repeat calls for a minute
	e := &emulator{
		name: "Firestore's emulator", variable: "FIRESTORE_EMULATOR_HOST", host: o.FirestoreEmulator, log: s.log("firestore"),
		run: firestoreRun(client, "projects/"+o.Project+"/databases/"+o.Database),
	}
	if err := e.connect(ctx); err != nil {
		e.log.Error(err.Error() + "; until then nothing can be stored")
	}
	s.background("the watch of Firestore's emulator", func(ctx context.Context) {
		e.watch(ctx, "what it had stored is gone", nil)
	})
	return nil
}
