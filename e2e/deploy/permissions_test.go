package deploy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"cloud.google.com/go/firestore"
	pb "cloud.google.com/go/firestore/apiv1/firestorepb"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"

	"example.com/pushinbox/shared/inbox"
	"example.com/pushinbox/shared/inbox/firestoreinbox"
	"example.com/pushinbox/shared/process"
	"example.com/pushinbox/shared/pushendpoint"
	"example.com/pushinbox/testkit/emulator"
	"example.com/pushinbox/testkit/google"
)

// needed returns what a call takes by the table "Required permissions for API methods"
// of https://cloud.google.com/firestore/docs/security/iam, in copies of 2026.
func needed(method string, request []byte) ([]string, error) {
	const (
		database = "datastore.databases.get" // to begin a transaction, to roll it back
		create   = "datastore.entities.create"
		remove   = "datastore.entities.delete"
		get      = "datastore.entities.get"
		list     = "datastore.entities.list"
		update   = "datastore.entities.update"
	)
	writes := func(all []*pb.Write) []string {
		var needs []string
		for _, w := range all {
			exists, says := w.GetCurrentDocument().GetConditionType().(*pb.Precondition_Exists)
			switch {
			case w.GetDelete() != "":
				needs = append(needs, remove)
			case w.GetUpdate() == nil && w.GetTransform() == nil:
				needs = append(needs, "unknown: "+w.String())
			case says && !exists.Exists:
				needs = append(needs, create)
			case w.GetCurrentDocument() != nil: // it exists, or was changed at a certain time
				needs = append(needs, update)
			default:
				needs = append(needs, create, update)
			}
		}
		return needs
	}
	name := strings.TrimPrefix(method, "/google.firestore.v1.Firestore/")
	message := map[string]proto.Message{
		"BatchGetDocuments": &pb.BatchGetDocumentsRequest{}, "BatchWrite": &pb.BatchWriteRequest{}, "BeginTransaction": &pb.BeginTransactionRequest{},
		"Commit": &pb.CommitRequest{}, "Rollback": &pb.RollbackRequest{}, "RunQuery": &pb.RunQueryRequest{},
	}[name]
	if message == nil {
		return nil, fmt.Errorf("%s is not in this copy of the table; add what Firestore documents of it", method)
	}
	if err := proto.Unmarshal(request, message); err != nil {
		return nil, fmt.Errorf("%s: %w", method, err)
	}
	var needs []string
	switch r := message.(type) {
	case *pb.BatchGetDocumentsRequest:
		needs = []string{get}
		if r.GetNewTransaction() != nil {
			needs = append(needs, database)
		}
	case *pb.RunQueryRequest:
		needs = []string{get, list}
		if r.GetNewTransaction() != nil {
			needs = append(needs, database)
		}
	case *pb.BatchWriteRequest:
		needs = writes(r.GetWrites())
	case *pb.CommitRequest:
		if needs = writes(r.GetWrites()); len(needs) == 0 {
			needs = []string{database}
		}
	default:
		needs = []string{database}
	}
	return needs, nil
}

// calls keeps what went through a gRPC server that hands everything on.
type calls struct {
	mu    sync.Mutex
	needs map[string][]string // by permission: the methods that take it
	errs  []error
}

func (c *calls) heard(method string, request []byte) {
	needs, err := needed(method, request)
	c.mu.Lock()
	defer c.mu.Unlock()
	if err != nil {
		c.errs = append(c.errs, err)
	}
	name := method[strings.LastIndex(method, "/")+1:]
	for _, p := range needs {
		if !slices.Contains(c.needs[p], name) {
			c.needs[p] = append(c.needs[p], name)
		}
	}
}

// bytesCodec leaves messages as they are on the wire.
type bytesCodec struct{}

func (bytesCodec) Name() string                    { return "proto" }
func (bytesCodec) Marshal(v any) ([]byte, error)   { return *v.(*[]byte), nil }
func (bytesCodec) Unmarshal(b []byte, v any) error { *v.(*[]byte) = b; return nil }

// listen serves what host serves, hears every request, and returns its address.
func (c *calls) listen(t *testing.T, host string) string {
	t.Helper()
	conn, err := grpc.NewClient(host, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDefaultCallOptions(grpc.ForceCodec(bytesCodec{}), grpc.MaxCallRecvMsgSize(16<<20)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer(grpc.ForceServerCodec(bytesCodec{}), grpc.MaxRecvMsgSize(16<<20), grpc.UnknownServiceHandler(func(_ any, in grpc.ServerStream) error {
		method, _ := grpc.MethodFromServerStream(in)
		ctx, cancel := context.WithCancel(in.Context())
		defer cancel()
		header, _ := metadata.FromIncomingContext(ctx)
		out, err := conn.NewStream(metadata.NewOutgoingContext(ctx, header), &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, method)
		if err != nil {
			return err
		}
		go func() {
			for {
				var request []byte
				if err := in.RecvMsg(&request); err != nil {
					if errors.Is(err, io.EOF) {
						_ = out.CloseSend() // the answer tells
					}
					return
				}
				c.heard(method, request)
				if out.SendMsg(&request) != nil {
					return // the answer tells
				}
			}
		}()
		for {
			var answer []byte
			switch err := out.RecvMsg(&answer); {
			case errors.Is(err, io.EOF):
				return nil
			case err != nil:
				return err
			}
			if err := in.SendMsg(&answer); err != nil {
				return err
			}
		}
	}))
	go func() { _ = s.Serve(l) }()
	t.Cleanup(s.Stop)
	return l.Addr().String()
}

// TestPermissions has a user's function do all that it may do through its transaction,
// and the endpoint around it all that it does of itself: store a message, find it
// stored, put a large one into chunks, quarantine what was rejected and what cannot be
// decoded, and roll back. What Firestore documents that these calls take is Terraform's
// role, to the letter. The emulator has no permissions, so that nothing else tells.
func TestPermissions(t *testing.T) {
	t.Parallel()
	heard := &calls{needs: map[string][]string{}}
	store, err := process.Open(t.Context(), firestoreinbox.Config{
		Project: emulator.Project(), Database: "(default)", Collection: "messages", Shards: 16, TTL: time.Hour,
		EmulatorHost: heard.listen(t, emulator.Firestore(t)),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = store.Close() })
	const audience, account = "https://orders-1.europe-west1.run.app", "inbox-push@demo-project.iam.gserviceaccount.com"
	issuer, verifier := google.Issuer(t)
	h, err := process.New(process.Config{Name: "orders"}, pushendpoint.Config{Audience: audience, ServiceAccount: account, AckDeadline: time.Minute}, verifier, store,
		func(ctx context.Context, tx *firestore.Transaction, m *inbox.Message) error {
			all := process.Client(ctx).Collection("orders")
			if m.Attributes["kind"] == "invalid" {
				return process.Reject(errors.New("no such order"))
			}
			_, err := process.Once(ctx, tx, process.Client(ctx).Collection("orders-done"), m.ID, func(context.Context) error {
				if _, err := tx.GetAll([]*firestore.DocumentRef{all.Doc("a"), all.Doc("b")}); err != nil {
					return err
				}
				if _, err := tx.Documents(all.Where("open", "==", true).Limit(1)).GetAll(); err != nil {
					return err
				}
				if m.Attributes["kind"] == "failing" {
					return errors.New("not now")
				}
				order := all.Doc(m.ID)
				return errors.Join(
					tx.Create(order, map[string]any{"open": true}),
					tx.Set(all.Doc("a"), map[string]any{"total": 1}),
					tx.Set(all.Doc("a"), map[string]any{"last": m.ID}, firestore.MergeAll),
					tx.Update(all.Doc("a"), []firestore.Update{{Path: "total", Value: firestore.Increment(1)}}),
					tx.Delete(all.Doc("b")),
				)
			})
			return err
		}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	push := func(want int, body string) {
		t.Helper()
		r := httptest.NewRequest(http.MethodPost, "/wrapped", strings.NewReader(body)).WithContext(t.Context())
		r.Header.Set("Authorization", "Bearer "+google.Token(t, issuer, audience, account))
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if w.Code != want {
			t.Errorf("answered %d, want %d: %s", w.Code, want, w.Body)
		}
	}
	message := func(id, kind, data string) string {
		return fmt.Sprintf(`{"message":{"messageId":%q,"data":%q,"attributes":{"kind":%q}},"subscription":"projects/p/subscriptions/s"}`, id, data, kind)
	}
	push(http.StatusNoContent, message("1", "order", "aGVsbG8="))
	push(http.StatusNoContent, message("1", "order", "aGVsbG8="))
	push(http.StatusNoContent, message("2", "order", strings.Repeat("AAAA", 1<<19)))
	push(http.StatusNoContent, message("3", "invalid", "aGVsbG8="))
	push(http.StatusNoContent, `{"message":{}}`)
	push(http.StatusServiceUnavailable, message("4", "failing", "aGVsbG8="))

	heard.mu.Lock()
	defer heard.mu.Unlock()
	for _, err := range heard.errs {
		t.Error(err)
	}
	t.Logf("%v", heard.needs)
	if diff := cmp.Diff(rolePermissions(t, "process"), slices.Sorted(maps.Keys(heard.needs))); diff != "" {
		t.Errorf("what the role has (-) and what the calls take (+):\n%s", diff)
	}
}

// rolePermissions returns what a custom role of the module permits, sorted.
func rolePermissions(t *testing.T, name string) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(root, "terraform", "*.tf"))
	if err != nil {
		t.Fatal(err)
	}
	role := regexp.MustCompile(`(?ms)^resource "google_project_iam_custom_role" "` + name + `" \{\n.*?^  permissions = \[\n(.*?)^  \]\n`)
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if match := role.FindSubmatch(b); match != nil {
			var all []string
			for _, p := range regexp.MustCompile(`"([^"]+)"`).FindAllSubmatch(match[1], -1) {
				all = append(all, string(p[1]))
			}
			slices.Sort(all)
			return all
		}
	}
	t.Fatalf("terraform/ has no role %s", name)
	return nil
}
