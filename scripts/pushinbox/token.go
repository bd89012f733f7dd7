package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

// defaultAddress is where `pushinbox local` listens when it is not told.
const defaultAddress = "http://127.0.0.1:8080"

// callTimeout bounds one call to a running inbox.
const callTimeout = 30 * time.Second

func newToken() *cobra.Command {
	var address, audience string
	var claims []string
	cmd := &cobra.Command{
		Use:   "token",
		Short: "Print a token that the running `pushinbox local` accepts",
		Long: `Print a token signed by the running "pushinbox local", for curl.

Every --claim sets the JWT claim of that name, so that a refusal can be tried
by hand. A value that is JSON counts as such; an empty one leaves the claim out.`,
		Example: `  curl -H "Authorization: Bearer $(pushinbox token --for publish)" -d payload=Hello http://127.0.0.1:8080/publish
  pushinbox token --claim aud=https://example.com      # a wrong audience: 403
  pushinbox token --claim exp=1                        # expired: 401
  pushinbox token --claim email_verified=false         # not verified: 403`,
		Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			values := url.Values{"for": {audience}}
			for _, c := range claims {
				name, value, ok := strings.Cut(c, "=")
				if !ok || name == "" {
					return usageError{fmt.Errorf("--claim %q is not name=value", c)}
				}
				values.Set(name, value)
			}
			token, err := localToken(cmd.Context(), address, values)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), token)
			return err
		},
	}
	cmd.Flags().StringVar(&address, "address", defaultAddress, "where pushinbox local runs")
	cmd.Flags().StringVar(&audience, "for", "receive", "what the token opens: receive, publish, console or calendar")
	cmd.Flags().StringArrayVar(&claims, "claim", nil, "set a claim, as name=value; can be repeated")
	return cmd
}

// localToken asks the pushinbox local at address for a token with the given
// claims.
func localToken(ctx context.Context, address string, values url.Values) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimSuffix(address, "/")+"/local/token?"+values.Encode(), nil)
	if err != nil {
		return "", usageError{err}
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", notRunning(address, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return "", err
	}
	if resp.StatusCode != http.StatusOK {
		return "", fmt.Errorf("%s gave no token: %s", address, explain(resp.StatusCode, body))
	}
	return strings.TrimSpace(string(body)), nil
}

// notRunning explains a connection that was refused, the common case.
func notRunning(address string, err error) error {
	op := (*net.OpError)(nil)
	if u, bad := url.Parse(address); bad == nil && isLoopback(u.Host) && errors.As(err, &op) && op.Op == "dial" {
		return fmt.Errorf("nothing answers at %s; start it with: go run ./scripts/pushinbox local", address)
	}
	return err
}
