package calendarfake

import (
	"cmp"
	"context"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"time"
)

// Channel is a channel of a calendar, or of the list of calendars.
type Channel struct {
	ID         string
	CalendarID string // empty for the list of calendars
	ResourceID string
	Address    string
	Token      string
	Expires    time.Time
}

// channel is a Channel with its state.
type channel struct {
	Channel
	Stopped bool
	Number  int64 // of the latest notification
}

// Notification is one notification to one channel.
type Notification struct {
	Channel Channel
	// State is sync or exists.
	State  string
	Number int64
}

// NotificationFault is what goes wrong with one notification.
type NotificationFault struct {
	// Drop never sends it.
	Drop bool
	// Duplicate sends it twice.
	Duplicate bool
	// Delay sends it this much later, so that later ones overtake it.
	Delay time.Duration
}

// pending is a notification that waits to be sent.
type pending struct {
	Notification
	retries int
}

const (
	firstRetry = time.Second
	maxRetries = 8
	// answerTimeout is how long a receiver has to answer.
	answerTimeout = 30 * time.Second
	maxChannelID  = 64
	maxToken      = 256
	userAgent     = "APIs-Google; (+https://developers.google.com/webmasters/APIs-Google.html)"
)

var channelID = regexp.MustCompile(`^[A-Za-z0-9_+/=-]+$`)

// channelBody is a channel as the API's JSON has it.
type channelBody struct {
	Kind        string            `json:"kind,omitempty"`
	ID          string            `json:"id,omitempty"`
	Type        string            `json:"type,omitempty"`
	Address     string            `json:"address,omitempty"`
	Token       string            `json:"token,omitempty"`
	ResourceID  string            `json:"resourceId,omitempty"`
	ResourceURI string            `json:"resourceUri,omitempty"`
	Expiration  int64             `json:"expiration,omitempty,string"` // Unix milliseconds
	Params      map[string]string `json:"params,omitempty"`
}

// Channels returns the live channels of a calendar, in the order of their expiry.
func (s *Server) Channels(calendarID string) []Channel {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.live(calendarID)
}

// live is Channels. The caller holds s.mu.
func (s *Server) live(calendarID string) []Channel {
	var live []Channel
	for _, ch := range s.channels {
		if ch.CalendarID == calendarID && s.lives(ch) {
			live = append(live, ch.Channel)
		}
	}
	slices.SortFunc(live, func(a, b Channel) int {
		return cmp.Or(a.Expires.Compare(b.Expires), cmp.Compare(a.ID, b.ID))
	})
	return live
}

func (s *Server) lives(ch *channel) bool { return !ch.Stopped && s.now().Before(ch.Expires) }

// watch creates a channel of a calendar, or of the list of calendars for an empty ID,
// and queues its sync notification. The caller holds s.mu.
func (s *Server) watch(calendarID string, b channelBody) (*channelBody, error) {
	now := s.now()
	expires := now.Add(s.channelTTL)
	if b.Expiration != 0 {
		expires = earlier(expires, time.UnixMilli(b.Expiration))
	}
	if ttl, ok := b.Params["ttl"]; ok {
		seconds, err := strconv.ParseInt(ttl, 10, 32)
		if err != nil {
			return nil, apiError(http.StatusBadRequest, "invalid", "Invalid ttl value.")
		}
		expires = earlier(expires, now.Add(time.Duration(seconds)*time.Second))
	}
	switch {
	case b.ID == "":
		return nil, apiError(http.StatusBadRequest, "required", "Required: entity.id")
	case len(b.ID) > maxChannelID || !channelID.MatchString(b.ID):
		return nil, apiError(http.StatusBadRequest, "channelIdInvalid", "Invalid channel id")
	case b.Type != "web_hook" && b.Type != "webhook":
		return nil, apiError(http.StatusBadRequest, "channelUnknown", "Unknown channel type")
	case !isHTTPS(b.Address):
		return nil, apiError(http.StatusBadRequest, "push.webhookUrlNotHttps", "WebHook callback must be HTTPS: "+b.Address)
	case len(b.Token) > maxToken:
		return nil, apiError(http.StatusBadRequest, "channelTokenTooLong", "Channel token is too long")
	case !expires.After(now):
		return nil, apiError(http.StatusBadRequest, "channelExpirationInPast", "Channel expiration is in the past")
	case s.channels[b.ID] != nil:
		return nil, apiError(http.StatusBadRequest, "channelIdNotUnique", "Channel id "+b.ID+" not unique")
	}
	ch := &channel{Channel: Channel{
		ID: b.ID, CalendarID: calendarID, ResourceID: resourceID(calendarID), Address: b.Address, Token: b.Token,
		Expires: time.UnixMilli(expires.UnixMilli()),
	}}
	s.channels[b.ID] = ch
	s.send(ch, "sync", 1)
	return &channelBody{
		Kind: "api#channel", ID: ch.ID, ResourceID: ch.ResourceID, ResourceURI: resourceURI(calendarID),
		Token: ch.Token, Expiration: ch.Expires.UnixMilli(),
	}, s.save()
}

// stop ends a channel. The caller holds s.mu.
func (s *Server) stop(b channelBody) error {
	ch := s.channels[b.ID]
	if ch == nil || ch.ResourceID != b.ResourceID || !s.lives(ch) {
		return apiError(http.StatusNotFound, "notFound", "Channel '"+b.ID+"' not found for project 'local'")
	}
	ch.Stopped = true
	return s.save()
}

// notify queues a notification for every live channel of a calendar, or of the list of
// calendars for an empty ID. The caller holds s.mu.
func (s *Server) notify(calendarID string, version int64) {
	for _, live := range s.live(calendarID) {
		ch := s.channels[live.ID]
		// Numbers increase, but are not consecutive.
		s.send(ch, "exists", ch.Number+1+version%3)
	}
}

// send queues a notification, unless a fault drops it. The caller holds s.mu.
func (s *Server) send(ch *channel, state string, number int64) {
	ch.Number = number
	n := Notification{Channel: ch.Channel, State: state, Number: number}
	f := s.notificationFault(n)
	if f.Drop {
		return
	}
	due := s.now().Add(f.Delay)
	s.queue.Add(&pending{Notification: n}, due)
	if f.Duplicate {
		s.queue.Add(&pending{Notification: n}, due)
	}
}

// Run sends notifications as they become due, until ctx ends.
func (s *Server) Run(ctx context.Context) {
	s.queue.Run(ctx, 1, func(p *pending) { s.attempt(ctx, p) })
}

// Deliver sends the notifications that are due, one after another, including those
// that become due meanwhile. It returns when the next one is due; ok is false when
// there is none. A simulation calls it in place of Run.
func (s *Server) Deliver(ctx context.Context) (next time.Time, ok bool) {
	return s.queue.Deliver(ctx, func(p *pending) { s.attempt(ctx, p) })
}

// deliverSync sends the sync notification of a new channel at once.
func (s *Server) deliverSync(ctx context.Context, channelID string) {
	for _, p := range s.queue.Remove(func(p *pending) bool { return p.Channel.ID == channelID }) {
		s.attempt(ctx, p)
	}
}

// attempt sends p once and queues it again when the answer asks for a retry.
func (s *Server) attempt(ctx context.Context, p *pending) {
	switch s.post(ctx, &p.Notification) {
	case http.StatusInternalServerError, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
	default:
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if p.retries == maxRetries || !s.lives(s.channels[p.Channel.ID]) {
		return
	}
	pause := firstRetry << p.retries
	p.retries++
	s.queue.Add(p, s.now().Add(pause))
}

// post sends a notification and returns the status of the answer.
func (s *Server) post(ctx context.Context, n *Notification) int {
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, n.Channel.Address, http.NoBody)
	if err != nil {
		return http.StatusBadRequest
	}
	h := r.Header
	h.Set("Accept", "*/*")
	h.Set("Content-Type", "application/json; charset=UTF-8")
	h.Set("User-Agent", userAgent)
	h.Set("X-Goog-Channel-ID", n.Channel.ID)
	h.Set("X-Goog-Channel-Expiration", n.Channel.Expires.UTC().Format(http.TimeFormat))
	h.Set("X-Goog-Message-Number", strconv.FormatInt(n.Number, 10))
	h.Set("X-Goog-Resource-ID", n.Channel.ResourceID)
	h.Set("X-Goog-Resource-State", n.State)
	h.Set("X-Goog-Resource-URI", resourceURI(n.Channel.CalendarID))
	if n.Channel.Token != "" {
		h.Set("X-Goog-Channel-Token", n.Channel.Token)
	}
	resp, err := s.transport.RoundTrip(r)
	if err != nil {
		return http.StatusServiceUnavailable
	}
	_ = resp.Body.Close()
	return resp.StatusCode
}

func resourceURI(calendarID string) string {
	if calendarID == "" {
		return "https://www.googleapis.com/calendar/v3/users/me/calendarList?alt=json"
	}
	return "https://www.googleapis.com/calendar/v3/calendars/" + url.PathEscape(calendarID) + "/events?alt=json"
}

func isHTTPS(address string) bool {
	u, err := url.Parse(address)
	return err == nil && u.Scheme == "https" && u.Host != ""
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}
