package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"net/url"
	"os"

	"github.com/spf13/cobra"
	"golang.org/x/oauth2"

	"example.com/pushinbox/local/stack"
	"example.com/pushinbox/shared/httpapi"
	"example.com/pushinbox/shared/problem"
)

func newConsole() *cobra.Command {
	var from server
	port := 8081
	cmd := &cobra.Command{
		Use:   "console",
		Short: "Open a deployed console in a browser on this machine",
		Long: `Open a deployed console in a browser on this machine.

The deployed console requires a Google ID token, which a browser does not send. This
command listens on this machine only, and adds the token to each request: that of an
account among the console's readers, such as Terraform's tester account.

` + serverHelp + `

Other accounts of this machine, and web pages, get nothing. The printed address has a key,
valid while the command runs, which your browser exchanges for a cookie. Its name ends in
.localhost; open it as it is. Your programs send the header in the printed file, which
only you can read. With --format json the first line has both.`,
		Example: `  pushinbox console --terraform terraform
  pushinbox console --url https://console-123.europe-west1.run.app --account inbox-tester@my-project.iam.gserviceaccount.com
  pushinbox console --terraform terraform --port 0 --format json | jq -r .login`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			console, err := from.find(cmd.Context())
			if err != nil {
				return err
			}
			if console.tokens == nil {
				if c, err := newClient("url", console.address); err != nil {
					return err
				} else if _, err := c.call(cmd.Context(), http.MethodGet, "", nil, nil); err != nil {
					return err
				}
				return usageError{fmt.Errorf("%s wants no token: open it in a browser as it is; a deployed console is named by --url or --terraform", console.address)}
			}
			return serveConsole(cmd, console, port)
		},
	}
	from.flags(cmd.Flags())
	portFlag(cmd.Flags(), "port", &port, "the port to listen on, on 127.0.0.1 and [::1]; 0 takes a free one")
	formatFlag(cmd)
	return cmd
}

// opened is the first line of JSON: where a deployed console is on this machine.
type opened struct {
	Console string `json:"console"`
	Login   string `json:"login"`
	URL     string `json:"url"`
	KeyFile string `json:"keyFile"`
	Account string `json:"account,omitempty"`
}

// serveConsole passes requests on until the command is stopped.
func serveConsole(cmd *cobra.Command, console *place, port int) error {
	u, err := url.Parse(console.address)
	if err != nil {
		return err
	}
	listeners, err := stack.Listen(netip.Addr{}, port)
	if err != nil {
		return fmt.Errorf("port %d: %w; choose another with --port", port, err)
	}
	key, err := stack.NewKey(os.TempDir(), "")
	if err != nil {
		return err
	}
	defer key.Close()
	at := listeners[0].Addr().String()
	as := ""
	if console.account != "" {
		as = "as " + console.account + ", "
	}
	err = show(cmd, opened{console.address, key.Login(at), "http://" + at, key.File, console.account},
		"%s is at %s\n%sfor programs too: curl -H @%s http://%s/messages\nCtrl-C stops it.\n", u.Host, key.Login(at), as, key.File, at)
	if err != nil {
		return err
	}
	server := httpapi.NewServer(stack.Door{Hosts: []string{key.Name}}.Guard(key.Require(pass(u, console.tokens))))
	stop := context.AfterFunc(cmd.Context(), func() { _ = server.Close() })
	defer stop()
	failed := make(chan error, len(listeners))
	for _, l := range listeners {
		go func() { failed <- server.Serve(l) }()
	}
	if err := <-failed; !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// pass sends requests on to a console, with a token.
func pass(target *url.URL, tokens oauth2.TokenSource) http.Handler {
	return &httputil.ReverseProxy{
		Transport: &oauth2.Transport{Source: tokens},
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(target)
			r.Out.Host = target.Host
			// Where the request comes from has been checked, and here it is
			// another host than there.
			for _, name := range []string{"Origin", "Referer", "Cookie", "Sec-Fetch-Site"} {
				r.Out.Header.Del(name)
			}
		},
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, err error) {
			if !errors.As(err, new(*problem.Error)) {
				err = &problem.Error{Status: http.StatusBadGateway, Detail: "the console at " + target.Host + " cannot be reached", Cause: err}
			}
			httpapi.WriteError(w, err)
		},
		ErrorLog: slog.NewLogLogger(slog.NewTextHandler(os.Stderr, nil), slog.LevelWarn),
	}
}
