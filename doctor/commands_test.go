package doctor_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"example.com/pushinbox/doctor"
	"example.com/pushinbox/doctor/doctortest"
	"example.com/pushinbox/testkit/emulator"
	"example.com/pushinbox/testkit/need"
)

// TestCommandsExist asks the real programs for the help of each command that doctor
// prints, and gcloud for the list of its commands: it must exist, with the flags that it
// is given.
func TestCommandsExist(t *testing.T) {
	t.Parallel()
	help := &helper{dir: t.TempDir(), gcloud: gcloudCommands(t)}
	build := exec.Command("go", "build", "-ldflags=-w", "-o", filepath.Join(help.dir, "pushinbox"), "../scripts/pushinbox")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	commands := everyCommand(t)
	if len(commands) < 40 {
		t.Fatalf("only %d commands are printed", len(commands))
	}
	asked := map[string][]string{}
	for _, c := range commands {
		for _, one := range nested(c) {
			words := split(t, one)
			name := commandName(words)
			asked[name] = append(asked[name], one)
		}
	}
	slots := make(chan struct{}, 2)
	var wait sync.WaitGroup
	for name, lines := range asked {
		wait.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			text, err := help.of(t.Context(), name)
			if err != nil {
				t.Errorf("%s does not exist (%v), for\n%s", name, err, strings.Join(lines, "\n"))
				return
			}
			for _, line := range lines {
				for _, word := range split(t, line)[1:] {
					flag, _, _ := strings.Cut(word, "=")
					if strings.HasPrefix(flag, "-") && !knows(text, flag) {
						t.Errorf("%s has no %s, which is in\n%s", name, flag, line)
					}
				}
			}
		})
	}
	wait.Wait()
}

// everyCommand are the commands of all mutations, both ways.
func everyCommand(t *testing.T) []string {
	all := map[string]bool{}
	for _, m := range mutations {
		for _, examine := range []func(*testing.T, *doctortest.World) *doctor.Report{examine, byName} {
			w := world(t)
			m.do(w)
			for _, f := range examine(t, w).Findings {
				if f.Command != "" {
					all[f.Command] = true
				}
			}
		}
	}
	printed.Range(func(c, _ any) bool { all[c.(string)] = true; return true })
	var commands []string
	for c := range all {
		commands = append(commands, c)
	}
	slices.Sort(commands)
	return commands
}

// nested returns a command, and those in its $( ).
func nested(line string) []string {
	inner := regexp.MustCompile(`\$\(([^)]*)\)`)
	all := []string{inner.ReplaceAllString(line, "X")}
	for _, m := range inner.FindAllStringSubmatch(line, -1) {
		all = append(all, m[1])
	}
	return all
}

// split has a shell split a command into words.
func split(t *testing.T, line string) []string {
	out, err := exec.Command("sh", "-c", `for word in `+line+`; do printf '%s\n' "$word"; done`).Output()
	if err != nil {
		t.Fatalf("a shell does not understand %s: %v", line, err)
	}
	return strings.Split(strings.TrimSuffix(string(out), "\n"), "\n")
}

// isWord is what a part of a command's name looks like.
var isWord = regexp.MustCompile(`^[a-z][a-z0-9-]*$`)

// positional are how many words a command's name has, where its arguments look alike.
var positional = map[string]int{
	"gcloud functions": 3, "gcloud iam": 4, "gcloud services": 3, "gcloud projects": 3, "gcloud run": 4, "gcloud logging": 3,
	"gcloud org-policies": 3, "gcloud secrets": 4, "gcloud scheduler": 4, "gcloud pubsub": 4, "gcloud beta": 5,
	"pushinbox delivery": 3, "pushinbox dead-letters": 3, "terraform -chdir=terraform": 3, "scripts/deploy receive": 1, "timedatectl set-ntp": 2,
}

// commandName returns what a command is called, without its arguments.
func commandName(words []string) string {
	n := len(words)
	if most, ok := positional[strings.Join(words[:2], " ")]; ok {
		n = most
	}
	// run services logs read has one word more than the others below run services.
	if n == 4 && words[1] == "run" && words[3] == "logs" {
		n = 5
	}
	var name []string
	for _, w := range words[:min(n, len(words))] {
		if len(name) == 0 || isWord.MatchString(w) {
			name = append(name, w)
		} else if !strings.HasPrefix(w, "-chdir=") {
			break
		}
	}
	return strings.Join(name, " ")
}

// knows reports whether a help names a flag, and not only a longer one.
func knows(help, flag string) bool {
	name := regexp.QuoteMeta(strings.TrimLeft(flag, "-"))
	forms := "--?" + name
	if positive, ok := strings.CutPrefix(name, "no-"); ok {
		forms += `|--\[no-\]` + positive
	} else {
		forms += `|--\[no-\]` + name
	}
	return regexp.MustCompile(`(^|[\s\[(|,])(` + forms + `)([^\w-]|$)`).MatchString(help)
}

// gcloudCommand is a command or group of gcloud, as in the list that its completion of
// commands in a shell has.
type gcloudCommand struct {
	Commands map[string]*gcloudCommand
	// Flags have "bool", "value", "dynamic", or the list of their values.
	Flags map[string]any
}

// gcloudCommands reads that list: one start of Python, where the help of each command
// takes one of gcloud.
func gcloudCommands(t *testing.T) *gcloudCommand {
	need.Program(t, "gcloud")
	need.Program(t, "python3")
	root, err := emulator.SDKRoot()
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("python3", "-c", "import json, runpy, sys; print(json.dumps(runpy.run_path(sys.argv[1])['STATIC_COMPLETION_CLI_TREE']))",
		filepath.Join(root, "data", "cli", "gcloud_completions.py")).Output()
	if err != nil {
		t.Fatal(err)
	}
	tree := &gcloudCommand{}
	if err := json.Unmarshal(out, tree); err != nil {
		t.Fatal(err)
	}
	return tree
}

// help returns the flags of the command below c with these words for a name, and those
// of every command.
func (c *gcloudCommand) help(words []string) (string, error) {
	var text strings.Builder
	flags := func(c *gcloudCommand) {
		for name, values := range c.Flags {
			fmt.Fprintln(&text, name)
			if values == "bool" {
				fmt.Fprintln(&text, "--no-"+strings.TrimPrefix(name, "--"))
			}
		}
	}
	flags(c)
	for _, w := range words {
		if c = c.Commands[w]; c == nil {
			return "", fmt.Errorf("gcloud has no %s in %v", w, words)
		}
	}
	if len(c.Commands) > 0 {
		return "", fmt.Errorf("gcloud %v is a group", words)
	}
	flags(c)
	return text.String(), nil
}

// helper asks programs for help.
type helper struct {
	dir    string
	gcloud *gcloudCommand
}

func (h *helper) of(ctx context.Context, name string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	words := strings.Fields(name)
	switch words[0] {
	case "gcloud":
		return h.gcloud.help(words[1:])
	case "pushinbox":
		words[0] = filepath.Join(h.dir, "pushinbox")
	case "scripts/deploy":
		words[0] = "../scripts/deploy"
	case "timedatectl":
		if _, err := exec.LookPath("timedatectl"); err != nil {
			return "", nil // systemd's; it has no flags here
		}
	}
	ask := func(words ...string) (string, error) {
		cmd := exec.CommandContext(ctx, words[0], append(words[1:], "--help")...)
		cmd.Env = append(os.Environ(), "PAGER=cat")
		out, err := cmd.CombinedOutput()
		return regexp.MustCompile("\x1b\\[[0-9;]*m").ReplaceAllString(string(out), ""), err
	}
	text, err := ask(words...)
	if words[0] == "terraform" && err == nil {
		// apply takes what terraform and terraform plan take, too.
		for _, more := range [][]string{{"terraform"}, {"terraform", "plan"}} {
			also, err := ask(more...)
			if err != nil {
				return "", err
			}
			text += also
		}
	}
	return text, err
}
