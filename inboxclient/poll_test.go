package inboxclient

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"example.com/pushinbox/shared/inbox"
)

// TestFollow has a console answer a message at a time, lose a connection and answer
// with none.
func TestFollow(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex // each connection has a goroutine of its own
	var asked []string
	c, _ := newClient(t, func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		asked = append(asked, r.URL.Query().Get("after"))
		if wait := r.URL.Query().Get("wait"); wait != pollWait.String() {
			t.Errorf("asked to wait for %q", wait)
		}
		switch len(asked) {
		case 2:
			panic(http.ErrAbortHandler)
		case 4:
			fmt.Fprint(w, `{"messages":[],"next":"behind"}`)
			return
		}
		n, _ := strconv.Atoi(strings.TrimPrefix(r.URL.Query().Get("after"), "t"))
		fmt.Fprintf(w, `{"messages":[{"token":"t%d",%s],"next":"t%d"}`, n+1, message(n+1, nil)[1:], n+1)
	}, nil)
	var got []string
	for e, err := range c.Follow(t.Context(), inbox.Query{PageToken: "t0"}) {
		if err != nil {
			t.Fatal(err)
		}
		mu.Lock()
		n := len(asked)
		mu.Unlock()
		if got = append(got, e.Token+"="+e.Message.MessageID); n == 5 {
			break
		}
	}
	mu.Lock()
	defer mu.Unlock()
	if want := "[t1=1 t2=2 t1=1]"; fmt.Sprint(got) != want || fmt.Sprint(asked) != "[t0 t1 t1 t2 behind]" {
		t.Errorf("got %v after %v", got, asked)
	}
}

func TestPollAnswers(t *testing.T) {
	t.Parallel()
	answer := ""
	c, _ := newClient(t, func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, answer) }, nil)
	for _, answer = range []string{
		`{"messages":[` + message(1, nil) + `],"next":"t"}`, // no token
		`{"messages":[]}`,
		`{"messages":[null],"next":"t"}`,
		`[]`,
	} {
		if _, _, err := c.Poll(t.Context(), inbox.Query{}, 0); err == nil {
			t.Errorf("%s is taken", answer)
		}
	}
	answer = `{"messages":[{"token":"t",` + message(1, nil)[1:] + `],"next":"t"}`
	if _, _, err := c.Poll(t.Context(), inbox.Query{MessageID: "2"}, 0); !errors.Is(err, ErrFilter) {
		t.Errorf("a message that was not asked for: %v", err)
	}
}

// TestFollowIsPatient has something answer at once that does not wait: it is not asked
// without end.
func TestFollowIsPatient(t *testing.T) {
	t.Parallel()
	var asked atomic.Int32
	c, _ := newClient(t, func(w http.ResponseWriter, _ *http.Request) {
		asked.Add(1)
		fmt.Fprint(w, `{"messages":[],"next":"t"}`)
	}, nil)
	ctx, cancel := context.WithTimeout(t.Context(), leastPause/2)
	defer cancel()
	for _, err := range c.Follow(ctx, inbox.Query{}) {
		t.Fatal(err)
	}
	if n := asked.Load(); n != 1 {
		t.Errorf("asked %d times", n)
	}
}

// TestFollowGoesOn refuses a next token that would yield the same messages again.
func TestFollowGoesOn(t *testing.T) {
	t.Parallel()
	c, _ := newClient(t, func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(w, `{"messages":[{"token":"t1",%s],"next":"t0"}`, message(1, nil)[1:])
	}, nil)
	n := 0
	for _, err := range c.Follow(t.Context(), inbox.Query{PageToken: "t0"}) {
		if errors.Is(err, errAnswer) {
			return
		}
		if n++; n > 2 {
			break
		}
	}
	t.Errorf("it yielded %d messages", n)
}
