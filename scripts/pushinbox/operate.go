package main

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"cloud.google.com/go/pubsub/v2"
	"cloud.google.com/go/pubsub/v2/apiv1/pubsubpb"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/oauth2"
	"google.golang.org/api/option"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"example.com/pushinbox/doctor"
	"example.com/pushinbox/inboxclient"
	"example.com/pushinbox/local/pushfake"
	"example.com/pushinbox/local/records"
	"example.com/pushinbox/local/stack"
	"example.com/pushinbox/operations"
	"example.com/pushinbox/operations/cloud"
	"example.com/pushinbox/shared/delivery"
	"example.com/pushinbox/shared/delivery/firestorerecords"
	"example.com/pushinbox/shared/inbox/firestoreinbox"
	"example.com/pushinbox/shared/shell"
)

const (
	// envPushToken is the shared token of the push endpoint, as receive reads it.
	envPushToken = "PUBSUB_VERIFICATION_TOKEN"
	// operationsLog is the log of operations: a file of a local run, or in Cloud
	// Logging.
	operationsLog      = "operations.log"
	cloudOperationsLog = "pushinbox-operations"
	// defaultSubscription is what Terraform calls the push subscription by default.
	defaultSubscription = "inbox-push"
	// principalUnknown stands for an operator that Google did not name.
	principalUnknown = "unknown"
)

// operate has the flags that say which subscriptions are operated.
type operate struct {
	terraform, project, subscription, deadLetters string
	collection, database, data                    string
	yes, all                                      bool
}

// operateHelp is the part of a command's help that explains the flags.
const operateHelp = `Without flags it works on the running "pushinbox local"; with --terraform DIRECTORY on what
Terraform's outputs name; with --project and --subscription on what you name. In the cloud
it uses your own credentials, those of "gcloud auth application-default login". Each change
leaves a line before and one after it in the log pushinbox-operations, or, of a "pushinbox
local", in operations.log in its data directory.`

func (o *operate) flags(flags *pflag.FlagSet) {
	flags.StringVar(&o.terraform, "terraform", "", "operate what the outputs of Terraform in this `DIRECTORY` name")
	flags.StringVar(&o.project, "project", "", "operate subscriptions of this Google Cloud `PROJECT`")
	flags.StringVar(&o.subscription, "subscription", "", "the push subscription, by its full or its short `NAME`, or by its key in Terraform; by default the inbox's first, with --project "+defaultSubscription+"")
	flags.StringVar(&o.collection, "collection", "messages", "with --project: the `COLLECTION` of the inbox, beside which the records are")
	flags.StringVar(&o.database, "database", "(default)", "with --project: the Firestore `DATABASE` of the inbox")
	flags.StringVar(&o.data, "data", "", "operate the pushinbox local that has its --data in this `DIRECTORY`; with --project: keep the records there, not in Firestore")
}

// withoutLog is what --yes means to a command that asks only then.
const withoutLog = "do not ask, where no line can be left in the log of operations"

// yesFlag adds the flag of those commands that ask.
func (o *operate) yesFlag(flags *pflag.FlagSet, usage string) {
	flags.BoolVar(&o.yes, "yes", false, usage)
}

// operated is what a command operates.
type operated struct {
	*operations.Operator
	pubsub                    *pubsub.Client
	log                       operations.Log
	principal                 string
	subscription, deadLetters string              // full names
	deadLetterTopic           string              // the topic of deadLetters, see openDeadLetters
	sources                   []string            // whose dead letters they are, see findSource
	isCloud, isLocal          bool                // neither: an emulator
	inbox                     *inboxclient.Client // nil: none is known
	// findInbox finds it where that takes a token of Google; nil: there is none.
	findInbox func(context.Context) (*inboxclient.Client, error)
	rebuild   func(context.Context) (*pubsubpb.PushConfig, error)
	key       string // the subscription's key in Terraform
	backlog   func(context.Context, string) (*operations.Backlog, error)
	closers   []func() error
}

func (d *operated) Close() {
	for _, c := range slices.Backward(d.closers) {
		_ = c() // nothing is buffered
	}
}

// googleClients are the options of clients of Google's APIs; tests have other ones.
var googleClients struct{ pubsub, rest []option.ClientOption }

// open returns what the flags name. secret says where the shared token is.
func (o *operate) open(ctx context.Context, secret *pushToken) (*operated, error) {
	open := o.openLocal
	switch {
	case o.terraform != "" && (o.project != "" || o.data != ""):
		return nil, usageError{errors.New("give one of --terraform, --project and --data: each says what to operate")}
	case o.terraform != "":
		open = o.openTerraform
	case o.project != "":
		open = o.openProject
	}
	d := new(operated)
	if err := open(ctx, d, secret); err != nil {
		d.Close()
		return nil, interrupted(err)
	}
	return d, nil
}

// errInterrupted is the cause of the error of a command that a signal ended.
var errInterrupted = errors.New("interrupted")

// interrupted returns err, in words where a signal was its cause.
func interrupted(err error) error {
	canceled := errors.Is(err, context.Canceled) || status.Code(err) == codes.Canceled
	switch {
	case !canceled || errors.Is(err, errInterrupted):
		return err
	case errors.Is(err, operations.ErrAttached):
		return fmt.Errorf("%w: %w", errInterrupted, err)
	}
	return fmt.Errorf("%w: give the same command again, or the opposite one; both go on from any state", errInterrupted)
}

// openLocal is open for a running pushinbox local.
func (o *operate) openLocal(ctx context.Context, d *operated, secret *pushToken) error {
	run, err := stack.Find(ctx, o.data)
	if errors.Is(err, stack.ErrNotFound) && o.data == "" {
		return fmt.Errorf("%w here; start it with: pushinbox local, name its --data, or operate a deployed inbox with --terraform or --project", err)
	}
	if err != nil {
		return err
	}
	d.subscription = fullSubscription(cmp.Or(o.subscription, run.Subscription), run.Project)
	d.deadLetters = fullSubscription(o.deadLetters, run.Project)
	d.isLocal = true
	d.principal = localUser()
	d.log = operations.FileLog{Path: filepath.Join(run.Data, operationsLog)}
	c, err := newClient("url", run.URL)
	if err != nil {
		return err
	}
	c.keyFile = run.KeyFile
	if err := c.useKey(); err != nil {
		return err
	}
	if d.inbox, err = inboxclient.New(run.URL, &inboxclient.Options{Tokens: staticToken(c.token), Patience: time.Second}); err != nil {
		return err
	}
	key := c.token
	if !stack.IsLoopback(run.PubSubEmulatorHost) {
		key = "" // it is an emulator's address, and not that of the run
	}
	client, err := d.dial(ctx, run.Project, run.PubSubEmulatorHost, key)
	if err != nil {
		return err
	}
	return d.operator(operations.Options{PubSub: client.SubscriptionAdminClient, Records: records.Open(run.Data), Backlog: d.reported, LookPatience: time.Second}, secret, nil)
}

// openProject is open for subscriptions that are named.
func (o *operate) openProject(ctx context.Context, d *operated, secret *pushToken) error {
	d.subscription = fullSubscription(cmp.Or(o.subscription, defaultSubscription), o.project)
	d.deadLetters = fullSubscription(o.deadLetters, o.project)
	return o.openGoogle(ctx, d, secret, firestoreinbox.Config{Project: o.project, Database: o.database, Collection: o.collection}, "")
}

// openTerraform is open for what Terraform's outputs name.
func (o *operate) openTerraform(ctx context.Context, d *operated, secret *pushToken) error {
	outputs, err := readOutputs(ctx, o.terraform)
	if err != nil {
		return err
	}
	t := outputs.Delivery.Value
	if t == nil {
		return fmt.Errorf("the outputs of Terraform in %s have no delivery: apply this version of the module first", o.terraform)
	}
	described, key, err := describedSubscription(t, o.subscription)
	if err != nil {
		return err
	}
	d.subscription, d.key = described.Name, key
	d.deadLetters = cmp.Or(fullSubscription(o.deadLetters, t.Project), t.DeadLetterSubscription)
	secret.version = cmp.Or(t.TokenSecret, secret.version)
	d.rebuild = func(ctx context.Context) (*pubsubpb.PushConfig, error) {
		token := ""
		if t.TokenSecret != "" && (described.Function == "" || described.Function == "receive") {
			if token, err = secret.read(ctx); err != nil {
				return nil, err
			}
		}
		return pushConfig(&described.Wanted, t.PushAccount, token)
	}
	if url := outputs.Address(); url != "" {
		from := server{at: target{url: url}, account: outputs.TesterAccount.Value}
		d.findInbox = func(ctx context.Context) (*inboxclient.Client, error) {
			return from.client(ctx, inboxclient.Options{Patience: time.Second})
		}
	}
	database := t.Database[strings.LastIndex(t.Database, "/")+1:]
	return o.openGoogle(ctx, d, secret, firestoreinbox.Config{Project: t.Project, Database: database, Collection: t.Collection}, t.OperationsLog)
}

// openGoogle connects to Google Cloud, or to its emulators where the environment says
// so, which have neither IAM nor Monitoring.
func (o *operate) openGoogle(ctx context.Context, d *operated, secret *pushToken, at firestoreinbox.Config, log string) error {
	host := os.Getenv("PUBSUB_EMULATOR_HOST")
	d.isCloud = host == ""
	var there client // a pushinbox local, if that is what host is
	if !d.isCloud {
		if err := there.useKey(); err != nil {
			return err
		}
	}
	client, err := d.dial(ctx, at.Project, host, there.token)
	if err != nil {
		return err
	}
	options := operations.Options{PubSub: client.SubscriptionAdminClient}
	at.EmulatorHost = os.Getenv("FIRESTORE_EMULATOR_HOST")
	switch {
	case o.data != "":
		options.Records = records.Open(o.data)
	case !d.isCloud && at.EmulatorHost == "":
		return usageError{errors.New("PUBSUB_EMULATOR_HOST is set: set FIRESTORE_EMULATOR_HOST too, or keep the records in files with --data DIRECTORY; Google's Firestore is not for an emulator's subscriptions")}
	default:
		kept, err := firestorerecords.Open(ctx, at)
		if err != nil {
			return err
		}
		d.closers = append(d.closers, kept.Close)
		options.Records = kept
	}
	if !d.isCloud {
		d.principal = localUser()
		d.log = operations.FileLog{Path: filepath.Join(cmp.Or(o.data, "."), operationsLog)}
		return d.operator(options, secret, nil)
	}
	google := &cloud.Cloud{Options: googleClients.rest}
	options.ActAs, options.Backlog, options.Now = google.ActAs, google.Backlog, google.Now
	if d.principal, err = google.Principal(ctx); err != nil {
		fmt.Fprintln(os.Stderr, visible(err.Error()+"; the record says "+principalUnknown))
		d.principal = principalUnknown
	}
	d.log = &cloud.Log{Cloud: google, Name: cmp.Or(log, "projects/"+at.Project+"/logs/"+cloudOperationsLog)}
	return d.operator(options, secret, google)
}

// dial connects to Pub/Sub, or to the one at host, which gets the key, if any.
func (d *operated) dial(ctx context.Context, project, host, key string) (_ *pubsub.Client, err error) {
	if host != "" {
		d.pubsub, err = pushfake.Dial(ctx, host, project, grpc.WithUnaryInterceptor(func(ctx context.Context, method string, request, answer any, conn *grpc.ClientConn, invoke grpc.UnaryInvoker, o ...grpc.CallOption) error {
			if key != "" {
				ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+key)
			}
			return invoke(ctx, method, request, answer, conn, o...)
		}))
	} else {
		d.pubsub, err = pubsub.NewClient(ctx, project, append([]option.ClientOption{option.WithTelemetryDisabled()}, googleClients.pubsub...)...)
	}
	if err == nil {
		d.closers = append(d.closers, d.pubsub.Close)
	}
	return d.pubsub, err
}

func (d *operated) operator(o operations.Options, secret *pushToken, google *cloud.Cloud) (err error) {
	o.Principal, d.backlog = d.principal, o.Backlog
	secret.google = google
	if source := secret.source(); source != "" {
		o.Token, o.TokenSource = secret.read, source
	}
	d.Operator, err = operations.New(o)
	return err
}

// report returns how delivery goes, or nil where no console says it.
func (d *operated) report(ctx context.Context) *delivery.Report {
	if d.inbox == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	report, err := d.inbox.Delivery(ctx)
	if err != nil {
		return nil
	}
	return report
}

// reported returns what waits in a subscription, as the console says.
func (d *operated) reported(ctx context.Context, subscription string) (*operations.Backlog, error) {
	report := d.report(ctx)
	if report == nil {
		return nil, nil
	}
	for _, s := range report.Subscriptions {
		if s.Name != subscription || s.Backlog == nil {
			continue
		}
		b := &operations.Backlog{At: report.At, Messages: *s.Backlog}
		if s.OldestSeconds != nil {
			b.Oldest = time.Duration(*s.OldestSeconds * float64(time.Second))
		}
		return b, nil
	}
	return nil, nil
}

// audited acts, with a line before and one after.
func (d *operated) audited(cmd *cobra.Command, o *operate, action, target string, act func(context.Context) (string, error)) error {
	entry := operations.Entry{Principal: d.principal, Action: action, Target: target}
	err, logged := operations.Audited(cmd.Context(), d.log, entry, func(err error) error {
		return confirm(cmd, o.yes, fmt.Sprintf("No line about this can be left in the log of operations: %v.", err), "Go on without")
	}, act)
	if logged != nil {
		fmt.Fprintln(cmd.ErrOrStderr(), visible("the log of operations has no line of how this ended: "+logged.Error()))
	}
	return interrupted(err)
}

// confirm asks, unless yes is given. Without a terminal nobody can answer.
func confirm(cmd *cobra.Command, yes bool, why, question string) error {
	fmt.Fprintln(cmd.ErrOrStderr(), visible(why))
	if yes {
		return nil
	}
	if in, ok := cmd.InOrStdin().(*os.File); ok {
		if _, isTerminal := columnsOf(in); !isTerminal {
			return usageError{errors.New("nothing was done: there is no terminal to ask at; give --yes")}
		}
	}
	fmt.Fprint(cmd.ErrOrStderr(), question+"? [y/N] ")
	answer, err := bufio.NewReader(io.LimitReader(cmd.InOrStdin(), 100)).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if a := strings.ToLower(strings.TrimSpace(answer)); a != "y" && a != "yes" {
		return errors.New("nothing was done")
	}
	return nil
}

// pushToken is where the shared token of push endpoints is.
type pushToken struct {
	file    string
	version string // of Secret Manager
	google  *cloud.Cloud
}

func (t *pushToken) flag(flags *pflag.FlagSet) {
	flags.StringVar(&t.file, "token-file", "", "a `FILE` with the shared token of the push endpoint, ?token=; by default that of Terraform's secret, else "+envPushToken)
}

// source says where the token is read from, or is empty.
func (t *pushToken) source() string {
	switch {
	case t.file != "":
		return t.file
	case t.version != "" && t.google != nil:
		return t.version
	case os.Getenv(envPushToken) != "":
		return envPushToken
	}
	return ""
}

func (t *pushToken) read(ctx context.Context) (string, error) {
	switch t.source() {
	case "":
		return "", errors.New("nothing says where the shared token is; give --token-file")
	case t.file:
		return readSecret(t.file)
	case t.version:
		return t.google.Secret(ctx, t.version)
	}
	return os.Getenv(envPushToken), nil
}

// fullSubscription returns the full name of a subscription that may be short.
func fullSubscription(name, project string) string {
	if name == "" || strings.Contains(name, "/") {
		return name
	}
	return "projects/" + project + "/subscriptions/" + name
}

// localUser names who operates something on this machine.
func localUser() string {
	name := "unknown"
	if u, err := user.Current(); err == nil {
		name = u.Username
	}
	return name + "@localhost"
}

// mainSubscription is the key of the subscription that every project has.
const mainSubscription = "main"

// describedSubscription returns the subscription with a name or a key.
func describedSubscription(d *doctor.DeliveryOutput, name string) (doctor.SubscriptionOutput, string, error) {
	name = cmp.Or(name, mainSubscription)
	var keys []string
	for key, s := range d.Subscriptions {
		if name == key || name == s.Name || strings.HasSuffix(s.Name, "/subscriptions/"+name) {
			return s, key, nil
		}
		keys = append(keys, key)
	}
	slices.Sort(keys)
	return doctor.SubscriptionOutput{}, "", usageError{fmt.Errorf("there is no subscription %q in the outputs of Terraform; there are %s", name, strings.Join(keys, ", "))}
}

// pushConfig returns what terraform/pubsub.tf gives a subscription.
func pushConfig(s *doctor.Wanted, account, token string) (*pubsubpb.PushConfig, error) {
	c := &pubsubpb.PushConfig{PushEndpoint: s.Endpoint, AuthenticationMethod: &pubsubpb.PushConfig_OidcToken_{
		OidcToken: &pubsubpb.PushConfig_OidcToken{ServiceAccountEmail: account, Audience: s.Audience},
	}}
	if s.Endpoint == "" || account == "" || s.Audience == "" {
		return nil, errors.New("endpoint, audience or push account is missing there")
	}
	if token != "" {
		c.PushEndpoint += "?token=" + url.QueryEscape(token)
	}
	switch s.Form {
	case "wrapped":
	case "unwrapped", "bare":
		c.Wrapper = &pubsubpb.PushConfig_NoWrapper_{NoWrapper: &pubsubpb.PushConfig_NoWrapper{WriteMetadata: s.Form == "unwrapped"}}
	default:
		return nil, fmt.Errorf("the form %q is not known", s.Form)
	}
	return c, nil
}

// staticToken returns a source of one token, or nil where there is none.
func staticToken(token string) oauth2.TokenSource {
	if token == "" {
		return nil
	}
	return oauth2.StaticTokenSource(&oauth2.Token{AccessToken: token})
}

// sameFlags returns the flags that say what a command operates, as they were given, for
// the command that undoes it.
func sameFlags(cmd *cobra.Command) (line string) {
	for _, name := range []string{"terraform", "project", "subscription", "dead-letter-subscription", "collection", "database", "data", "token-file"} {
		if f := cmd.Flag(name); f != nil && f.Changed {
			line += " --" + name + " " + shell.Quote(f.Value.String())
		}
	}
	if f := cmd.Flag("all"); f != nil && f.Changed {
		line += " --all"
	}
	return line
}
