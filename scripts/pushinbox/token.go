package main

import (
	"fmt"
	"net/url"
	"strings"

	"github.com/spf13/cobra"
)

func newToken() *cobra.Command {
	var at target
	var audience string
	var claims []string
	cmd := &cobra.Command{
		Use:   "token",
		Short: "Print a token that the running `pushinbox local` accepts",
		Long: `Print a token signed by the running "pushinbox local", for curl.

Each --claim sets the JWT claim of that name, to try a refusal by hand. A value that is
valid JSON is used as JSON; an empty value leaves the claim out.`,
		Example: `  curl -H "Authorization: Bearer $(pushinbox token --for publish)" -d payload=Hello http://127.0.0.1:8080/publish
  pushinbox token --claim aud=https://example.com      # a wrong audience: 403
  pushinbox token --claim exp=1                        # expired: 401
  pushinbox token --claim email_verified=false         # not verified: 403`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := at.local(cmd.Context())
			if err != nil {
				return err
			}
			values := url.Values{"for": {audience}}
			for _, c := range claims {
				name, value, ok := strings.Cut(c, "=")
				if !ok || name == "" {
					return usageError{fmt.Errorf("--claim %q is not name=value", c)}
				}
				values.Set(name, value)
			}
			token, err := c.localToken(cmd.Context(), values)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), token)
			return err
		},
	}
	at.urlFlag(cmd.Flags(), "url", "where pushinbox local runs, such as "+defaultAddress)
	at.urlFlag(cmd.Flags(), "address", "the former name of --url")
	cmd.Flags().Lookup("address").Hidden = true
	at.dataFlag(cmd.Flags())
	cmd.Flags().StringVar(&audience, "for", "receive", "the function that the token is for: receive, publish, console or calendar")
	cmd.Flags().StringArrayVar(&claims, "claim", nil, "set a claim, as name=value; can be repeated")
	return cmd
}
