package pushfake_test

import (
	"io"
	"net"
	"strings"
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
		t.Run(name, func(t *testing.T) {
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
						if _, err := conn.Read(make([]byte, 8<<10)); err != nil {
							return
						}
						_, err := io.WriteString(conn, tc.answer)
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
			server.Client.Publisher(server.Topic).Publish(t.Context(), &pubsub.Message{Data: []byte("a")})
			for range 2 {
				if d := receive(t, deliveries); d.Acked || d.Status != tc.status || d.Duration > 5*time.Second {
					t.Errorf("delivery: %+v", d)
				}
			}
		})
	}
}
