package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"time"

	"github.com/spf13/pflag"
	"golang.org/x/oauth2"
	"google.golang.org/api/impersonate"

	"example.com/pushinbox/doctor"
	"example.com/pushinbox/inboxclient"
	"example.com/pushinbox/shared/problem"
)

// envAccount is the variable that names the account to impersonate.
const envAccount = "PUSHINBOX_ACCOUNT"

const (
	// terraformTimeout bounds reading Terraform's outputs, which may be far away.
	terraformTimeout = time.Minute
	// signInTimeout bounds the first token.
	signInTimeout = 30 * time.Second
)

// server is the console that a command calls, and who calls it. All commands name
// it by the same flags.
type server struct {
	at                            target
	account, tokenFile, terraform string
}

// serverHelp is the part of a command's help that explains the flags.
const serverHelp = `Which inbox: that of --url, else of --terraform, of PUSHINBOX_URL, or of the running
"pushinbox local". A deployed inbox requires a Google ID token: --account (or
PUSHINBOX_ACCOUNT) names a service account to impersonate, --token-file a file with a token
(or PUSHINBOX_TOKEN has it), and --terraform DIRECTORY reads address and account from
Terraform's outputs. To impersonate an account, sign in with
"gcloud auth application-default login"; you need the role
roles/iam.serviceAccountTokenCreator on it.`

// flags adds the flags.
func (s *server) flags(flags *pflag.FlagSet) {
	s.at.urlFlag(flags, "url", "the address of the console to call; "+envURL+" by default, else the running pushinbox local")
	flags.StringVar(&s.account, "account", "", "call a deployed console as this service `ACCOUNT`; "+envAccount+" by default")
	flags.StringVar(&s.terraform, "terraform", "", "read address and account from the outputs of Terraform in this `DIRECTORY`")
	tokenFlags(flags, &s.tokenFile, "a file with a Google ID token for a deployed console; "+envIDToken+" by default")
}

// place is a console that was found: its address without a slash at the end, the
// tokens to call it with, and as whom, where that is known.
type place struct {
	address string
	tokens  oauth2.TokenSource // nil: none is needed
	account string
}

// find returns the console to call.
func (s *server) find(ctx context.Context) (*place, error) {
	if s.account != "" && s.tokenFile != "" {
		return nil, usageError{errors.New("give one of --account and --token-file: each says as whom to call")}
	}
	at, account := s.at, s.account
	if s.terraform != "" {
		o, err := readOutputs(ctx, s.terraform)
		if err != nil {
			return nil, err
		}
		if at.url == "" {
			if at.url = o.Address(); at.url == "" {
				return nil, fmt.Errorf("the outputs of Terraform in %s have no api_url and no console_url; apply it first", s.terraform)
			}
		}
		if s.tokenFile == "" {
			account = cmp.Or(account, o.TesterAccount.Value)
		}
	}
	c, err := at.client(ctx)
	if err != nil {
		return nil, err
	}
	p := &place{address: strings.TrimSuffix(c.base.String(), "/")}
	local, https := c.isLocal(), c.base.Scheme == "https"
	if !local && !https && (account != "" || s.tokenFile != "") {
		return nil, usageError{fmt.Errorf("%s is not an https address; a token is sent to no other", p.address)}
	}
	switch token := os.Getenv(envIDToken); {
	case account != "":
		return p, p.impersonate(ctx, account)
	case s.tokenFile != "":
		token, err := readSecret(s.tokenFile)
		p.tokens = staticToken(token)
		return p, err
	case local || !https:
		// The key of a pushinbox local, where it wants one. What the environment
		// has for a deployed console is not for it.
		err := c.useKey()
		p.tokens = staticToken(c.token)
		return p, err
	case token != "":
		p.tokens = staticToken(token)
		return p, nil
	case os.Getenv(envAccount) != "":
		return p, p.impersonate(ctx, os.Getenv(envAccount))
	}
	return nil, usageError{fmt.Errorf("%s is a deployed console, which wants a Google ID token: give --account, --token-file or --terraform, or set %s or %s", p.address, envAccount, envIDToken)}
}

// client returns a client of the console. onRetry may be nil.
func (s *server) client(ctx context.Context, o inboxclient.Options) (*inboxclient.Client, error) {
	p, err := s.find(ctx)
	if err != nil {
		return nil, err
	}
	o.Tokens = p.tokens
	return inboxclient.New(p.address, &o)
}

// accountName is what an e-mail address of a service account can be.
var accountName = regexp.MustCompile(`^[^@/\s]+@[^@/\s]+$`)

// impersonate has p's tokens be Google's for a service account.
func (p *place) impersonate(ctx context.Context, account string) (err error) {
	if !accountName.MatchString(account) {
		return usageError{fmt.Errorf("%q is not the e-mail address of a service account", account)}
	}
	p.account = account
	p.tokens, err = impersonated(ctx, account, p.address)
	return err
}

// impersonated returns Google's tokens of a service account for an audience. The first
// one is got now, so that a refusal is told before anything else.
func impersonated(ctx context.Context, account, audience string) (oauth2.TokenSource, error) {
	source, err := impersonate.IDTokenSource(ctx, impersonate.IDTokenConfig{Audience: audience, TargetPrincipal: account, IncludeEmail: true})
	if err != nil {
		return nil, fmt.Errorf("there are no Google credentials on this machine: %w; sign in with: gcloud auth application-default login", err)
	}
	tokens := oauth2.ReuseTokenSourceWithExpiry(nil, googleTokens{source, account}, 5*time.Minute)
	done := make(chan error, 1) // the library waits for as long as it takes
	go func() {
		_, err := tokens.Token()
		done <- err
	}()
	select {
	case err := <-done:
		return tokens, err
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-time.After(signInTimeout):
		return nil, fmt.Errorf("no token for %s: Google did not answer within %v", account, signInTimeout)
	}
}

// googleTokens says in words for people why there is no token.
type googleTokens struct {
	oauth2.TokenSource
	account string
}

// refusedByGoogle is how the library writes a refusal: it has no type for it.
var refusedByGoogle = regexp.MustCompile(`(?s)status code (\d+): (.*)`)

// Token makes googleTokens an oauth2.TokenSource.
func (g googleTokens) Token() (*oauth2.Token, error) {
	token, err := g.TokenSource.Token()
	if err == nil {
		return token, nil
	}
	said, next := err.Error(), "sign in again with: gcloud auth application-default login"
	if refused := refusedByGoogle.FindStringSubmatch(said); refused != nil {
		var body struct{ Error struct{ Message string } }
		if json.Unmarshal([]byte(refused[2]), &body) == nil && body.Error.Message != "" {
			said = refused[1] + " " + body.Error.Message
		}
		next = "you need the role roles/iam.serviceAccountTokenCreator on it"
	}
	return nil, problem.New(http.StatusBadGateway, fmt.Sprintf("Google creates no token for %s: %s; %s", g.account, said, next))
}

// readOutputs has terraform print its outputs.
func readOutputs(ctx context.Context, dir string) (*doctor.Outputs, error) {
	printed, err := terraformOutput(ctx, dir)
	if err != nil {
		return nil, err
	}
	outputs, err := doctor.ReadOutputs(printed)
	if err != nil {
		return nil, fmt.Errorf("in %s: %w", dir, err)
	}
	return outputs, nil
}

// terraformOutput returns what `terraform output -json` prints in a folder.
func terraformOutput(ctx context.Context, dir string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, terraformTimeout)
	defer cancel()
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, "terraform", "-chdir="+dir, "output", "-json", "-no-color")
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("terraform -chdir=%s output: %w: %s", dir, err, strings.TrimSpace(stderr.String()))
	}
	return stdout.Bytes(), nil
}
