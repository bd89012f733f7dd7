package pushfake_test

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"cloud.google.com/go/pubsub/v2"

	"example.com/pushinbox/local/pushfake"
)

// TestHostileAnswers has endpoints answer what no answer is, without an end or with
// more than one: none acknowledges, holds a push up to the ack deadline, or answers
// the push after it.
func TestHostileAnswers(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		answer, repeat string
		status         int
	}{
		"endless_header":      {answer: "HTTP/1.1 204 No Content\r\n", repeat: "a: " + strings.Repeat("b", 1000) + "\r\n"},
		"endless_information": {repeat: "HTTP/1.1 103 Early Hints\r\n\r\n"},
		"endless_line":        {repeat: "HTTP/1.1 204 " + strings.Repeat("a", 1000)},
		"not_http":            {answer: "SSH-2.0-OpenSSH_9.9\r\n"},
		"closed":              {},
		"two_answers": {
			answer: "HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n", status: 500,
		},
	} {
		for way, size := range map[string]int{"poster": 1, "transport": 100 << 10} {
			t.Run(name+"/"+way, func(t *testing.T) {
				t.Parallel()
				listener, err := net.Listen("tcp", "127.0.0.1:0")
				if err != nil {
					t.Fatal(err)
				}
				defer listener.Close()
				go func() {
					for {
						conn, err := listener.Accept()
						if err != nil {
							return
						}
						go func() {
							defer conn.Close()
							r, err := http.ReadRequest(bufio.NewReader(conn))
							if err != nil {
								return
							}
							_, _ = io.Copy(io.Discard, r.Body)
							_, err = io.WriteString(conn, tc.answer)
							for tc.repeat != "" && err == nil {
								_, err = io.WriteString(conn, tc.repeat)
							}
							if tc.status != 0 {
								_, _ = io.Copy(io.Discard, conn) // it stays open
							}
						}()
					}
				}()
				deliveries := make(chan pushfake.Delivery, 10)
				server, err := pushfake.Start(t.Context(), "http://"+listener.Addr().String(), &pushfake.ServerOptions{Dispatcher: pushfake.Options{
					OnDelivery: func(d pushfake.Delivery) { deliveries <- d },
				}})
				if err != nil {
					t.Fatal(err)
				}
				defer server.Close()
				server.Client.Publisher(server.Topic).Publish(t.Context(), &pubsub.Message{Data: make([]byte, size)})
				for range 2 {
					if d := receive(t, deliveries); d.Acked || d.Status != tc.status || d.Duration > 5*time.Second {
						t.Errorf("delivery: %+v", d)
					}
				}
			})
		}
	}
}

// TestAnswerOfARefusal tells the beginning of what an endpoint says when it refuses,
// and of which connections there are, whichever way the push takes.
func TestAnswerOfARefusal(t *testing.T) {
	t.Parallel()
	said := "no, because " + strings.Repeat("of that, ", 1000)
	status := new(atomic.Int64)
	endpoint := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.WriteHeader(int(status.Load()))
		_, _ = io.WriteString(w, said)
	}))
	defer endpoint.Close()
	deliveries, dialed := make(chan pushfake.Delivery, 10), make(chan net.Addr, 10)
	server, err := pushfake.Start(t.Context(), endpoint.URL, &pushfake.ServerOptions{Dispatcher: pushfake.Options{
		OnDelivery: func(d pushfake.Delivery) { deliveries <- d },
		OnDial:     func(c net.Conn) { dialed <- c.RemoteAddr() },
	}})
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	for name, size := range map[string]int{"small": 1, "large": 100_000} {
		status.Store(http.StatusConflict)
		server.Client.Publisher(server.Topic).Publish(t.Context(), &pubsub.Message{Data: make([]byte, size)})
		if d := receive(t, deliveries); d.Acked || string(d.Answer) != said[:1<<10] {
			t.Errorf("%s: refused: %d bytes: %.40q", name, len(d.Answer), d.Answer)
		}
		status.Store(http.StatusOK)
		d := receive(t, deliveries)
		for ; !d.Acked; d = receive(t, deliveries) {
		}
		if len(d.Answer) != 0 {
			t.Errorf("%s: acknowledged: %.40q", name, d.Answer)
		}
		if at := receive(t, dialed).String(); at != endpoint.Listener.Addr().String() {
			t.Errorf("%s: connected to %s", name, at)
		}
	}
}
