// Package stack is all of Push Inbox on one machine, in one process: a Pub/Sub
// that pushes signed, stand-ins for Google Calendar and Alibaba MNS, and the
// functions, each built by the constructor that production uses. Only the keys
// are those of a local issuer. It listens on loopback, unless it is told another
// address, and is for development and tests, never for production.
package stack

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"cloud.google.com/go/pubsub/v2/apiv1/pubsubpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"example.com/pushinbox/functions/console"
	mnsfunction "example.com/pushinbox/functions/mns"
	"example.com/pushinbox/functions/publish"
	"example.com/pushinbox/local/boltinbox"
	"example.com/pushinbox/local/datadir"
	"example.com/pushinbox/local/mnsfake"
	"example.com/pushinbox/local/pushfake"
	"example.com/pushinbox/shared/httpapi"
	"example.com/pushinbox/shared/inbox"
	"example.com/pushinbox/shared/inbox/firestoreinbox"
	"example.com/pushinbox/shared/mns"
	"example.com/pushinbox/shared/publisher"
	"example.com/pushinbox/shared/pushendpoint"
	"example.com/pushinbox/shared/shell"
	"example.com/pushinbox/shared/verify"
)

// Settings are the environment variables that mean something in a local run.
// The rest of production's settings has fixed values here.
type Settings struct {
	Project           string        `env:"GOOGLE_CLOUD_PROJECT" envDefault:"local"`
	Topic             string        `env:"PUBSUB_TOPIC,notEmpty" envDefault:"inbox"`
	Database          string        `env:"FIRESTORE_DATABASE,notEmpty" envDefault:"(default)"`
	Collection        string        `env:"INBOX_COLLECTION,notEmpty" envDefault:"messages"`
	Shards            int           `env:"INBOX_SHARDS" envDefault:"16"`
	TTL               time.Duration `env:"INBOX_TTL" envDefault:"720h"`
	SearchAttributes  []string      `env:"INBOX_SEARCH_ATTRIBUTES"`
	VerificationToken string        `env:"PUBSUB_VERIFICATION_TOKEN"`
	MNSSecret         string        `env:"MNS_SECRET"`
	MNSBody           mns.Encodings `env:"MNS_BODY" envDefault:"raw"`
	PubSubEmulator    string        `env:"PUBSUB_EMULATOR_HOST"`
	FirestoreEmulator string        `env:"FIRESTORE_EMULATOR_HOST"`
}

// Validate reports the values that the function mns refuses, a topic that cannot be one,
// and addresses of emulators that are not HOST:PORT. The constructors check the others.
func (s Settings) Validate() error {
	topic := CheckTopic(s.Topic)
	if topic != nil {
		topic = fmt.Errorf("PUBSUB_TOPIC is %q; %w", s.Topic, topic)
	}
	return errors.Join(topic, s.mns().Validate(), checkEmulatorHost("PUBSUB_EMULATOR_HOST", s.PubSubEmulator),
		checkEmulatorHost("FIRESTORE_EMULATOR_HOST", s.FirestoreEmulator))
}

func (s Settings) mns() mnsfunction.Config {
	return mnsfunction.Config{Project: s.Project, Owners: []string{mnsfake.Owner}, Secret: s.MNSSecret, Body: s.MNSBody}
}

// Options say what runs, and where its data is.
type Options struct {
	Settings
	// Port is the port of the functions; 0 chooses a free one.
	Port int
	// Host is the address to listen at besides loopback. Unless it is one of
	// loopback's, the console and what gives credentials want a key.
	Host netip.Addr
	// HostNames are names of this machine, besides loopback's, that requests may be
	// sent to.
	HostNames []string
	// PubSubPort is the port of Pub/Sub, 0 a free one. Where it is taken, a free one
	// is chosen in its place, unless PubSubPortOnly is set.
	PubSubPort     int
	PubSubPortOnly bool
	// ProxyPort is the port of the proxy for programs that verify tokens; 0 chooses the
	// one of the run before in Data, or a free one where there is none or it is taken.
	ProxyPort int
	// MNSPort and CalendarPort are the ports at whose root the stand-ins for Alibaba
	// MNS and Google Calendar are; 0 chooses a free one.
	MNSPort, CalendarPort int
	// MNSKeyBits is the size of the key that signs pushes of MNS; 0 means 512, that
	// of MNS's one known key.
	MNSKeyBits int
	// Data is the directory of the files. It is created when it does not exist, and
	// refused when others can write to it. DataByDefault says that nobody chose it:
	// then it must not be in a directory that everybody can write to either.
	Data          string
	DataByDefault bool
	// Repair moves what can be read of a damaged inbox to a new file first.
	Repair bool
	// Pushes has the settings of the inbox's push subscription; names, topic and
	// push configuration are filled in.
	Pushes *pubsubpb.Subscription
	// Topics are IDs of topics to create, and Endpoints have messages pushed to them,
	// with the settings in Pushes.
	Topics    []string
	Endpoints []Endpoint
	// KeepEndpoints leaves the push subscriptions of an earlier run's Endpoints as they
	// are.
	KeepEndpoints bool
	// Log gets warnings and errors. Its attribute "in" names the part.
	Log *slog.Logger
	// OnDelivery is called, by several goroutines, after each push of MNS, and of
	// Pub/Sub but for the syncs of calendars; nil means that nobody wants to know.
	OnDelivery func(pushfake.Delivery)
	// OnSent is called, by several goroutines, after each push that a program of this
	// machine reports; nil means that nobody wants to know.
	OnSent func(Sent)

	// keys stands before what answers for the addresses of Google's keys, in tests.
	keys func(http.RoundTripper) http.RoundTripper
}

const (
	// requestGrace is how long Close waits for requests that are under way.
	requestGrace = 3 * time.Second
	// keyFile is the file in the data directory that holds the key's header.
	keyFile = "console.key"
	// inboxFile and calendarFile are databases there, as pubSubFile is.
	inboxFile, calendarFile = "inbox.db", "calendar.db"
	// closeLimit is how long Close waits for each part.
	closeLimit = 10 * time.Second
)

// Stack is a local run. Its fields are set by Start.
type Stack struct {
	// URL is the address of the functions, http://127.0.0.1:PORT.
	URL string
	// PubSub and Inbox say, for people, where the Pub/Sub and the inbox are.
	PubSub, Inbox string
	// PubSubAddr is the host:port of Pub/Sub, fit for PUBSUB_EMULATOR_HOST.
	PubSubAddr string
	// ProxyURL is the address of the proxy for programs that verify tokens.
	ProxyURL string
	// MNSEndpoint and CalendarEndpoint are the addresses of the stand-ins for Alibaba
	// MNS and Google Calendar, fit for their SDKs.
	MNSEndpoint, CalendarEndpoint string
	// Pushes is the inbox's push subscription as it is in force.
	Pushes *pubsubpb.Subscription
	// Endpoints are the push subscriptions of Options.Endpoints as they are in force.
	Endpoints []*pubsubpb.Subscription
	// Key is what the console and /local/token want, or nil where they are open: to
	// every account of this machine, as emulators are.
	Key *Key
	// Undelivered is how many messages are kept that no push delivered; Close sets
	// it.
	Undelivered int

	options Options
	program Program
	// mnsSigner signs the pushes of the stand-in for MNS.
	mnsSigner *mnsfake.Signer
	started   time.Time
	door      Door
	mux       *http.ServeMux
	issuer    *pushfake.Issuer
	verifier  *verify.Verifier
	store     inbox.Inbox
	own       *ownPubSub // nil where Google's emulator is used
	failed    chan error
	closers   []closer // in the order of starting
	// pubsub is Google's emulator, or nil where the Pub/Sub is in this process, and
	// pushing what is created in it again after a restart.
	pubsub        *pushfake.Emulator
	pubsubWatch   *emulator
	pushing       []func(context.Context) error
	subscriptions []string                        // their full names
	emulated      map[string]*pubsubpb.PushConfig // how they are pushed, which the emulator is not told
	deliveries    *deliveries
	stored        *watchedStore
}

// closer ends a part.
type closer struct {
	part  string
	close func() error
}

// Start starts everything. ctx bounds the starting only; Close ends what runs.
func Start(ctx context.Context, o Options) (_ *Stack, err error) {
	s := &Stack{options: o, started: time.Now().UTC(), mux: http.NewServeMux(), failed: make(chan error, 8), emulated: make(map[string]*pubsubpb.PushConfig)}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Close())
		}
	}()
	// The port comes first: it tells soonest that another run has it.
	listeners, err := s.listen("port", o.Port)
	if err != nil {
		return nil, err
	}
	s.URL = fmt.Sprintf("http://127.0.0.1:%d", portOf(listeners))
	if err := datadir.Create(o.Data, !o.DataByDefault); err != nil {
		return nil, dataError(o.Data, err)
	}
	s.warnOfEmptied()
	s.deliveries = s.newDeliveries()
	if o.Repair {
		if err := s.repair(); err != nil {
			return nil, err
		}
	}
	if err := s.openInbox(ctx); err != nil {
		return nil, err
	}
	if err := s.openIssuer(); err != nil {
		return nil, err
	}
	// The key comes after the lock of the inbox, so that a second run leaves it.
	s.door = Door{Hosts: o.HostNames}
	if o.Host.IsValid() && !o.Host.IsLoopback() {
		if s.Key, err = NewKey(o.Data, keyFile); err != nil {
			return nil, dataError(o.Data, err)
		}
		s.onClose(keyFile, s.Key.Close)
		s.mux.Handle(loginPath, s.Key.Require(http.NotFoundHandler()))
		s.door = Door{Hosts: append(slices.Clone(o.HostNames), s.Key.Name), OwnAddress: true}
	}
	// The pushing starts after the server and ends before it, so that every push
	// is answered. Until serve, connections wait.
	serve := s.server("the server of the functions", listeners, s.mux)
	for _, start := range []func(context.Context) error{
		s.openPubSub, s.connectPubSub, s.startInbox, s.startCalendar, s.startMNS, s.startEndpoints, s.startProxy, s.startPushing, s.watchPubSub, s.watchDeliveries,
	} {
		if err := start(ctx); err != nil {
			return nil, err
		}
	}
	s.handle("GET /local/token", s.keyed(tokens(s.issuer, s.URL)))
	s.handle("GET "+runPath, s.which())
	s.handle("GET "+FactsPath, s.keyed(http.HandlerFunc(s.facts)))
	s.handle("POST "+SentPath, s.keyed(jsonBodies(http.HandlerFunc(s.sent))))
	s.serveKeys()
	serve()
	if err := s.announce(); err != nil {
		return nil, err
	}
	return s, nil
}

// Login returns the address that signs a browser in, where there is a key.
func (s *Stack) Login() string { return s.Key.Login(strings.TrimPrefix(s.URL, "http://")) }

// Wait waits until ctx ends, or until the server fails, whose error it returns.
func (s *Stack) Wait(ctx context.Context) error {
	select {
	case err := <-s.failed:
		return err
	case <-ctx.Done():
		return nil
	}
}

// Close ends every part, the last one first. It gives requests under way 3 s, and
// returns the errors of all parts. A second call does nothing.
func (s *Stack) Close() error {
	var errs []error
	for _, c := range slices.Backward(s.closers) {
		done := make(chan error, 1)
		go func() { done <- c.close() }()
		select {
		case err := <-done:
			errs = append(errs, err)
		case <-time.After(closeLimit):
			errs = append(errs, fmt.Errorf("%s did not end within %v", c.part, closeLimit))
		}
	}
	s.closers = nil
	return errors.Join(errs...)
}

// onClose has Close call end before what was started earlier ends.
func (s *Stack) onClose(part string, end func() error) {
	s.closers = append(s.closers, closer{part, end})
}

// background runs f until Close cancels its context and waits for it.
func (s *Stack) background(part string, f func(context.Context)) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { f(ctx); close(done) }()
	s.onClose(part, func() error { cancel(); <-done; return nil })
}

// listen listens on a port that the flag chooses.
func (s *Stack) listen(flag string, port int) ([]net.Listener, error) {
	listeners, err := Listen(s.options.Host, port)
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil, taken(flag, port)
	}
	if errors.Is(err, syscall.EADDRNOTAVAIL) && s.options.Host.IsValid() {
		return nil, fmt.Errorf("%s is not an address of this machine; give one with --host, or 0.0.0.0 for all", s.options.Host)
	}
	if err != nil {
		return nil, fmt.Errorf("port %d: %w; choose another with --%s", port, err, flag)
	}
	s.onClose("--"+flag, func() error { closeAll(listeners); return nil })
	return listeners, nil
}

// taken returns the error of a port that the flag chooses and that somebody has.
func taken(flag string, port int) error {
	if flag == "port" {
		if other, err := ask(context.Background(), fmt.Sprintf("http://127.0.0.1:%d", port)); err == nil {
			return fmt.Errorf("port %d is taken by another pushinbox local (process %d)%s; stop it, or choose another with --port", port, other.PID, other.where())
		}
	}
	return fmt.Errorf("port %d is taken; stop what listens there, or choose another with --%s", port, flag)
}

// server returns what starts to serve h, behind the door.
func (s *Stack) server(part string, listeners []net.Listener, h http.Handler) (serve func()) {
	serving, endServing := context.WithCancel(context.Background())
	// silent has the connections over which nothing was asked yet. Browsers open
	// some ahead of use, and Shutdown waits five seconds for each.
	var silent sync.Map
	server := httpapi.NewServer(s.door.Guard(h))
	server.ConnState = func(c net.Conn, state http.ConnState) {
		s.deliveries.own.changed(c, state)
		if state == http.StateNew {
			silent.Store(c, nil)
		} else {
			silent.Delete(c)
		}
	}
	server.ErrorLog = slog.NewLogLogger(s.log("http").Handler(), slog.LevelWarn)
	server.BaseContext = func(net.Listener) context.Context { return serving }
	server.RegisterOnShutdown(func() {
		endServing() // live tails do not end by themselves
		for c := range silent.Range {
			_ = c.(net.Conn).Close()
		}
	})
	s.onClose(part, func() error {
		ctx, cancel := context.WithTimeout(context.Background(), requestGrace)
		defer cancel()
		if server.Shutdown(ctx) != nil {
			return errors.Join(fmt.Errorf("requests were still under way after %v and were cut off", requestGrace), server.Close())
		}
		return nil
	})
	return func() {
		for _, l := range listeners {
			go func() { s.failed <- server.Serve(l) }()
		}
	}
}

// serveAlone serves h, which only programs use, at the root of a port of its own that
// the flag chooses. It returns the address.
func (s *Stack) serveAlone(flag string, port int, h http.Handler) (string, error) {
	listeners, err := s.listen(flag, port)
	if err != nil {
		return "", err
	}
	s.server("the server of --"+flag, listeners, programs(h))()
	return fmt.Sprintf("http://127.0.0.1:%d", portOf(listeners)), nil
}

// log returns the logger of a part.
func (s *Stack) log(part string) *slog.Logger { return s.options.Log.With("in", part) }

// mount serves a function under path, which it does not see.
func (s *Stack) mount(path string, function http.Handler) {
	s.handle(path, http.StripPrefix(path, function))
	s.handle(path+"/", http.StripPrefix(path, function))
}

// handle serves what only programs use; all but the console is.
func (s *Stack) handle(pattern string, h http.Handler) { s.mux.Handle(pattern, programs(h)) }

func (s *Stack) openInbox(ctx context.Context) (err error) {
	o := s.options
	if o.FirestoreEmulator != "" {
		if err := s.connectFirestore(ctx); err != nil {
			return err
		}
		s.Inbox = "Firestore's emulator at " + o.FirestoreEmulator + ", collection " + o.Collection
		s.store, err = firestoreinbox.Open(ctx, firestoreinbox.Config{
			Project: o.Project, Database: o.Database, Collection: o.Collection, Shards: o.Shards, TTL: o.TTL,
			EmulatorHost: o.FirestoreEmulator, SearchAttributes: o.SearchAttributes,
		})
	} else {
		s.Inbox = filepath.Join(o.Data, inboxFile)
		s.store, err = boltinbox.Open(s.Inbox, &boltinbox.Options{TTL: o.TTL, Log: s.log("inbox"), SearchAttributes: o.SearchAttributes})
	}
	if err != nil {
		return dataError(o.Data, err)
	}
	s.onClose("the inbox", s.store.Close)
	return nil
}

// warnOfEmptied names the files that something may have emptied: that looks as a run does
// that was killed at its very beginning, and is no error.
func (s *Stack) warnOfEmptied() {
	for _, name := range []string{inboxFile, pubSubFile, calendarFile} {
		path := filepath.Join(s.options.Data, name)
		if info, err := os.Lstat(path); err == nil && info.Mode().IsRegular() && info.Size() == 0 {
			s.log("data").Warn(path + " has 0 bytes: it begins anew, and what was in it is lost; put a copy back if you have one")
		}
	}
}

// repair moves what can be read of a damaged inbox to a new file.
func (s *Stack) repair() error {
	path := filepath.Join(s.options.Data, inboxFile)
	kept, n, err := boltinbox.Repair(path, &boltinbox.Options{Log: s.log("inbox"), SearchAttributes: s.options.SearchAttributes})
	if err != nil {
		return dataError(s.options.Data, err)
	}
	if kept == "" {
		s.log("inbox").Warn(fmt.Sprintf("%s: nothing is damaged; the file with %d messages stays as it is", path, n))
		return nil
	}
	s.log("inbox").Warn(fmt.Sprintf("%s: repaired, with %d messages; the damaged file is kept as %s", path, n, kept))
	return nil
}

// dataError returns err, of a file in the data directory, as people can act on it.
func dataError(dir string, err error) error {
	if errors.Is(err, datadir.ErrLocked) {
		return fmt.Errorf("another pushinbox local uses %s; stop it, or choose another directory with --data", dir)
	}
	if errors.Is(err, fs.ErrPermission) || errors.Is(err, syscall.ENOTDIR) || errors.Is(err, fs.ErrExist) || errors.Is(err, syscall.EROFS) {
		return fmt.Errorf("cannot keep messages in %s: %w; choose another directory with --data", dir, err)
	}
	if errors.Is(err, syscall.ENOSPC) {
		return fmt.Errorf("there is no room on the disk of %s: %w; make some, and start again", dir, err)
	}
	return err
}

// startInbox starts the pushing to the inbox, and mounts the functions publish,
// receive and console.
func (s *Stack) startInbox(ctx context.Context) error {
	o := s.options
	endpoint := s.URL + "/receive/wrapped" // the path says the form of the pushes
	if o.VerificationToken != "" {
		endpoint += "?token=" + url.QueryEscape(o.VerificationToken)
	}
	sub := proto.CloneOf(o.Pushes)
	sub.PushConfig = signedPush(endpoint, s.URL+"/receive")
	topic, pushes, err := s.startPubSub(ctx, o.Topic, o.Topic+"-push", sub)
	if err != nil {
		return err
	}
	s.Pushes = pushes
	s.stored = &watchedStore{Store: s.store}
	publishing, err1 := publish.New(publish.Config{
		Project: o.Project, Topic: o.Topic, Audience: s.URL + "/publish", Callers: []string{publishCaller},
	}, s.verifier, topic, s.log("publish"))
	receiving, err2 := pushendpoint.New(pushendpoint.Config{
		Project: o.Project, Audience: s.URL + "/receive", ServiceAccount: PushAccount, VerificationToken: o.VerificationToken,
		AckDeadline: time.Duration(pushes.AckDeadlineSeconds) * time.Second,
	}, s.verifier, s.stored, s.log("receive"))
	data := ""
	if !o.DataByDefault {
		data = absolute(o.Data)
	}
	reading, err3 := console.New(console.Config{
		LocalData: data,
		Project:   o.Project, Topic: o.Topic, Audience: s.URL + "/", IAPAudience: iapAudience,
		Readers: []string{Developer}, Publishers: []string{Developer}, SearchAttributes: o.SearchAttributes, IsLocal: true,
		Deliveries: []string{pushes.Name}, DeadLetters: s.deliveries.deadLetters,
	}, s.verifier, s.store, topic, s.deliveries, s.log("console"))
	if err := errors.Join(err1, err2, err3); err != nil {
		return err
	}
	s.mount("/publish", publishing)
	s.mount("/receive", s.deliveries.refused(receiving))
	s.mux.Handle("/", s.signIn(reading))
	return nil
}

// DataFlag returns the flag that has another command find this run, or "" where its data
// directory is the one that commands look for.
func (s *Stack) DataFlag() string {
	if s.options.DataByDefault {
		return ""
	}
	return " --data " + shell.Quote(absolute(s.options.Data))
}

// startPubSub creates a topic and a subscription with the given settings, which is
// pushed. It returns the topic and the subscription in force.
func (s *Stack) startPubSub(ctx context.Context, topic, name string, sub *pubsubpb.Subscription) (*publisher.Publisher, *pubsubpb.Subscription, error) {
	project := "projects/" + s.options.Project
	sub.Topic, sub.Name = project+"/topics/"+topic, project+"/subscriptions/"+name
	if s.own != nil {
		inForce, err1 := s.own.create(ctx, sub)
		publishing, err2 := publisher.New(s.own.client, sub.Topic)
		return publishing, inForce, errors.Join(err1, err2)
	}
	options := &pushfake.ServerOptions{
		Client:       s.pubsub.Client,
		Subscription: sub,
		Dispatcher:   pushfake.Options{Issuer: s.issuer, OnDelivery: s.delivered, OnDial: s.deliveries.own.dialed, OnError: s.pushError},
	}
	server, err := pushfake.Start(ctx, sub.PushConfig.PushEndpoint, options)
	if err != nil {
		return nil, nil, fmt.Errorf("Pub/Sub's emulator at %s: %w", s.options.PubSubEmulator, err)
	}
	s.subscriptions = append(s.subscriptions, server.Subscription)
	s.emulated[server.Subscription] = sub.PushConfig
	running := server
	s.onClose("the pushing of "+name, func() error { return running.Close() })
	s.pushing = append(s.pushing, func(ctx context.Context) error {
		_ = running.Close() // it cannot hand back what the emulator has forgotten
		again, err := pushfake.Start(ctx, sub.PushConfig.PushEndpoint, options)
		if err == nil {
			running = again
		}
		return err
	})
	inForce, err1 := server.Client.SubscriptionAdminClient.GetSubscription(ctx, &pubsubpb.GetSubscriptionRequest{Subscription: server.Subscription})
	publishing, err2 := publisher.New(server.Client, server.Topic)
	return publishing, inForce, errors.Join(err1, err2)
}

// pushError logs an error of the pushing. Of an emulator that is down, was
// restarted or has lost a subscription the watch speaks.
func (s *Stack) pushError(err error) {
	switch status.Code(err) {
	case codes.Unavailable, codes.DeadlineExceeded, codes.NotFound:
		return
	}
	s.log("pubsub").Error(err.Error())
}

// connectPubSub waits for Pub/Sub's emulator, where there is one.
func (s *Stack) connectPubSub(ctx context.Context) (err error) {
	if s.own != nil {
		return nil
	}
	host := s.options.PubSubEmulator
	s.PubSubAddr = host
	s.deliveries.isBlind = true
	s.PubSub = "Google's emulator at " + host
	if s.pubsub, err = pushfake.DialEmulator(ctx, host, s.options.Project); err != nil {
		return err
	}
	s.onClose("the client of Pub/Sub's emulator", s.pubsub.Close)
	s.pubsubWatch = &emulator{
		name: "Pub/Sub's emulator", variable: "PUBSUB_EMULATOR_HOST", host: host, log: s.log("pubsub"), run: s.pubsub.Run,
	}
	if err := s.pubsubWatch.connect(ctx); err != nil {
		return err
	}
	return notOurOwn(ctx, host, findTimeout) // which a busy one was too slow to say
}

// watchPubSub begins to watch Pub/Sub's emulator, where there is one.
func (s *Stack) watchPubSub(context.Context) error {
	if s.pubsub == nil {
		return nil
	}
	s.pubsubWatch.whole = func(ctx context.Context) (bool, error) {
		for _, name := range s.subscriptions {
			exists, err := s.pubsub.Has(ctx, name)
			if err != nil || !exists {
				return false, err
			}
		}
		return true, nil
	}
	s.background("the watch of Pub/Sub's emulator", func(ctx context.Context) {
		s.pubsubWatch.watch(ctx, "its topics and subscriptions are created again, and what was not delivered is lost", func(ctx context.Context) error {
			var errs []error
			for _, start := range s.pushing {
				errs = append(errs, start(ctx))
			}
			return errors.Join(errs...)
		})
	})
	return nil
}
