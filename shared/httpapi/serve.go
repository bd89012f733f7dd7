package httpapi

import (
	"cmp"
	"context"
	"errors"
	"io"
	"log"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"os"
	"sync"
	"time"

	"example.com/pushinbox/shared/problem"
)

// What a server of ours accepts, beyond what each handler limits by itself.
const (
	// headerTime is how long a client may take to send a request's header.
	headerTime = 10 * time.Second
	// idleTime is longer than Google's front ends keep a connection, so that it is
	// they who close it: a request would be lost that is sent while we do.
	idleTime = 11 * time.Minute
	// maxHeader bounds a request's header, in bytes. A push without an envelope has
	// its attributes there: 100 of 256 + 1,024 bytes.
	maxHeader = 256 << 10
)

// NewServer returns a server for h that no client can occupy: headers arrive in
// 10 seconds and in 256 KiB, bodies in 30 seconds more, and answers are sent AtOnce, those of net/http to
// "OPTIONS *" included, which come to h.
func NewServer(h http.Handler) *http.Server {
	return &http.Server{
		Handler:                      AtOnce(h),
		ReadHeaderTimeout:            headerTime,
		ReadTimeout:                  headerTime + bodyTime,
		IdleTimeout:                  idleTime,
		MaxHeaderBytes:               maxHeader,
		DisableGeneralOptionsHandler: true,
		// What it has to say is about connections that strangers broke.
		ErrorLog: log.New(io.Discard, "", 0),
	}
}

var functions = struct {
	sync.Mutex
	byName map[string]http.Handler
}{byName: map[string]http.Handler{}}

// Functions returns the handler of each Cloud Function of this process by its name.
func Functions() map[string]http.Handler {
	functions.Lock()
	defer functions.Unlock()
	return maps.Clone(functions.byName)
}

// Function returns the handler of the Cloud Function with this name, which open
// creates once, and which Functions has from now on.
//
// When the process was started to serve exactly this function (target, the value
// of FUNCTION_TARGET), it is created at once, and a failure ends the process, so
// that a bad setting fails the deployment and not the first message. It is then
// served here, by NewServer on PORT, and the functions framework is left a free
// port that nobody reaches: the framework's server redirects "//" before a
// function is asked, and a stranger who withholds the body of such a request
// would occupy the instance.
func Function(name, target string, log *slog.Logger, open func(context.Context) (http.Handler, error)) http.HandlerFunc {
	once := sync.OnceValues(func() (http.Handler, error) { return open(context.Background()) })
	h := AtOnce(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h, err := once()
		if err != nil {
			log.Error(name + " cannot start: " + err.Error())
			WriteError(w, problem.New(http.StatusServiceUnavailable, "the function is not configured; its log says what is missing"))
			return
		}
		h.ServeHTTP(w, r)
	}))
	functions.Lock()
	functions.byName[name] = h
	functions.Unlock()
	if name == target {
		_, err := once()
		if err == nil {
			err = servePort(h, log)
		}
		if err != nil {
			log.Error(name + " cannot start: " + err.Error())
			os.Exit(1)
		}
	}
	return h.ServeHTTP
}

// servePort serves h on PORT, 8080 by default, for as long as the process runs.
func servePort(h http.Handler, log *slog.Logger) error {
	listener, err := net.Listen("tcp", net.JoinHostPort("", cmp.Or(os.Getenv("PORT"), "8080")))
	if err != nil {
		return err
	}
	go func() {
		if err := NewServer(h).Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			log.Error("cannot serve: " + err.Error())
			os.Exit(1)
		}
	}()
	return os.Setenv("PORT", "0")
}
