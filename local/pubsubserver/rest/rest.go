// Package rest answers Pub/Sub's gRPC and REST on one port.
//
// A connection belongs to gRPC when it begins with the preface of HTTP/2, and
// grpc-go then serves it with its own transport; every other one is HTTP/1.1
// and belongs to REST. The routes of REST are those of the descriptors
// in pubsubpb, and call the services in process, so that gRPC's interceptors do
// not see them.
//
// A web page can reach a port on loopback too. So every request is refused
// that names a Host other than this machine, carries an Origin, or that a
// browser sends across sites.
//
// Two things differ from production on purpose. What is UNIMPLEMENTED is
// answered 400 and not 501, because Google's clients repeat a request that was
// answered 5xx, gcloud for half a minute. And the system parameters "fields"
// and "prettyPrint" change nothing: an answer is always whole and on one line.
package rest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"cloud.google.com/go/iam/apiv1/iampb"
	"cloud.google.com/go/pubsub/v2/apiv1/pubsubpb"
	"example.com/pushinbox/local/loopback"
	"example.com/pushinbox/shared/httpapi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
)

// Limits of what one request may cost.
const (
	// Server is the header Server of every answer of REST, by which a program tells
	// this Pub/Sub from Google's emulator.
	Server = "pushinbox"

	// MaxSize is the size in bytes of the largest request, by gRPC or REST.
	MaxSize = 20 << 20

	maxHeaderSize = 64 << 10
	headerTimeout = 10 * time.Second
	bodyTimeout   = 30 * time.Second
	idleTimeout   = 2 * time.Minute
	// grace is how long requests in flight may take after Serve's context has
	// ended.
	grace = 2 * time.Second
)

// Services are what is served.
type Services struct {
	Publisher  pubsubpb.PublisherServer
	Subscriber pubsubpb.SubscriberServer
	Policies   iampb.IAMPolicyServer
}

// service is a service of gRPC in this process.
type service struct {
	desc   *grpc.ServiceDesc
	server any
}

func (s Services) all() []service {
	return []service{
		{&pubsubpb.Publisher_ServiceDesc, s.Publisher},
		{&pubsubpb.Subscriber_ServiceDesc, s.Subscriber},
		{&pubsubpb.SchemaService_ServiceDesc, pubsubpb.UnimplementedSchemaServiceServer{}},
		{&iampb.IAMPolicy_ServiceDesc, s.Policies},
	}
}

// Options are optional.
type Options struct {
	// Hosts are host names or addresses, without a port, that a request's Host
	// may name besides those of loopback.
	Hosts []string
	// OwnAddress lets a Host be the address that the connection was made to, for a
	// port that is open to other machines. No web page can have it for its name.
	OwnAddress bool
}

// Serve answers on l until ctx ends, then lets requests in flight end for at
// most two seconds, and returns nil. It fails when l does. It closes l in any
// case.
func Serve(ctx context.Context, l net.Listener, s Services, o *Options) error {
	defer l.Close()
	if s.Publisher == nil || s.Subscriber == nil || s.Policies == nil {
		return errors.New("rest: a publisher, a subscriber and a policies server are required")
	}
	if o == nil {
		o = &Options{}
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	s.Subscriber = ending{s.Subscriber, ctx}
	g := guard{Hosts: o.Hosts, OwnAddress: o.OwnAddress}
	handler, err := newHandler(s, g)
	if err != nil {
		return fmt.Errorf("rest: %w", err)
	}

	split := newSplitter(l)
	grpcServer := newGRPC(s, g)
	httpServer := &http.Server{
		Handler:           httpapi.AtOnce(handler),
		ReadHeaderTimeout: headerTimeout,
		ReadTimeout:       bodyTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeaderSize,

		DisableGeneralOptionsHandler: true, // which would answer before the guard
	}
	stopped := make(chan error, 3)
	for _, serve := range []func() error{
		split.run,
		func() error { return grpcServer.Serve(split.grpc) },
		func() error { return httpServer.Serve(split.http) },
	} {
		go func() {
			err := serve()
			cancel(err) // one that ends ends the others; after ctx has ended this changes nothing
			stopped <- err
		}()
	}
	<-ctx.Done()
	split.close()

	timeout, done := context.WithTimeout(context.Background(), grace)
	defer done()
	force := context.AfterFunc(timeout, grpcServer.Stop)
	go func() {
		if httpServer.Shutdown(timeout) != nil {
			_ = httpServer.Close() // its listener is closed already
		}
		stopped <- nil
	}()
	grpcServer.GracefulStop()
	force()
	for range cap(stopped) + 1 {
		<-stopped
	}
	if cause := context.Cause(ctx); !errors.Is(cause, context.Canceled) && !errors.Is(cause, context.DeadlineExceeded) {
		return fmt.Errorf("rest: %w", cause)
	}
	return nil
}

// Start does for each listener what Serve does, until stop is called, which returns the
// errors. It calls failed, where that is not nil, with an error that comes before.
func Start(listeners []net.Listener, s Services, o *Options, failed func(error)) (stop func() error) {
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, len(listeners))
	for _, l := range listeners {
		go func() {
			err := Serve(ctx, l, s, o)
			if ctx.Err() == nil && failed != nil {
				failed(err)
			}
			served <- err
		}()
	}
	return func() (err error) {
		cancel()
		for range listeners {
			err = errors.Join(err, <-served)
		}
		return err
	}
}

func newGRPC(s Services, g guard) *grpc.Server {
	server := grpc.NewServer(
		grpc.MaxRecvMsgSize(MaxSize),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 5 * time.Second, PermitWithoutStream: true}),
		grpc.UnaryInterceptor(func(ctx context.Context, request any, _ *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (any, error) {
			if err := g.checkCall(ctx); err != nil {
				return nil, err
			}
			return handle(ctx, request)
		}),
		grpc.StreamInterceptor(func(server any, stream grpc.ServerStream, _ *grpc.StreamServerInfo, handle grpc.StreamHandler) error {
			if err := g.checkCall(stream.Context()); err != nil {
				return err
			}
			return handle(server, stream)
		}),
	)
	for _, service := range s.all() {
		server.RegisterService(service.desc, service.server)
	}
	return server
}

// ending is a subscriber server whose pulls end when ctx does: they wait, and
// would hold up the end of Serve.
type ending struct {
	pubsubpb.SubscriberServer
	ctx context.Context
}

// Pull ends with UNAVAILABLE when Serve does.
func (e ending) Pull(ctx context.Context, r *pubsubpb.PullRequest) (*pubsubpb.PullResponse, error) {
	ctx, stop := e.until(ctx)
	defer stop()
	answer, err := e.SubscriberServer.Pull(ctx, r)
	return answer, e.explain(err)
}

// StreamingPull ends with UNAVAILABLE when Serve does.
func (e ending) StreamingPull(stream pubsubpb.Subscriber_StreamingPullServer) error {
	ctx, stop := e.until(stream.Context())
	defer stop()
	return e.explain(e.SubscriberServer.StreamingPull(endingStream{stream, ctx}))
}

func (e ending) until(ctx context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(e.ctx, cancel)
	return ctx, func() { stop(); cancel() }
}

// explain tells clients to come again.
func (e ending) explain(err error) error {
	if err != nil && e.ctx.Err() != nil {
		return status.Error(codes.Unavailable, "Pub/Sub is being stopped")
	}
	return err
}

type endingStream struct {
	pubsubpb.Subscriber_StreamingPullServer
	ctx context.Context
}

// Context ends with Serve.
func (s endingStream) Context() context.Context { return s.ctx }

// guard refuses requests that a web page may have sent.
type guard loopback.Names

// asked is what of a request says where it comes from.
type asked struct {
	host           string
	local          net.Addr // of the connection, here
	origins, sites []string
}

// check returns a PERMISSION_DENIED error for a foreign host, any origin, and a
// request that a browser sent from another site. An empty header is one too.
func (g guard) check(r asked) error {
	if !loopback.Names(g).Include(r.host, r.local) {
		return status.Errorf(codes.PermissionDenied, "the request is for the host %q, which is not this machine; use 127.0.0.1 or localhost, or give pushinbox local the name with --host-name", r.host)
	}
	if len(r.origins) > 0 {
		return status.Errorf(codes.PermissionDenied, "requests of web pages are refused, and this one has the Origin %q", r.origins[0])
	}
	if site, found := loopback.OtherSite(r.sites); found {
		return status.Errorf(codes.PermissionDenied, "requests of other web sites are refused, and this one has the Sec-Fetch-Site %q", site)
	}
	return nil
}

// checkCall is check for a gRPC call.
func (g guard) checkCall(ctx context.Context) error {
	r := asked{origins: metadata.ValueFromIncomingContext(ctx, "origin"), sites: metadata.ValueFromIncomingContext(ctx, "sec-fetch-site")}
	if authority := metadata.ValueFromIncomingContext(ctx, ":authority"); len(authority) > 0 {
		r.host = authority[0]
	}
	if p, ok := peer.FromContext(ctx); ok {
		r.local = p.LocalAddr
	}
	return g.check(r)
}

// checkRequest is check for a request of HTTP/1.
func (g guard) checkRequest(r *http.Request) error {
	if loopback.ForProxy(r) {
		return status.Error(codes.PermissionDenied, "this is not a proxy; send the path alone in the request line")
	}
	return g.check(asked{r.Host, loopback.LocalAddr(r), r.Header["Origin"], r.Header["Sec-Fetch-Site"]})
}
