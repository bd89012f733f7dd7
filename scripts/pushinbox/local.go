package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"cloud.google.com/go/pubsub/v2"
	"cloud.google.com/go/pubsub/v2/apiv1/pubsubpb"
	"github.com/spf13/cobra"

	"example.com/pushinbox/functions/console"
	"example.com/pushinbox/functions/publish"
	"example.com/pushinbox/functions/receive"
	"example.com/pushinbox/local/boltinbox"
	"example.com/pushinbox/local/pushfake"
	"example.com/pushinbox/shared/inbox"
	"example.com/pushinbox/shared/inbox/firestoreinbox"
	"example.com/pushinbox/shared/mns"
	"example.com/pushinbox/shared/publisher"
	"example.com/pushinbox/shared/settings"
	"example.com/pushinbox/shared/verify"
)

// localSettings are the variables that a local run reads, where they mean
// anything here. The rest of production's settings is made up.
type localSettings struct {
	Project           string        `env:"GOOGLE_CLOUD_PROJECT" envDefault:"local"`
	Topic             string        `env:"PUBSUB_TOPIC,notEmpty" envDefault:"inbox"`
	Database          string        `env:"FIRESTORE_DATABASE,notEmpty" envDefault:"(default)"`
	Collection        string        `env:"INBOX_COLLECTION,notEmpty" envDefault:"messages"`
	Shards            int           `env:"INBOX_SHARDS" envDefault:"16"`
	TTL               time.Duration `env:"INBOX_TTL" envDefault:"720h"`
	VerificationToken string        `env:"PUBSUB_VERIFICATION_TOKEN"`
	MNSSecret         string        `env:"MNS_SECRET"`
	MNSBody           mns.Encoding  `env:"MNS_BODY" envDefault:"raw"`
	PubSubEmulator    string        `env:"PUBSUB_EMULATOR_HOST"`
	FirestoreEmulator string        `env:"FIRESTORE_EMULATOR_HOST"`
}

// Validate has nothing to add: what uses a setting checks it.
func (localSettings) Validate() error { return nil }

// shutdownGrace is how long Ctrl-C waits for requests that are under way.
const shutdownGrace = 3 * time.Second

func newLocal() *cobra.Command {
	l := local{pushes: terraformDefaults}
	cmd := &cobra.Command{
		Use:   "local",
		Short: "Run everything on this machine: Pub/Sub, signed push, the functions, the inbox",
		Long: `Run everything on this machine, in one process: a Pub/Sub with the topic, the
push subscription and the dead-letter topic that Terraform makes, a token
issuer, a dispatcher that pushes signed, and the functions as in production,
only with the issuer's keys in place of Google's.

Messages are kept in --data and survive a restart and a kill -9. What was
published but not yet delivered is lost when the process ends: the Pub/Sub in
it lives in memory, as does all that the stand-in for MNS has.

A stand-in for Alibaba MNS is at /local/mns, with the AccessKey "local" whose
secret is "local" too, and pushes to /mns; see "pushinbox mns --help". What the
function logs of this run is in mns.log in --data, for "pushinbox logs".
MNS_SECRET and MNS_BODY are the function's, as when it is deployed.

Pushes are retried, become dead letters and are ordered as Terraform's defaults
have it; --max-attempts, --retry-backoff, --ack-deadline and --ordering set that
otherwise.

PUBSUB_EMULATOR_HOST and FIRESTORE_EMULATOR_HOST take Google's emulators in
place of the Pub/Sub in this process and of the file in --data. A subscription
that Pub/Sub's emulator has already stays as it is.`,
		Example: `  pushinbox local
  pushinbox local --port 9000 --data /tmp/inbox
  pushinbox local --max-attempts 5 --retry-backoff 1s,5s
  pushinbox local --format json | jq .status`,
		Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := settings.Parse[localSettings](nil)
			if err != nil {
				return usageError{err}
			}
			l.settings, l.out = s, cmd.OutOrStdout()
			return l.run(cmd.Context())
		},
	}
	cmd.Flags().IntVar(&l.port, "port", 8080, "the port to listen on, on 127.0.0.1; 0 takes a free one")
	cmd.Flags().StringVar(&l.data, "data", ".local", "the directory that keeps the messages")
	l.pushes.flags(cmd)
	cmd.Flags().BoolVar(&l.quiet, "quiet", false, "print no line for each delivery")
	formatFlag(cmd, &l.format)
	return cmd
}

// local is one run of everything.
type local struct {
	port     int
	data     string
	quiet    bool
	format   string
	pushes   pushSettings
	settings localSettings
	out      io.Writer
	outMu    sync.Mutex
}

func (l *local) run(ctx context.Context) (err error) {
	// The port comes first: it tells soonest that another one is running.
	listener, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", l.port))
	if errors.Is(err, syscall.EADDRINUSE) {
		return fmt.Errorf("port %d is taken; stop what listens there, or choose another with --port", l.port)
	}
	if err != nil {
		return fmt.Errorf("cannot listen on port %d: %w", l.port, err)
	}
	defer listener.Close()
	base := "http://" + listener.Addr().String()

	store, where, err := l.openInbox(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, store.Close()) }()

	issuer, err := pushfake.NewIssuer(nil)
	if err != nil {
		return err
	}
	pubSub, err := l.startPubSub(ctx, l.endpoint(base), issuer, l.delivered, l.subscription(base))
	if err != nil {
		return err
	}
	l.pushes = pubSub.pushes
	calendars, err := l.openCalendar(ctx, base, issuer, store)
	if err != nil {
		return errors.Join(err, pubSub.stop())
	}
	defer func() { err = errors.Join(err, calendars.state.Close()) }()
	alibaba, err := l.openMNS(store)
	if err != nil {
		return errors.Join(err, pubSub.stop(), calendars.pubSub.stop())
	}
	defer func() { err = errors.Join(err, alibaba.log.Close()) }()
	stopPushing := func() error {
		alibaba.stop()
		return errors.Join(pubSub.stop(), calendars.pubSub.stop())
	}
	handler, err := l.functions(base, issuer, store, pubSub.topic, calendars, alibaba)
	if err != nil {
		return errors.Join(err, stopPushing())
	}
	serving, endServing := context.WithCancel(context.Background())
	defer endServing()
	silent := &silentConns{conns: make(map[net.Conn]bool)}
	server := &http.Server{
		ConnState:         silent.note,
		Handler:           handler,
		ReadHeaderTimeout: 10 * time.Second,
		ErrorLog:          slog.NewLogLogger(l.log("http").Handler(), slog.LevelWarn),
		BaseContext:       func(net.Listener) context.Context { return serving },
	}
	server.RegisterOnShutdown(silent.close)
	l.banner(base, where)
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	syncing, endSyncing := context.WithCancel(ctx)
	synced := make(chan struct{})
	go func() { calendars.run(syncing, l); close(synced) }()
	defer func() { endSyncing(); <-synced }()
	select {
	case err = <-served:
	case <-ctx.Done():
	}
	// The pushing ends while pushes are still answered. Live tails would not
	// end by themselves.
	err = errors.Join(err, stopPushing())
	endServing()
	grace, cancel := context.WithTimeout(context.Background(), shutdownGrace)
	defer cancel()
	if server.Shutdown(grace) != nil {
		err = errors.Join(err, fmt.Errorf("requests were still under way after %v and were cut off", shutdownGrace))
	}
	return err
}

// silentConns are the connections over which nothing was asked yet. Browsers and
// transports open some ahead of use, and Shutdown takes each for a request under
// way until it is five seconds old.
type silentConns struct {
	mu    sync.Mutex
	conns map[net.Conn]bool
}

func (s *silentConns) note(c net.Conn, state http.ConnState) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if state == http.StateNew {
		s.conns[c] = true
	} else {
		delete(s.conns, c)
	}
}

func (s *silentConns) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		_ = c.Close()
	}
}

// openInbox opens the inbox and says where it is, for people.
func (l *local) openInbox(ctx context.Context) (inbox.Inbox, string, error) {
	s := l.settings
	if s.FirestoreEmulator != "" {
		in, err := firestoreinbox.Open(ctx, firestoreinbox.Config{
			Project: s.Project, Database: s.Database, Collection: s.Collection, Shards: s.Shards, TTL: s.TTL,
			EmulatorHost: s.FirestoreEmulator,
		})
		return in, "Firestore's emulator at " + s.FirestoreEmulator + ", collection " + s.Collection, err
	}
	if err := os.MkdirAll(l.data, 0o700); err != nil {
		return nil, "", dataError(l.data, err)
	}
	file := filepath.Join(l.data, "inbox.db")
	in, err := boltinbox.Open(file, &boltinbox.Options{TTL: s.TTL})
	if errors.Is(err, boltinbox.ErrLocked) {
		return nil, "", fmt.Errorf("another pushinbox local uses %s; stop it, or choose another directory with --data", l.data)
	}
	if err != nil {
		return nil, "", dataError(l.data, err)
	}
	return in, file, nil
}

func dataError(dir string, err error) error {
	if errors.Is(err, fs.ErrPermission) || errors.Is(err, syscall.ENOTDIR) || errors.Is(err, fs.ErrExist) || errors.Is(err, syscall.EROFS) {
		return fmt.Errorf("cannot keep messages in %s: %w; choose another directory with --data", dir, err)
	}
	return err
}

// endpoint is where messages are pushed. The path says their form.
func (l *local) endpoint(base string) string {
	endpoint := base + "/receive/wrapped"
	if l.settings.VerificationToken != "" {
		endpoint += "?token=" + url.QueryEscape(l.settings.VerificationToken)
	}
	return endpoint
}

// subscription is the inbox's.
func (l *local) subscription(base string) *pubsubpb.Subscription {
	project := "projects/" + l.settings.Project
	return l.pushes.subscription(project+"/topics/"+l.settings.Topic, project+"/subscriptions/"+l.settings.Topic+"-push", signedPush(base+"/receive"))
}

// signedPush has pushes signed by the push account.
func signedPush(audience string) *pubsubpb.PushConfig {
	return &pubsubpb.PushConfig{AuthenticationMethod: &pubsubpb.PushConfig_OidcToken_{
		OidcToken: &pubsubpb.PushConfig_OidcToken{ServiceAccountEmail: pushAccount, Audience: audience},
	}}
}

// localPubSub is a topic whose messages are pushed.
type localPubSub struct {
	topic *publisher.Publisher
	// pushes are the settings in force, which are another's where the
	// subscription was there already.
	pushes pushSettings
	stop   func() error
}

// startPubSub starts a Pub/Sub and the pushing of a subscription of its topic,
// and tells delivered of it unless that is nil.
func (l *local) startPubSub(ctx context.Context, endpoint string, issuer *pushfake.Issuer, delivered func(pushfake.Delivery), sub *pubsubpb.Subscription) (*localPubSub, error) {
	s := l.settings
	var client *pubsub.Client
	if s.PubSubEmulator != "" {
		var err error
		if client, err = pubsub.NewClient(ctx, s.Project); err != nil {
			return nil, err
		}
	}
	server, err := pushfake.Start(ctx, endpoint, &pushfake.ServerOptions{
		Client:       client,
		Subscription: sub,
		Dispatcher: pushfake.Options{
			Issuer:     issuer,
			OnDelivery: delivered,
			OnError:    func(err error) { l.log("pubsub").Error(err.Error()) },
		},
	})
	if err != nil {
		if client != nil {
			err = errors.Join(fmt.Errorf("Pub/Sub's emulator at %s: %w", s.PubSubEmulator, err), client.Close())
		}
		return nil, err
	}
	stop := server.Close
	if client != nil {
		stop = func() error { return errors.Join(server.Close(), client.Close()) }
	}
	inForce, err := server.Client.SubscriptionAdminClient.GetSubscription(ctx, &pubsubpb.GetSubscriptionRequest{Subscription: server.Subscription})
	if err != nil {
		return nil, errors.Join(err, stop())
	}
	topic, err := publisher.New(server.Client, server.Topic)
	if err != nil {
		return nil, errors.Join(err, stop())
	}
	return &localPubSub{topic, settingsOf(inForce), stop}, nil
}

// functions mounts the functions, each made by the constructor that production
// uses. Only the keys are the issuer's.
func (l *local) functions(base string, issuer *pushfake.Issuer, store inbox.Inbox, topic *publisher.Publisher, calendars *localCalendar, alibaba *localMNS) (http.Handler, error) {
	s := l.settings
	verifier, err := verify.New(&verify.Options{Transport: issuer.Transport()})
	if err != nil {
		return nil, err
	}
	publishing, err := publish.New(publish.Config{
		Project: s.Project, Topic: s.Topic, Audience: base + "/publish", Callers: []string{publishCaller},
	}, verifier, topic, l.log("publish"))
	if err != nil {
		return nil, err
	}
	receiving, err := receive.New(receive.Config{
		Project: s.Project, Audience: base + "/receive", ServiceAccount: pushAccount, VerificationToken: s.VerificationToken,
		AckDeadline: l.pushes.AckDeadline,
	}, verifier, store, l.log("receive"))
	if err != nil {
		return nil, err
	}
	reading, err := console.New(console.Config{
		Project: s.Project, Topic: s.Topic, Audience: base + "/", IAPAudience: iapAudience,
		Readers: []string{developer}, Publishers: []string{developer},
	}, verifier, store, topic, l.log("console"))
	if err != nil {
		return nil, err
	}
	mux := http.NewServeMux()
	for path, h := range map[string]http.Handler{"/publish": publishing, "/receive": receiving} {
		mux.Handle(path, http.StripPrefix(path, h))
		mux.Handle(path+"/", http.StripPrefix(path, h))
	}
	if err := calendars.mount(mux, l, base, verifier); err != nil {
		return nil, err
	}
	alibaba.mount(mux)
	mux.Handle("GET /local/token", tokens(issuer, base))
	mux.Handle("GET /local/certs", certs(issuer))
	mux.Handle("/", &proxy{issuer: issuer, next: reading})
	return mux, nil
}

// log returns the logger of a part of the run: warnings and errors, in a form
// for people.
func (l *local) log(part string) *slog.Logger {
	level := slog.LevelWarn
	if l.quiet {
		level = slog.LevelError
	}
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level, ReplaceAttr: shorten})).With("in", part)
}

// shorten leaves out what a person in front of a terminal knows already. It
// leaves something of each group, since slog loses what follows one that ends up
// empty.
func shorten(groups []string, a slog.Attr) slog.Attr {
	if len(groups) == 0 && a.Key == slog.TimeKey || len(groups) == 1 && a.Key != "requestUrl" && a.Key != "requestId" {
		return slog.Attr{}
	}
	return a
}

func (l *local) banner(base, where string) {
	if l.format == "json" {
		return
	}
	pubSub := "in this process, in memory"
	if l.settings.PubSubEmulator != "" {
		pubSub = "Google's emulator at " + l.settings.PubSubEmulator
	}
	l.printf(`Push Inbox runs on this machine. Ctrl-C stops it.

  console  %[1]s/           you are signed in as %[2]s
  publish  %[1]s/publish    POST with a token, see below
  receive  %[1]s/receive    where pushes arrive, signed as %[3]s
  calendar %[1]s/calendar   watches calendars; a stand-in for Google's is at /local/calendar
  mns      %[1]s/mns        where MNS pushes arrive; a stand-in for it is at /local/mns
  Pub/Sub  %[4]s, topic projects/%[5]s/topics/%[6]s
  pushes   %[8]s
  inbox    %[7]s

Try it:
  curl -d 'payload=Hello, World!' %[1]s/messages
  curl %[1]s/messages
  curl -H "Authorization: Bearer $(curl -s '%[1]s/local/token?for=publish')" \
    -H 'Content-Type: text/plain' -d 'Hello again' '%[1]s/publish?attribute.kind=greeting'

`, base, developer, pushAccount, pubSub, l.settings.Project, l.settings.Topic, where, l.pushes)
}

// delivered prints a delivery.
func (l *local) delivered(d pushfake.Delivery) {
	if l.quiet {
		return
	}
	took := d.Duration.Round(time.Millisecond)
	if l.format == "json" {
		line, err := json.Marshal(deliveryLine{
			d.MessageID, d.Attempt, d.Status, d.Acked, d.DeadLettered, d.Duration.Milliseconds(), d.RetryIn.Milliseconds(), errorText(d.Err),
		})
		if err == nil {
			l.printf("%s\n", line)
		}
		return
	}
	answer := fmt.Sprintf("%d %s", d.Status, took)
	if d.Err != nil {
		answer = fmt.Sprintf("no answer (%v) %s", d.Err, took)
	}
	switch {
	case d.DeadLettered:
		answer += fmt.Sprintf(", attempt %d was the last: sent to the dead-letter topic", d.Attempt)
	case !d.Acked && d.RetryIn == 0:
		answer += fmt.Sprintf(", attempt %d was the last: dropped", d.Attempt)
	case !d.Acked:
		answer += fmt.Sprintf(", attempt %d, again in %s", d.Attempt, d.RetryIn.Round(time.Millisecond))
	}
	l.printf("--> %s\n<-- %s\n", d.MessageID, answer)
}

type deliveryLine struct {
	MessageID    string `json:"messageId"`
	Attempt      int    `json:"attempt"`
	Status       int    `json:"status"`
	Acked        bool   `json:"acked"`
	DeadLettered bool   `json:"deadLettered"`
	DurationMS   int64  `json:"durationMs"`
	RetryInMS    int64  `json:"retryInMs"`
	Error        string `json:"error,omitempty"`
}

func errorText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// printf writes one whole piece of output at a time.
func (l *local) printf(format string, args ...any) {
	l.outMu.Lock()
	defer l.outMu.Unlock()
	fmt.Fprintf(l.out, format, args...)
}
