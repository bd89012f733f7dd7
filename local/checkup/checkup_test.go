package checkup

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"testing"
	"time"

	"example.com/pushinbox/doctor"
	"example.com/pushinbox/local/pushfake"
	"example.com/pushinbox/local/records"
	"example.com/pushinbox/local/stack"
	"example.com/pushinbox/shared/delivery"
	"example.com/pushinbox/shared/settings"
)

// patient is a run that is broken in one way.
type patient struct {
	*stack.Stack
	t          *testing.T
	data       string
	deliveries chan pushfake.Delivery
	env        map[string]string
}

func newPatient(t *testing.T, change func(*stack.Options)) *patient {
	t.Helper()
	p := &patient{t: t, data: t.TempDir(), deliveries: make(chan pushfake.Delivery, 10_000), env: map[string]string{}}
	s, err := settings.Parse[stack.Settings](map[string]string{"GOOGLE_CLOUD_PROJECT": "local"})
	if err != nil {
		t.Fatal(err)
	}
	o := stack.Options{Settings: s, Data: p.data, Pushes: stack.TerraformDefaults(), Log: slog.New(slog.DiscardHandler), OnDelivery: func(d pushfake.Delivery) { p.deliveries <- d }}
	if change != nil {
		change(&o)
	}
	if p.Stack, err = stack.Start(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Close() })
	return p
}

func (p *patient) examine() *doctor.Report {
	return Examine(context.Background(), Options{Data: p.data, Getenv: func(name string) string { return p.env[name] }, DefaultURL: "http://127.0.0.1:1", Now: time.Now})
}

// call calls the run's Pub/Sub as curl does.
func (p *patient) call(method, path, body string) {
	p.t.Helper()
	r, err := http.NewRequestWithContext(p.t.Context(), method, "http://"+p.PubSubAddr+"/v1/"+path, strings.NewReader(body))
	if err != nil {
		p.t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		p.t.Fatal(err)
	}
	_, _ = io.Copy(io.Discard, resp.Body)
	_ = resp.Body.Close()
}

func (p *patient) publish(topic string) {
	p.call("POST", "projects/local/topics/"+topic+":publish", `{"messages":[{"data":"aGk="}]}`)
}

// use publishes to a new topic that has a subscription, and deletes the subscription.
func (p *patient) use(topic string) {
	p.call("PUT", "projects/local/topics/"+topic, "")
	p.call("PUT", "projects/local/subscriptions/"+topic, `{"topic":"projects/local/topics/`+topic+`"}`)
	p.publish(topic)
	p.call("DELETE", "projects/local/subscriptions/"+topic, "")
}

// pushes has the inbox's subscription push otherwise.
func (p *patient) pushes(config string) {
	p.call("POST", "projects/local/subscriptions/inbox-push:modifyPushConfig", `{"pushConfig":`+config+`}`)
}

// until waits for a finished push.
func (p *patient) until(ok func(pushfake.Delivery) bool) {
	p.t.Helper()
	for timeout := time.After(30 * time.Second); ; {
		select {
		case d := <-p.deliveries:
			if ok(d) {
				return
			}
		case <-timeout:
			p.t.Fatal("there was no such push")
		}
	}
}

func (p *patient) refused() {
	p.t.Helper()
	p.until(func(d pushfake.Delivery) bool { return !d.Acked })
}

// wrapped is a push configuration of the inbox's endpoint.
func (p *patient) wrapped(audience string) string {
	return fmt.Sprintf(`{"pushEndpoint":"%s/receive/wrapped","oidcToken":{"serviceAccountEmail":"%s","audience":"%s"}}`, p.URL, stack.PushAccount, audience)
}

// TestEachTrouble breaks a healthy run in one way at a time: exactly that is bad, and
// the command is one that mends it.
func TestEachTrouble(t *testing.T) {
	t.Parallel()
	slow := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "not yet", http.StatusTooEarly) }))
	t.Cleanup(slow.Close)
	ok := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	t.Cleanup(ok.Close)
	silent := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { _, _ = io.Copy(io.Discard, r.Body); <-r.Context().Done() }))
	t.Cleanup(silent.Close)
	for name, test := range map[string]struct {
		change func(*stack.Options)
		breaks func(*patient)
		want   string // check and what it is of; empty: nothing is bad
		says   string // is in what was seen
		run    string // is in the command
	}{
		"nothing":  {},
		"with_key": {change: func(o *stack.Options) { o.Host = netip.IPv4Unspecified() }},
		"stranger": {breaks: func(p *patient) {
			// Is not known to be wrong.
			resp, err := http.Post(p.URL+"/receive", "application/json", strings.NewReader("{}"))
			if err != nil {
				p.t.Fatal(err)
			}
			_ = resp.Body.Close()
		}, want: "?sender no_token", says: "no token", run: "pushinbox token"},
		"audience": {
			breaks: func(p *patient) { p.pushes(p.wrapped(p.URL + "/receive/")); p.publish("inbox"); p.refused() },
			want:   "endpoint inbox-push", says: `/receive/", and receive expects "http://`, run: "start pushinbox local again",
		},
		"no_token": {
			breaks: func(p *patient) {
				p.call("PUT", "projects/local/subscriptions/new-one", `{"topic":"projects/local/topics/inbox","pushConfig":{"pushEndpoint":"`+p.URL+`/receive/wrapped?a='$(id)&token=S3CRET"}}`)
				p.publish("inbox")
				p.refused()
			},
			want: "endpoint new-one", says: "it has no OIDC token", run: `subscriptions update new-one --project=local --push-endpoint='http://`,
		},
		"unreachable": {
			change: func(o *stack.Options) { o.Endpoints = []stack.Endpoint{{Topic: "orders", URL: "http://127.0.0.1:1/"}} },
			breaks: func(p *patient) { p.publish("orders"); p.refused() },
			want:   "endpoint orders-push-1", says: "nothing listens", run: "start the program",
		},
		"other_program": {
			change: func(o *stack.Options) { o.Endpoints = []stack.Endpoint{{Topic: "orders", URL: slow.URL}} },
			breaks: func(p *patient) { p.publish("orders"); p.refused() },
			want:   "endpoint orders-push-1", says: "the endpoint says: not yet", run: "delivery status",
		},
		"paused": {
			breaks: func(p *patient) {
				err := records.Open(p.data).Put(p.t.Context(), &delivery.Operation{Kind: delivery.Pause, Subscription: p.Pushes.Name, Principal: "a colleague", At: time.Now(), LostFrom: time.Now()})
				if err != nil {
					p.t.Fatal(err)
				}
				p.pushes("{}")
			},
			want: "paused inbox-push", says: "by a colleague; what waits is lost from", run: "pushinbox delivery resume --subscription inbox-push --data /",
		},
		"redrive": {
			breaks: func(p *patient) {
				p.call("POST", "projects/local/subscriptions/inbox-dead-letter:modifyPushConfig", `{"pushConfig":`+p.wrapped(p.URL+"/receive")+`}`)
			},
			want: "redrive inbox-dead-letter", run: "dead-letters redrive --stop",
		},
		"redrive_with_an_old_copy": {
			breaks: func(p *patient) {
				p.call("POST", "projects/local/subscriptions/inbox-dead-letter:modifyPushConfig", `{"pushConfig":`+p.wrapped(p.URL+"/receive/")+`}`)
				p.publish("inbox-dead-letter")
				p.refused()
			},
			want: "redrive inbox-dead-letter", says: `/receive/", account "`, run: "pushinbox dead-letters redrive --data /",
		},
		"topic_deleted": {
			breaks: func(p *patient) {
				p.call("PUT", "projects/local/topics/doomed", "{}")
				p.call("PUT", "projects/local/subscriptions/doomed-s", `{"topic":"projects/local/topics/doomed","pushConfig":{"pushEndpoint":"`+silent.URL+`"}}`)
				p.publish("doomed")
				p.call("DELETE", "projects/local/topics/doomed", "")
			},
			want: "subscription doomed-s", says: "1 message waits in it", run: "pushinbox delivery status --subscription doomed-s",
		},
		"dead_letters": {
			breaks: func(p *patient) { p.publish("inbox-dead-letter") },
			want:   "dead_letters inbox-dead-letter", run: "dead-letters list",
		},
		"dead_letters_of_a_program": {
			change: func(o *stack.Options) { o.Endpoints = []stack.Endpoint{{Topic: "orders", URL: ok.URL}} },
			breaks: func(p *patient) { p.publish("orders-dead-letter") },
			want:   "dead_letters orders-dead-letter", run: "dead-letters list --subscription orders-push-1",
		},
		"dead_letters_of_two_programs": {
			change: func(o *stack.Options) {
				o.Endpoints = []stack.Endpoint{{Topic: "orders", URL: ok.URL}, {Topic: "orders", URL: ok.URL}}
			},
			breaks: func(p *patient) { p.publish("orders-dead-letter") },
			want:   "dead_letters orders-dead-letter", run: "dead-letters list --dead-letter-subscription orders-dead-letter",
		},
		"no_dead_letter_topic": {
			breaks: func(p *patient) {
				p.call("DELETE", "projects/local/subscriptions/inbox-dead-letter", "")
				p.call("DELETE", "projects/local/topics/inbox-dead-letter", "")
			},
			want: "dead_letters inbox-push", says: "", run: "gcloud pubsub topics create inbox-dead-letter --project=local",
		},
		"detached": {
			breaks: func(p *patient) { p.call("POST", "projects/local/subscriptions/inbox-push:detach", "") },
			want:   "subscription inbox-push", says: "", run: "subscriptions delete inbox-push",
		},
		"deleted": {
			breaks: func(p *patient) { p.call("DELETE", "projects/local/subscriptions/inbox-push", "") },
			want:   "subscription inbox-push", run: "start pushinbox local again",
		},
		"inbox_moved": {
			breaks: func(p *patient) {
				if err := os.Rename(filepath.Join(p.data, "inbox.db"), filepath.Join(p.data, "away")); err != nil {
					p.t.Fatal(err)
				}
				p.publish("inbox")
				p.refused()
			},
			want: "inbox ", says: "deleted, moved", run: "start pushinbox local again",
		},
		"other_project": {
			breaks: func(p *patient) {
				p.call("POST", "projects/demo/topics/inbox:publish", `{"messages":[{"data":"aGk="}]}`)
			},
			want: "topic projects/demo/topics/inbox", says: "not found", run: "GOOGLE_CLOUD_PROJECT=local",
		},
		"other_topic": {
			breaks: func(p *patient) { p.call("PUT", "projects/local/topics/outbox", ""); p.publish("outbox") },
			want:   "topic projects/local/topics/outbox", says: "the last at", run: "the topic inbox",
		},
		"topic_used_and_deleted": {breaks: func(p *patient) {
			p.use("orders")
			p.publish("orders") // to nobody
			p.call("DELETE", "projects/local/topics/orders", "")
			p.call("PUT", "projects/local/topics/orders", "")
		}},
		"topic_used": {breaks: func(p *patient) { p.use("orders") }},
		"topic_created_later": {breaks: func(p *patient) {
			p.publish("orders")
			p.call("PUT", "projects/local/topics/orders", "")
		}},
		"other_port": {
			breaks: func(p *patient) { p.env["PUBSUB_EMULATOR_HOST"] = "localhost:1" },
			want:   "shell PUBSUB_EMULATOR_HOST", says: `"localhost:1" here`, run: "export PUBSUB_EMULATOR_HOST=127.0.0.1:",
		},
		"other_project_here": {
			breaks: func(p *patient) {
				p.env["PUBSUB_EMULATOR_HOST"], p.env["GOOGLE_CLOUD_PROJECT"] = strings.Replace(p.PubSubAddr, "127.0.0.1", "localhost", 1), "demo"
			},
			want: "shell GOOGLE_CLOUD_PROJECT", says: `"demo" here`, run: "export GOOGLE_CLOUD_PROJECT=local",
		},
		"ended": {
			breaks: func(p *patient) {
				path := filepath.Join(p.data, "local.json")
				b, err := os.ReadFile(path)
				if err == nil {
					_ = p.Close()
					err = os.WriteFile(path, b, 0o600) // as after kill -9
				}
				if err != nil {
					p.t.Fatal(err)
				}
			},
			want: "run ", says: "local.json", run: "# start it again, with the other flags that it had",
		},
		"suspended": {
			breaks: func(p *patient) {
				if runtime.GOOS != "linux" {
					p.t.Skip("the system does not tell")
				}
				stopped := exec.Command("sh", "-c", "kill -STOP $$")
				path := filepath.Join(p.data, "local.json")
				b, err := os.ReadFile(path)
				if err = errors.Join(err, stopped.Start()); err != nil {
					p.t.Fatal(err)
				}
				p.t.Cleanup(func() { _ = stopped.Process.Kill(); _ = stopped.Wait() })
				_ = p.Close()
				b = regexp.MustCompile(`"pid": \d+`).ReplaceAll(b, fmt.Appendf(nil, `"pid": %d`, stopped.Process.Pid))
				if err := os.WriteFile(path, b, 0o600); err != nil {
					p.t.Fatal(err)
				}
				for stat := fmt.Sprintf("/proc/%d/stat", stopped.Process.Pid); !strings.Contains(string(b), ") T "); {
					if b, err = os.ReadFile(stat); err != nil {
						p.t.Fatal(err)
					}
				}
			},
			want: "run ", says: "Ctrl-Z", run: "kill -CONT ",
		},
		"not_there": {
			breaks: func(p *patient) { _ = p.Close() },
			want:   "run ", says: "there is no ", run: "pushinbox local --data ",
		},
		"not_ours_alone": {
			breaks: func(p *patient) {
				if err := os.Chmod(p.data, 0o777); err != nil {
					p.t.Fatal(err)
				}
			},
			want: "data_directory ", says: "can be written to by others", run: "chmod go-w ",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newPatient(t, test.change)
			p.publish("inbox")
			p.until(func(d pushfake.Delivery) bool { return d.Acked })
			if test.breaks != nil {
				test.breaks(p)
			}
			r := p.examine()
			var bad []doctor.Finding
			result, want := doctor.Bad, test.want
			if rest, is := strings.CutPrefix(want, "?"); is {
				result, want = doctor.Unknown, rest
			}
			for _, f := range r.Findings {
				if f.Result == doctor.Bad || f.Result == result {
					bad = append(bad, f)
				}
				if text := fmt.Sprintf("%+v", f); strings.Contains(text, "S3CRET") {
					t.Errorf("the token is told: %s", text)
				}
			}
			if test.want == "" {
				if len(r.Findings) == 0 || r.Findings[0].Result != doctor.OK {
					t.Errorf("a healthy run: %+v", r.Findings)
				}
				return
			}
			if len(bad) != 1 {
				t.Fatalf("%d are bad: %+v", len(bad), bad)
			}
			f := bad[0]
			if f.Result != result || !strings.HasPrefix(f.Check+" "+f.On, want) || !strings.Contains(f.Evidence, test.says) || !strings.Contains(f.Command, test.run) || f.What == "" || f.Consequence == "" {
				t.Errorf("%+v", f)
			}
			if strings.Contains(f.Command, "$(id)") && !strings.Contains(f.Command, `'\''$(id)&token='"$PUBSUB_VERIFICATION_TOKEN"''`) {
				t.Errorf("the command does more than it says: %s", f.Command)
			}
		})
	}
}

// TestMended asks after the cause of refusals is gone: they are no longer how it is.
func TestMended(t *testing.T) {
	t.Parallel()
	endpoint := func(r *doctor.Report, on string) doctor.Finding {
		for _, f := range r.Findings {
			if f.Check == "endpoint" && f.On == on {
				return f
			}
		}
		t.Fatalf("nothing is said of %s: %+v", on, r.Findings)
		return doctor.Finding{}
	}
	t.Run("audience", func(t *testing.T) {
		t.Parallel()
		p := newPatient(t, nil)
		p.pushes(p.wrapped(p.URL + "/receive/"))
		p.publish("inbox")
		p.refused()
		p.pushes(p.wrapped(p.URL + "/receive"))
		if f := endpoint(p.examine(), "inbox-push"); f.Result == doctor.Bad || strings.Contains(f.Evidence, "expects") {
			t.Errorf("before the next push: %+v", f)
		}
		p.publish("inbox")
		p.until(func(d pushfake.Delivery) bool { return d.Acked })
		if f := endpoint(p.examine(), "inbox-push"); f.Result != doctor.OK || !strings.Contains(f.What, "403 audience") {
			t.Errorf("after it: %+v", f)
		}
	})
	t.Run("unreachable", func(t *testing.T) {
		t.Parallel()
		program := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
		address := program.Listener.Addr().String()
		_ = program.Listener.Close()
		p := newPatient(t, func(o *stack.Options) {
			o.Endpoints = []stack.Endpoint{{Topic: "orders", URL: "http://" + address + "/"}}
		})
		p.publish("orders")
		p.refused()
		if f := endpoint(p.examine(), "orders-push-1"); f.Result != doctor.Bad {
			t.Errorf("while nothing listens: %+v", f)
		}
		listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", address)
		if err != nil {
			t.Skip("another program took the port: ", err)
		}
		program.Listener = listener
		program.Start()
		t.Cleanup(program.Close)
		p.publish("orders")
		p.until(func(d pushfake.Delivery) bool { return d.Acked })
		if f := endpoint(p.examine(), "orders-push-1"); f.Result != doctor.OK {
			t.Errorf("after it was started: %+v", f)
		}
	})
}

// TestNothingPublished says that it does not know whether a program reaches the run.
func TestNothingPublished(t *testing.T) {
	t.Parallel()
	p := newPatient(t, nil)
	r := p.examine()
	if f := r.Findings[0]; f.Result != doctor.Unknown || f.Check != "topic" || !strings.Contains(f.Command, p.PubSubAddr) {
		t.Errorf("%+v", r.Findings)
	}
	if f := r.Findings[1]; f.Result != doctor.OK {
		t.Errorf("%+v", f)
	}
	// A run may serve other programs alone.
	p.use("orders")
	if f := p.examine().Findings[0]; f.Result != doctor.OK {
		t.Errorf("with messages to another topic: %+v", f)
	}
}

// TestRules compares facts that are dear to bring about.
func TestRules(t *testing.T) {
	t.Parallel()
	now := time.Now()
	for name, test := range map[string]struct {
		change func(*examination)
		want   string
		what   string
	}{
		"healthy": {func(*examination) {}, "", ""},
		"full":    {func(x *examination) { x.facts.WriteError = "no space left on device" }, "data_directory", "nothing can be written"},
		"full_for_publishers": {func(x *examination) {
			x.facts.WriteError = "no space left on device"
			x.facts.Topics[0].Refused, x.facts.Topics[0].LastRefused, x.facts.Topics[0].Why = 3, now, "no space left on device"
		}, "data_directory", "nothing can be written"},
		"publisher": {func(x *examination) {
			x.facts.Topics[0].Refused, x.facts.Topics[0].LastRefused, x.facts.Topics[0].Why = 3, now.Add(-time.Minute), "too large"
		}, "topic", "3 requests were refused"},
		"publisher_long_ago": {func(x *examination) {
			x.facts.Topics[0].Refused, x.facts.Topics[0].LastRefused, x.facts.Topics[0].Why = 3, now.Add(-2*time.Hour), "too large"
		}, "", ""},
		"little": {func(x *examination) { x.facts.FreeBytes = new(uint64(1 << 20)) }, "disk", "nearly full"},
		"large_ones": {func(x *examination) {
			x.facts.Inbox = stack.InboxFacts{Stored: 9, LargestStored: 100, Failed: 2, SmallestFailed: 1_000_000, LastError: "no space left", LastFailed: now, LastStored: now}
		}, "inbox", "only large ones: the smallest of them has 1000000 bytes, and the largest that was stored since 100"},
		"mended": {func(x *examination) {
			x.facts.Inbox = stack.InboxFacts{Stored: 9, Failed: 2, LastFailed: now.Add(-time.Hour), LastStored: now}
		}, "", ""},
		"mended_just_now": {func(x *examination) {
			x.facts.Inbox = stack.InboxFacts{Stored: 9, LargestStored: 100, Failed: 4, SmallestFailed: 100, LastError: "no space left", LastFailed: now.Add(-time.Minute), LastStored: now}
		}, "", ""},
		"mended_for_some": {func(x *examination) {
			x.report.Subscriptions[0].Backlog = new(int64(1))
			x.facts.Inbox = stack.InboxFacts{Stored: 9, LargestStored: 100, Failed: 4, SmallestFailed: 100, LastError: "no space left", LastFailed: now.Add(-time.Minute), LastStored: now}
		}, "inbox", "4 pushes were not stored"},
		"mended_for_small_ones": {func(x *examination) {
			x.facts.Inbox = stack.InboxFacts{Stored: 9, LargestStored: 99, Failed: 4, SmallestFailed: 100, LastError: "no space left", LastFailed: now.Add(-time.Minute), LastStored: now}
		}, "inbox", "only large ones"},
		"clock": {func(x *examination) { x.facts.StartedAt = now.Add(time.Hour) }, "clock", "set back"},
		"not_yet": {func(x *examination) {
			x.report.Refusals = []delivery.Refusal{{Last: now, Reason: "not_yet_valid", LastHour: 1, Subscription: "projects/local/subscriptions/gone"}}
		}, "clock", "tokens are refused because they are not valid yet"},
		"not_yet_of_a_stranger": {func(x *examination) {
			x.report.Refusals = []delivery.Refusal{{Last: now, Reason: "not_yet_valid", LastHour: 1, Status: 401}}
		}, "sender", "that no subscription of this run pushed"},
		"slow": {func(x *examination) { x.report.Subscriptions[0].LastHour.P99Millis = new(31_000.0) }, "pace", "takes long"},
		"no_answer": {func(x *examination) {
			x.report.Refusals = []delivery.Refusal{{Last: now, Reason: "timeout", LastHour: 1, Subscription: x.run.Subscription}}
		}, "endpoint", "timeout"},
		"no_words": {func(x *examination) {
			x.report.Subscriptions[0].Endpoint = "http://r/?token=…"
			x.report.Refusals = []delivery.Refusal{{Last: now, Reason: "no_answer", LastHour: 1, Subscription: x.run.Subscription}}
		}, "endpoint", "no_answer"},
		"emulator": {func(x *examination) {
			x.facts.Emulators = []stack.EmulatorFacts{{Variable: "FIRESTORE_EMULATOR_HOST", Host: "h:1", Error: "refused"}}
		}, "emulator", "does not answer"},
		"pubsub": {func(x *examination) { x.pubsub = io.EOF }, "pubsub_port", "does not answer"},
		"some_refused": {func(x *examination) {
			x.report.Refusals = []delivery.Refusal{{Last: now.Add(-time.Second), Status: 500, Reason: "status_500", LastHour: 9, Subscription: x.run.Subscription}}
			x.report.Subscriptions[0].Backlog, x.facts.Pushes[0].LastAcked = new(int64(1)), now
		}, "endpoint", "its last push was acknowledged"},
		"long_ago": {func(x *examination) {
			x.report.Refusals = []delivery.Refusal{{Last: now.Add(-30 * time.Minute), Reason: "audience", LastHour: 1, Subscription: x.run.Subscription}}
		}, "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			x := &examination{Options: Options{Getenv: func(string) string { return "" }}, now: now}
			x.run = &stack.Run{PID: 1}
			x.run.Subscription, x.run.Topic, x.run.PubSubEmulatorHost, x.run.Data = "projects/local/subscriptions/inbox-push", "projects/local/topics/inbox", "127.0.0.1:8085", "/d"
			x.facts = &stack.Facts{
				StartedAt: now.Add(-time.Hour), FreeBytes: new(uint64(1 << 40)),
				Topics: []stack.TopicFacts{{Name: x.run.Topic, Published: 1, Subscriptions: 1}},
				Pushes: []stack.PushFacts{{Name: x.run.Subscription, AckDeadlineSeconds: 60, IsOurs: true}},
			}
			x.report = &delivery.Report{Subscriptions: []delivery.Subscription{{Name: x.run.Subscription, State: delivery.Delivering, Backlog: new(int64(0)), LastHour: delivery.Window{P50Millis: new(3.0), P99Millis: new(9.0)}}}}
			test.change(x)
			x.check()
			var bad []doctor.Finding
			for _, f := range x.findings {
				if f.Result != doctor.OK && f.Because == "" {
					bad = append(bad, f)
				}
			}
			switch {
			case test.want == "" && len(bad) > 0:
				t.Errorf("%+v", bad)
			case test.want != "" && (len(bad) != 1 || bad[0].Check != test.want || !strings.Contains(bad[0].What, test.what) || bad[0].Command == ""):
				t.Errorf("%+v", bad)
			}
			for _, f := range bad {
				if strings.HasSuffix(strings.TrimSpace(f.Evidence), ":") {
					t.Errorf("something is left out: %+v", f)
				}
			}
		})
	}
}

// TestPortsOfSomebody has a local.json come with somebody's files: no command to copy has
// more of it than numbers.
func TestPortsOfSomebody(t *testing.T) {
	t.Parallel()
	const defaultURL = "http://127.0.0.1:8080"
	for _, c := range []struct{ url, pubsub, want string }{
		{"http://127.0.0.1:1", "127.0.0.1:2", " --port 1 --pubsub-port 2"},
		{defaultURL, fmt.Sprintf("127.0.0.1:%d", stack.PubSubPort), ""},
		{"http://127.0.0.1:1; touch evil #", "127.0.0.1:2; touch evil #", ""},
	} {
		if got := ports(&stack.Run{Addresses: stack.Addresses{URL: c.url, PubSubEmulatorHost: c.pubsub}}, defaultURL); got != c.want {
			t.Errorf("%+v: %q", c, got)
		}
	}
}
