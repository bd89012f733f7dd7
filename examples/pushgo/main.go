// Command pushgo is a Pub/Sub push endpoint: it prints what PUSH_SERVICE_ACCOUNT
// pushes, signed for PUSH_AUDIENCE. To try it: docs/local.md, "Run your own program".
package main

import (
	"cmp"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"log"
	"net/http"
	"os"
	"strings"

	"google.golang.org/api/idtoken"
)

func main() {
	log.Fatal(http.ListenAndServe("127.0.0.1:"+os.Getenv("PORT"), http.HandlerFunc(push)))
}

func push(w http.ResponseWriter, r *http.Request) {
	token, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	claims, err := idtoken.Validate(r.Context(), token, cmp.Or(os.Getenv("PUSH_AUDIENCE"), "unset")) // empty would be any
	if err != nil || claims.Issuer != "https://accounts.google.com" || claims.Claims["email"] != os.Getenv("PUSH_SERVICE_ACCOUNT") || claims.Claims["email_verified"] != true {
		http.Error(w, "not a token of the push service account", http.StatusUnauthorized)
		return
	}
	var body struct {
		Message struct{ MessageID, Data string }
	}
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 15<<20)).Decode(&body); err != nil {
		http.Error(w, "not a push", http.StatusBadRequest)
		return
	}
	data, _ := base64.StdEncoding.DecodeString(body.Message.Data)
	fmt.Printf("%s %s\n", body.Message.MessageID, data)
	w.WriteHeader(http.StatusNoContent)
}
