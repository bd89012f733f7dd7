package stack

import (
	"bytes"
	"log/slog"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"testing"

	"example.com/pushinbox/testkit/port"
)

// TestProxySurvivesRestart starts runs in one directory: programs of the first one have
// the address of its proxy, its certificate and its password.
func TestProxySurvivesRestart(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	o := options(t)
	o.Host = netip.IPv4Unspecified() // so that there is a password
	o.Log = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelWarn}))
	run := func() (proxy string, p Program) {
		t.Helper()
		s, err := Start(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		return s.ProxyURL, s.Program()
	}
	fixed := port.Reserve(t) // no other test gets it meanwhile
	o.ProxyPort, _ = strconv.Atoi(fixed)
	first, program := run()
	o.ProxyPort = 0
	if again, same := run(); again != first || same != program || program.Password == "" {
		t.Errorf("after a restart it is %s %+v, want %s %+v", again, same, first, program)
	}
	if log.Len() > 0 {
		t.Errorf("the log is:\n%s", log.String())
	}
	other, err := net.Listen("tcp4", "127.0.0.1:"+fixed)
	if err != nil {
		t.Fatal(err)
	}
	taken, _ := run()
	if err := other.Close(); err != nil {
		t.Error(err)
	}
	if taken == first || !strings.Contains(log.String(), "was on port "+fixed) || !strings.Contains(log.String(), "start them again") {
		t.Errorf("on a taken port it is %s; the log is:\n%s", taken, log.String())
	}
}
