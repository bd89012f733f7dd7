package pushfake_test

import (
	"context"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"

	"cloud.google.com/go/pubsub/v2"
	"google.golang.org/api/idtoken"
	"google.golang.org/api/option"

	"example.com/pushinbox/local/pushfake"
)

// A push endpoint that checks Pub/Sub's token, tried with the check on.
func Example() {
	ctx := context.Background()
	var validator *idtoken.Validator
	var server *pushfake.Server
	pushed := make(chan string, 1)
	endpoint := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		token := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
		payload, err := validator.Validate(ctx, token, server.Audience)
		if err != nil {
			http.Error(w, err.Error(), http.StatusUnauthorized)
			return
		}
		body, _ := io.ReadAll(r.Body)
		pushed <- fmt.Sprintln(payload.Claims["email"]) + string(body[:11])
		w.WriteHeader(http.StatusNoContent)
	}))
	defer endpoint.Close()

	server, err := pushfake.Start(ctx, endpoint.URL, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer server.Close()
	validator, err = idtoken.NewValidator(ctx, option.WithHTTPClient(&http.Client{Transport: server.Issuer.Transport()}))
	if err != nil {
		log.Fatal(err)
	}
	server.Client.Publisher(server.Topic).Publish(ctx, &pubsub.Message{Data: []byte("Hello, World!")})
	fmt.Println(<-pushed)
	// Output:
	// pushfake@local.iam.gserviceaccount.com
	// {"message":
}
