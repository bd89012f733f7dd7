package httpapi

import (
	"context"
	"log/slog"
	"net/http"
	"os"
	"sync"

	"example.com/pushinbox/shared/problem"
)

// Function returns the handler of the Cloud Function with this name, which
// open creates once. When the process was started to serve exactly this function
// (target, the value of FUNCTION_TARGET), it is created at once and a failure
// ends the process, so that a bad setting fails the deployment and not the
// first message. Otherwise it is created on first use.
func Function(name, target string, log *slog.Logger, open func(context.Context) (http.Handler, error)) http.HandlerFunc {
	once := sync.OnceValues(func() (http.Handler, error) { return open(context.Background()) })
	if name == target {
		if _, err := once(); err != nil {
			log.Error(name + " cannot start: " + err.Error())
			os.Exit(1)
		}
	}
	return AtOnce(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h, err := once()
		if err != nil {
			log.Error(name + " cannot start: " + err.Error())
			WriteError(w, problem.New(http.StatusServiceUnavailable, "the function is not configured; its log says what is missing"))
			return
		}
		h.ServeHTTP(w, r)
	})).ServeHTTP
}
