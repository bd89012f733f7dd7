// Command pushgo is a Pub/Sub push endpoint: it prints what PUSH_SERVICE_ACCOUNT
// pushes, signed for PUSH_AUDIENCE. Try it: pushinbox run -- go run .
package main

import (
	"encoding/json"
	"fmt"
	"log"
	"net/http"
	"os"
	"strings"

	"google.golang.org/api/idtoken"
)

func main() {
	audience, account := os.Getenv("PUSH_AUDIENCE"), os.Getenv("PUSH_SERVICE_ACCOUNT")
	if audience == "" || account == "" {
		log.Fatal("set PUSH_AUDIENCE and PUSH_SERVICE_ACCOUNT")
	}
	http.HandleFunc("POST /", func(w http.ResponseWriter, r *http.Request) {
		token, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
		claims, err := idtoken.Validate(r.Context(), token, audience)
		if err != nil || claims.Claims["email"] != account || claims.Claims["email_verified"] != true {
			http.Error(w, "not a token of the push service account", http.StatusUnauthorized)
			return
		}
		var push struct {
			Message struct {
				MessageID string
				Data      []byte
			}
		}
		if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 15<<20)).Decode(&push); err != nil {
			http.Error(w, "not a push", http.StatusBadRequest)
			return
		}
		fmt.Printf("%s %s\n", push.Message.MessageID, push.Message.Data)
		w.WriteHeader(http.StatusNoContent)
	})
	log.Fatal(http.ListenAndServe("127.0.0.1:"+os.Getenv("PORT"), nil))
}
