package main

import (
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

var update = flag.Bool("update", false, "write the commands into docs/cli.md")

// TestCommandPage holds docs/cli.md against what --help says of each command.
func TestCommandPage(t *testing.T) {
	t.Parallel()
	const page, begin, end = "../../docs/cli.md", "<!-- commands: begin -->\n", "<!-- commands: end -->"
	content, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok := strings.Cut(string(content), begin)
	got, after, found := strings.Cut(rest, end)
	if !ok || !found {
		t.Fatalf("%s has no place for the commands", page)
	}
	var b strings.Builder
	describe(&b, newRoot())
	if want := b.String(); got != want {
		if !*update {
			t.Fatalf("%s is not of these commands; run this test with -update\n%s", page, cmp.Diff(want, got))
		}
		if err := os.WriteFile(page, []byte(before+begin+want+end+after), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// describe writes a section for each command that does something, and for each that
// has more to say than its commands do.
func describe(b *strings.Builder, cmd *cobra.Command) {
	if cmd.HasParent() {
		fmt.Fprintf(b, "%s %s\n\n", strings.Repeat("#", 2+strings.Count(cmd.CommandPath(), " ")-1), cmd.CommandPath())
		paragraphs(b, cmd.Long, cmd.Short+".")
		if !cmd.HasSubCommands() {
			fmt.Fprintf(b, "```\n%s\n```\n\n", strings.TrimSuffix(cmd.UseLine(), " [flags]"))
		}
		flags(b, cmd)
		if cmd.Example != "" {
			fmt.Fprintf(b, "```\n%s\n```\n\n", unindent(cmd.Example))
		}
	}
	for _, sub := range cmd.Commands() {
		if !sub.Hidden && sub.Name() != "help" && sub.Name() != "completion" {
			describe(b, sub)
		}
	}
}

// paragraphs writes a text, or the other one where it is empty. What has lines of its
// own keeps them.
func paragraphs(b *strings.Builder, text, other string) {
	if text == "" {
		text = other
	}
	for p := range strings.SplitSeq(strings.TrimSpace(text), "\n\n") {
		if strings.Contains("\n"+p, "\n ") {
			p = "```\n" + p + "\n```"
		}
		b.WriteString(p + "\n\n")
	}
}

func unindent(s string) string {
	lines := strings.Split(s, "\n")
	for i, line := range lines {
		lines[i] = strings.TrimPrefix(line, "  ")
	}
	return strings.Join(lines, "\n")
}

// flags writes the table of a command's flags.
func flags(b *strings.Builder, cmd *cobra.Command) {
	var rows []string
	cmd.NonInheritedFlags().VisitAll(func(f *pflag.Flag) { rows = append(rows, row(f)) })
	if !cmd.HasSubCommands() {
		cmd.InheritedFlags().VisitAll(func(f *pflag.Flag) { rows = append(rows, row(f)) })
	}
	rows = slices.DeleteFunc(rows, func(s string) bool { return s == "" })
	slices.Sort(rows)
	if len(rows) > 0 {
		fmt.Fprintf(b, "| flag | |\n| --- | --- |\n%s\n", strings.Join(rows, ""))
	}
}

func row(f *pflag.Flag) string {
	if f.Hidden || f.Name == "help" {
		return ""
	}
	value, usage := pflag.UnquoteUsage(f)
	name := "--" + f.Name
	if f.Shorthand != "" {
		name += ", -" + f.Shorthand
	}
	switch {
	case f.NoOptDefVal != "" && f.Value.Type() != "bool":
		name += "[=" + value + "]"
	case value != "":
		name += " " + value
	}
	if d := f.DefValue; d != "" && d != "false" && d != "[]" && d != "0" && d != "0s" {
		usage += " (" + d + ")"
	}
	return fmt.Sprintf("| `%s` | %s |\n", name, strings.ReplaceAll(usage, "|", `\|`))
}
