// Package firestoredial says how this project connects to Firestore, the same
// for the inbox and for the calendar's state: to Google's, or to Google's
// emulator, and how soon again after an outage.
package firestoredial

import (
	"cmp"
	"context"
	"fmt"
	"time"

	"cloud.google.com/go/firestore"
	"google.golang.org/api/option"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
)

// MaxReconnectDelay bounds the wait between two tries to connect. gRPC's own is
// two minutes, in which every push would be refused after an outage is over.
const MaxReconnectDelay = 2 * time.Second

// Options returns the options of a client generated for Firestore's API.
// emulatorHost is host:port of Google's emulator, as in FIRESTORE_EMULATOR_HOST,
// whose security rules are passed as their owner; empty means Google's Firestore.
func Options(emulatorHost string) []option.ClientOption {
	var all []option.ClientOption
	for _, o := range dialOptions(emulatorHost) {
		all = append(all, option.WithGRPCDialOption(o))
	}
	if emulatorHost != "" {
		all = append(all, option.WithEndpoint(emulatorHost), option.WithoutAuthentication())
	}
	return all
}

// Client returns a client of cloud.google.com/go/firestore, which is the one for people, of
// a database; empty means (default). By itself it reads FIRESTORE_EMULATOR_HOST and brings a
// connection of its own, which only another connection replaces; the client closes it.
// emulatorHost is as in Options, and dial has further options of the connection.
func Client(ctx context.Context, project, database, emulatorHost string, dial []grpc.DialOption, options ...option.ClientOption) (*firestore.Client, error) {
	all := Options("")
	for _, o := range dial {
		all = append(all, option.WithGRPCDialOption(o))
	}
	if emulatorHost != "" {
		conn, err := grpc.NewClient(emulatorHost, append(dialOptions(emulatorHost), dial...)...)
		if err != nil {
			return nil, fmt.Errorf("FIRESTORE_EMULATOR_HOST %q is not a valid address, such as 127.0.0.1:8081: %w", emulatorHost, err)
		}
		all = []option.ClientOption{option.WithGRPCConn(conn)}
	}
	return firestore.NewClientWithDatabase(ctx, project, cmp.Or(database, "(default)"), append(all, options...)...)
}

func dialOptions(emulatorHost string) []grpc.DialOption {
	all := []grpc.DialOption{grpc.WithConnectParams(grpc.ConnectParams{
		Backoff:           backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: MaxReconnectDelay},
		MinConnectTimeout: 5 * time.Second,
	})}
	if emulatorHost != "" {
		all = append(all, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithPerRPCCredentials(owner{}))
	}
	return all
}

// owner passes the emulator's security rules.
type owner struct{}

func (owner) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return map[string]string{"authorization": "Bearer owner"}, nil
}

func (owner) RequireTransportSecurity() bool { return false }
