// Package runenv builds the environment in which a program, not changed in any way,
// uses a local Pub/Sub and verifies the tokens of its pushes as Google's: what
// Python, Node, Go and Java read to find Pub/Sub, a proxy, and whom to trust.
//
// It decides nothing about a program that reads none of these variables, or that has
// a proxy or trusted certificates of its own.
package runenv

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strings"

	"golang.org/x/net/http/httpproxy"

	"example.com/pushinbox/shared/shell"
)

// Settings are what programs are led to.
type Settings struct {
	// PubSub is the host:port of Pub/Sub, and Project the project of its topics.
	PubSub, Project string
	// Proxy is the address of the proxy in front of the hosts of Google's keys, with
	// its password if it has one.
	Proxy *url.URL
	// Certificate is what the proxy has for those hosts, in PEM.
	Certificate []byte
	// Hosts are those of the keys.
	Hosts []string
	// URL is the address of the local run, and KeyFile the file of its key, if any, for
	// the commands of pushinbox.
	URL, KeyFile string
	// Dir is a directory for the files with the certificates to trust. Programs may
	// read them at any time, so they stay.
	Dir string
	// GOOS is the operating system, as in runtime.GOOS.
	GOOS string
}

// Environment is what a program gets.
type Environment struct {
	// Variables are those that are set, in the order in which people read them.
	Variables []Variable
	// Notes say what does not work here, and what of the user's own was left out.
	Notes []string
}

// Variable is an environment variable.
type Variable struct{ Name, Value string }

// Apply returns environ with the variables set.
func (e *Environment) Apply(environ []string) []string {
	all := slices.Clone(environ)
	for _, v := range e.Variables {
		all = append(all, v.Name+"="+v.Value) // the last one counts
	}
	return dedupe(all)
}

// dedupe keeps the last setting of each variable: a program that is replaced by
// another gets the environment as it is.
func dedupe(environ []string) []string {
	last := make(map[string]int, len(environ))
	for i, v := range environ {
		name, _, _ := strings.Cut(v, "=")
		last[name] = i
	}
	kept := environ[:0]
	for i, v := range environ {
		if name, _, _ := strings.Cut(v, "="); last[name] == i {
			kept = append(kept, v)
		}
	}
	return kept
}

// variables reads an environment.
type variables map[string]string

func parse(environ []string) variables {
	all := make(variables)
	for _, v := range environ {
		if name, value, ok := strings.Cut(v, "="); ok {
			all[name] = value
		}
	}
	return all
}

// first returns the value of the first of these variables that has one, and its name.
func (v variables) first(names ...string) (value, name string) {
	for _, name := range names {
		if v[name] != "" {
			return v[name], name
		}
	}
	return "", ""
}

// New returns the environment for a program that would be started in environ. It
// writes the certificates to files in s.Dir: what the user trusts so far, or the
// system, and s.Certificate.
func New(environ []string, s Settings) (*Environment, error) {
	if s.Proxy == nil || s.PubSub == "" || s.Dir == "" || len(s.Hosts) == 0 {
		return nil, errors.New("runenv: Proxy, PubSub, Dir or Hosts is missing")
	}
	given, e := parse(environ), new(Environment)
	e.set("PUBSUB_EMULATOR_HOST", s.PubSub)
	e.set("GOOGLE_CLOUD_PROJECT", s.Project)
	e.set("PUSHINBOX_URL", s.URL)
	if s.KeyFile != "" {
		e.set("PUSHINBOX_KEY_FILE", s.KeyFile)
	}
	e.set("HTTPS_PROXY", s.Proxy.String())
	e.set("https_proxy", s.Proxy.String())
	direct := e.noProxy(given, s.Hosts)
	e.set("NO_PROXY", direct)
	e.set("no_proxy", direct)
	if err := e.trust(given, s); err != nil {
		return nil, err
	}
	e.set("NODE_USE_ENV_PROXY", "1") // Node 22's own fetch and https
	e.Notes = append(e.Notes, notes(s.GOOS, s.Dir)...)
	if s.Proxy.User != nil {
		e.Notes = append(e.Notes, "pushinbox local runs with --host: its proxy connects to "+strings.Join(s.Hosts, " and ")+" alone (add other https hosts to NO_PROXY), and Java sends no password to a proxy")
	}
	return e, nil
}

func (e *Environment) set(name, value string) {
	e.Variables = append(e.Variables, Variable{name, value})
}

// noProxy returns the hosts that are reached without a proxy: this machine, the
// metadata server, which Google's libraries look for by plain HTTP, and the user's
// own, but for those of the keys.
func (e *Environment) noProxy(given variables, hosts []string) string {
	direct := []string{"127.0.0.1", "localhost", "::1", "169.254.169.254", "metadata.google.internal"}
	for _, name := range []string{"NO_PROXY", "no_proxy"} {
		for _, entry := range strings.FieldsFunc(given[name], func(r rune) bool { return r == ',' || r == ' ' }) {
			switch {
			case slices.Contains(direct, entry):
			case slices.ContainsFunc(hosts, func(host string) bool { return covers(entry, host) }):
				note := fmt.Sprintf("%q in NO_PROXY is left out for the program: it would get the keys of its tokens from Google", entry)
				if !slices.Contains(e.Notes, note) {
					e.Notes = append(e.Notes, note)
				}
			default:
				direct = append(direct, entry)
			}
		}
	}
	return strings.Join(direct, ",")
}

// covers reports whether an entry of NO_PROXY is for this host.
func covers(entry, host string) bool {
	c := httpproxy.Config{HTTPSProxy: "http://127.0.0.1:1", NoProxy: entry}
	via, err := c.ProxyFunc()(&url.URL{Scheme: "https", Host: net.JoinHostPort(host, "443")})
	return err == nil && via == nil
}

// java returns the options of Java, which reads nothing else.
func (e *Environment) java(given variables, proxy *url.URL, store string) string {
	const variable = "JAVA_TOOL_OPTIONS"
	if strings.ContainsAny(store, " \t") {
		store = `"` + store + `"`
	}
	options := strings.Join([]string{
		"-Dhttps.proxyHost=" + proxy.Hostname(), "-Dhttps.proxyPort=" + cmp.Or(proxy.Port(), "80"),
		"-Djavax.net.ssl.trustStore=" + store, "-Djavax.net.ssl.trustStoreType=PKCS12", "-Djavax.net.ssl.trustStorePassword=" + storePassword,
	}, " ")
	if strings.HasSuffix(given[variable], options) { // the environment of another such program
		return given[variable]
	}
	for _, option := range []string{"-Djavax.net.ssl.trustStore=", "-Dhttps.proxyHost="} {
		if strings.Contains(given[variable], option) {
			e.Notes = append(e.Notes, option[:len(option)-1]+" in "+variable+" does not hold for the program: this machine's proxy and certificates take its place")
		}
	}
	return strings.TrimSpace(given[variable] + " " + options)
}

// notes says what cannot work on an operating system, and what to do.
func notes(goos, dir string) []string {
	var add string
	leaf := leafFile(dir)
	switch goos {
	case "darwin", "ios":
		add = "security add-trusted-cert -p ssl -k ~/Library/Keychains/login.keychain-db " + shell.Quote(leaf)
	case "windows":
		add = `certutil -user -addstore Root "` + leaf + `"`
	default:
		return nil
	}
	return []string{"Go programs, and others that ask the system whom to trust, do not read SSL_CERT_FILE on " + goos + ": they refuse every token here. " +
		"Run them on Linux, in a container or a virtual machine, or trust the certificate, which is good for Google's key hosts alone: " + add}
}

// Exports returns the variables as lines for a shell.
func (e *Environment) Exports() string {
	var b strings.Builder
	for _, v := range e.Variables {
		fmt.Fprintf(&b, "export %s=%s\n", v.Name, shell.Quote(v.Value))
	}
	return b.String()
}
