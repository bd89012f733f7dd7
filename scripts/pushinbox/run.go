package main

import (
	"cmp"
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/spf13/cobra"

	"example.com/pushinbox/local/keyproxy"
	"example.com/pushinbox/local/runenv"
	"example.com/pushinbox/local/stack"
	"example.com/pushinbox/scripts/pushinbox/functiontarget"
	"example.com/pushinbox/shared/settings"
)

// The exit codes of a program that did not start, as shells have them.
const (
	exitNotStarted = 126
	exitNoProgram  = 127
)

// programExit is the exit code of a program that was run. It is not an error of this
// command, and nothing is printed of it.
type programExit int

func (e programExit) Error() string { return fmt.Sprintf("the program ended with %d", int(e)) }

func newRun() *cobra.Command {
	var data string
	var printEnv bool
	cmd := &cobra.Command{
		Use:   "run [CMD] [ARG]...",
		Short: "Run a program, unmodified, with its check of Pub/Sub's tokens on",
		Long: `Run a program, unmodified, with its check of Pub/Sub's tokens on.

The program gets the environment in which Google's libraries for Python, Node, Go and
Java use the Pub/Sub of the running "pushinbox local", and read its keys where Google's
are: its tokens pass the program's check, and all other tokens fail it. The program trusts
one more certificate, only for the hosts of Google's keys. Everything else on these hosts,
and every other host, is reached as before.

The running "pushinbox local" is found by --data, or by the nearest .local from here
upwards. If there is none, run starts one that ends with the program, with its data in
--data (.local); what an earlier --push named is pushed to as before.

Input, output, signals and the exit code are the program's. The exit code is 127 when
there is no such program, 126 when it cannot be started, and 128 plus the signal's number
when a signal ended it.

--print-env prints the variables for a shell, and runs nothing.`,
		Example: `  pushinbox run -- python3 main.py
  pushinbox run -- npm start
  pushinbox run -- go test ./...
  eval "$(pushinbox run --print-env)"`,
		RunE: func(cmd *cobra.Command, args []string) error {
			switch {
			case printEnv && len(args) > 0:
				return usageError{errors.New("--print-env runs no program; give one of them")}
			case !printEnv && len(args) == 0:
				return usageError{fmt.Errorf("CMD is missing: pushinbox run -- python3 main.py; see %s --help", cmd.CommandPath())}
			}
			where, err := findRun(cmd.Context(), data)
			if err != nil && !printEnv && errors.Is(err, stack.ErrNotFound) {
				return runWithOwn(cmd.Context(), data, args)
			}
			if data == "" && errors.Is(err, stack.ErrNotFound) && !errors.Is(err, stack.ErrStale) {
				return fmt.Errorf("%w here; start it with: %s local, or name its --data", err, self())
			}
			if err != nil {
				return err
			}
			env, err := programEnvironment(where.Addresses, where.Program)
			if err != nil {
				return err
			}
			if printEnv {
				_, err := fmt.Fprint(cmd.OutOrStdout(), env.Exports())
				return err
			}
			return runProgram(args, env.Apply(environ()))
		},
	}
	cmd.Flags().SetInterspersed(false) // what follows CMD is the program's
	checked(cmd.Flags(), "data", "", "DIRECTORY", "use the pushinbox local that has its --data here, or start one", func(s string) error {
		if data = s; s == "" {
			return errors.New("it must name a directory")
		}
		return nil
	})
	cmd.Flags().BoolVar(&printEnv, "print-env", false, "print the variables as lines for a shell, and run nothing")
	return cmd
}

// environ is the environment of this command as it was given.
func environ() []string {
	if functiontarget.Given == "" {
		return os.Environ()
	}
	return append(os.Environ(), functiontarget.Variable+"="+functiontarget.Given)
}

// findRun returns the running pushinbox local. One that has ended without a word, by
// kill -9, is none where this command would have its data.
func findRun(ctx context.Context, data string) (*stack.Run, error) {
	found, err := stack.Find(ctx, data)
	if errors.Is(err, stack.ErrStale) {
		if _, here := os.Lstat(filepath.Join(cmp.Or(data, stack.DefaultData), "local.json")); here == nil {
			return nil, fmt.Errorf("%w: %w", stack.ErrNotFound, err)
		}
	}
	return found, err
}

// runWithOwn runs a program with a pushinbox local that ends with it.
func runWithOwn(ctx context.Context, data string, args []string) error {
	if _, err := exec.LookPath(args[0]); err != nil {
		return notStarted(args[0], err)
	}
	given, err := settings.Parse[stack.Settings](nil)
	if err != nil {
		return usageError{err}
	}
	log, closeLog := logFrom()
	defer closeLog()
	o := stack.Options{
		Settings: given, PubSubPort: stack.PubSubPort, Data: cmp.Or(data, stack.DefaultData), DataByDefault: data == "", Pushes: stack.TerraformDefaults(),
		Log: log, KeepEndpoints: true,
	}
	s, err := stack.Start(ctx, o)
	if err != nil {
		return err
	}
	env, err := programEnvironment(s.Addresses(), s.Program())
	if err == nil {
		fmt.Fprintf(os.Stderr, "pushinbox local runs for as long as %s does: console %s/, Pub/Sub %s, data %s\n", visible(args[0]), s.URL, s.PubSubAddr, o.Data)
		watching, stop := context.WithCancel(context.Background())
		go func() {
			if err := s.Wait(watching); err != nil {
				fmt.Fprintln(os.Stderr, "pushinbox local failed, and the program goes on without it:", visible(err.Error()))
			}
		}()
		err = runChild(args, env.Apply(environ()))
		stop()
	}
	closed := s.Close()
	tellUndelivered(s, o.Data)
	if closed != nil && errors.As(err, new(programExit)) {
		fmt.Fprintln(os.Stderr, "pushinbox:", visible(closed.Error())) // the exit code stays the program's
		return err
	}
	return errors.Join(err, closed)
}

// programEnvironment returns the environment of a program, and prints what there is
// to say about it.
func programEnvironment(at stack.Addresses, p stack.Program) (*runenv.Environment, error) {
	proxy, err := url.Parse(at.Proxy)
	if err != nil || proxy.Host == "" {
		return nil, errors.New("the running pushinbox local has no proxy: it is of an earlier version; stop it and start this one")
	}
	if p.Password != "" {
		proxy.User = url.UserPassword(keyproxy.User, p.Password)
	}
	hosts, err := hostsOf(p.Certificate)
	if err != nil {
		return nil, err
	}
	env, err := runenv.New(environ(), runenv.Settings{
		PubSub: at.PubSubEmulatorHost, Project: at.Project, Proxy: proxy, Certificate: []byte(p.Certificate), Hosts: hosts,
		URL: at.URL, KeyFile: at.KeyFile, Dir: filepath.Join(at.Data, "trust"), GOOS: runtime.GOOS,
	})
	if err != nil {
		return nil, err
	}
	if note := otherProxy(at.Proxy, p.Former); note != "" {
		env.Notes = append(env.Notes, note)
	}
	for _, note := range env.Notes {
		fmt.Fprintln(os.Stderr, "pushinbox run:", visible(note))
	}
	return env, nil
}

// hostsOf returns the hosts of the proxy's certificate.
func hostsOf(certificate string) ([]string, error) {
	block, _ := pem.Decode([]byte(certificate))
	if block == nil {
		return nil, errors.New("the running pushinbox local has no certificate: it is of an earlier version; stop it and start this one")
	}
	parsed, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("the certificate of the running pushinbox local: %w", err)
	}
	return parsed.DNSNames, nil
}

// otherProxy says that the proxy of this environment is not the one that the running
// pushinbox local was started with, through which it goes on.
func otherProxy(own, former string) string {
	for _, name := range []string{"HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"} {
		given := os.Getenv(name)
		if given == "" {
			continue
		}
		here, err := stack.ParseProxy(given)
		if err != nil {
			return err.Error()
		}
		if at := here.Scheme + "://" + here.Host; at != own && at != former {
			return fmt.Sprintf("the program does not use the proxy %s of %s: pushinbox local goes on through the proxy that it was started with; start it again in this environment", at, name)
		}
		return ""
	}
	return ""
}

// runProgram runs a program in place of this one, where the system can do that.
func runProgram(args, variables []string) error {
	path, err := exec.LookPath(args[0])
	if err != nil {
		return notStarted(args[0], err)
	}
	if err := replace(path, args, variables); !errors.Is(err, errors.ErrUnsupported) {
		return notStarted(args[0], err)
	}
	return runChild(args, variables)
}

// runChild runs a program, passes it the signals that this one gets, and returns its
// exit code as a programExit.
func runChild(args, variables []string) error {
	child := exec.Command(args[0], args[1:]...)
	child.Env, child.Stdin, child.Stdout, child.Stderr = variables, os.Stdin, os.Stdout, os.Stderr
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, passedOn...)
	defer signal.Stop(signals)
	if err := child.Start(); err != nil {
		return notStarted(args[0], err)
	}
	ended := make(chan struct{})
	passing := make(chan struct{})
	go func() {
		defer close(passing)
		for {
			select {
			case s := <-signals:
				if !fromTerminal(s) { // which sends it to the program, too
					_ = child.Process.Signal(s) // it may just have ended
				}
			case <-ended:
				return
			}
		}
	}()
	err := child.Wait()
	close(ended)
	<-passing
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		return err
	}
	return programExit(codeOf(child.ProcessState))
}

// notStarted returns why a program did not start.
func notStarted(name string, err error) error {
	code := exitNotStarted
	if errors.Is(err, exec.ErrNotFound) || errors.Is(err, fs.ErrNotExist) {
		code = exitNoProgram
	}
	fmt.Fprintf(os.Stderr, "pushinbox: %s cannot be run: %s\n", visible(name), visible(strings.TrimPrefix(err.Error(), "exec: ")))
	return programExit(code)
}
