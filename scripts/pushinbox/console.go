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
	"os/exec"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/oauth2"

	"example.com/pushinbox/local/stack"
	"example.com/pushinbox/shared/httpapi"
	"example.com/pushinbox/shared/problem"
)

// tokenLife is how long an ID token is used; Google's live an hour.
const tokenLife = 50 * time.Minute

func newConsole() *cobra.Command {
	var target, account string
	port := 8081
	cmd := &cobra.Command{
		Use:   "console",
		Short: "Open a deployed console in a browser on this machine",
		Long: `Open a deployed console in a browser on this machine.

The deployed console requires a Google ID token, which a browser does not send.
This command listens on this machine only and adds one to what it passes on:
gcloud's, for an account that is among the console's readers and that you may
impersonate, such as Terraform's tester account.

Other accounts of this machine, and web pages, get nothing: the address that is
printed has a key, valid while the command runs, for which the browser gets a
cookie. Programs send the header that is in a file which only you can read. The
name in the address ends in .localhost; open it as it is.`,
		Example: `  pushinbox console --url "$(terraform -chdir=terraform output -raw console_url)" \
    --account "$(terraform -chdir=terraform output -raw tester_account)"`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			u, err := url.Parse(target)
			if err != nil || u.Host == "" || u.Scheme != "https" && !stack.IsLoopback(u.Host) {
				return usageError{fmt.Errorf("--url %q is not the https address of a console", target)}
			}
			if account == "" {
				return usageError{errors.New("--account is missing: the account to read as")}
			}
			// A refusal is told now, and not in the browser.
			tokens := gcloud{cmd.Context(), account, strings.TrimSuffix(target, "/")}
			token, err := tokens.Token()
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
			fmt.Fprintf(cmd.OutOrStdout(), "%s is at %s\nas %s, for programs too: curl -H @%s http://%s/messages\nCtrl-C stops it.\n",
				u.Host, key.Login(at), account, key.File, at)
			server := httpapi.NewServer(stack.Door{Hosts: []string{key.Name}}.Guard(key.Require(forward(u, oauth2.ReuseTokenSource(token, tokens)))))
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
		},
	}
	cmd.Flags().StringVar(&target, "url", "", "the address of the deployed console")
	cmd.Flags().StringVar(&account, "account", "", "the service account to read as")
	portFlag(cmd.Flags(), "port", &port, "the port to listen on, on 127.0.0.1 and [::1]; 0 takes a free one")
	return cmd
}

// forward passes requests on to a console, with a token.
func forward(target *url.URL, tokens oauth2.TokenSource) http.Handler {
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

// gcloud has gcloud create ID tokens for an account.
type gcloud struct {
	ctx               context.Context
	account, audience string
}

// Token makes gcloud an oauth2.TokenSource.
func (g gcloud) Token() (*oauth2.Token, error) {
	out, err := exec.CommandContext(g.ctx, "gcloud", "auth", "print-identity-token", "--include-email",
		"--impersonate-service-account="+g.account, "--audiences="+g.audience).Output()
	if err != nil {
		said := err.Error()
		if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
			said = strings.TrimSpace(string(exit.Stderr))
		}
		return nil, problem.New(http.StatusBadGateway, "gcloud creates no token for "+g.account+": "+said)
	}
	return &oauth2.Token{AccessToken: strings.TrimSpace(string(out)), Expiry: time.Now().Add(tokenLife)}, nil
}
