package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"unicode"
	"unicode/utf16"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// usageError is an error in how the command was called.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

// positional refuses other arguments than cmd.Use names, and says which is
// missing: "use TOPIC [NAME]" needs one or two, "use FILE..." any number from one. An
// empty one, and an empty value of a flag, are refused: they are of a script whose
// variable is not set, which meant something else than nothing at all.
func positional(cmd *cobra.Command, args []string) error {
	names := strings.Fields(cmd.Use)[1:]
	if err := noneEmpty(cmd, names, args); err != nil {
		return err
	}
	required := slices.DeleteFunc(slices.Clone(names), func(name string) bool { return strings.HasPrefix(name, "[") })
	for i, name := range required {
		if i >= len(args) {
			return usageError{fmt.Errorf("%s is missing; see %s --help", strings.TrimSuffix(name, "..."), cmd.CommandPath())}
		}
	}
	switch {
	case len(args) <= len(names) || strings.Contains(cmd.Use, "..."):
		return nil
	case cmd.HasSubCommands():
		meant := ""
		if like := cmd.SuggestionsFor(args[0]); len(like) > 0 {
			// They come by the alphabet; who mistypes rarely mistypes the first letter.
			first := slices.IndexFunc(like, func(name string) bool { return strings.HasPrefix(name, args[0][:min(1, len(args[0]))]) })
			meant = fmt.Sprintf("did you mean %q? ", like[max(first, 0)])
		}
		return usageError{fmt.Errorf("there is no command %q; %ssee %s --help", args[0], meant, cmd.CommandPath())}
	}
	return usageError{fmt.Errorf("%q is one argument too many; see %s --help", args[len(names)], cmd.CommandPath())}
}

// noneEmpty refuses empty arguments, but for those of a program that is run, and empty
// values of flags.
func noneEmpty(cmd *cobra.Command, names, args []string) (err error) {
	cmd.Flags().Visit(func(flag *pflag.Flag) {
		if err == nil && flag.Value.String() == "" {
			err = usageError{fmt.Errorf("--%s is empty; give it a value or leave it out; see %s --help", flag.Name, cmd.CommandPath())}
		}
	})
	for i, arg := range args {
		if err != nil || arg != "" || len(names) == 0 {
			continue
		}
		if name := names[min(i, len(names)-1)]; name != "[ARG]..." {
			err = usageError{fmt.Errorf("%s is empty; see %s --help", strings.Trim(name, "[.]"), cmd.CommandPath())}
		}
	}
	return err
}

// tokenFlags adds --token-file, and --token only to refuse it.
func tokenFlags(flags *pflag.FlagSet, file *string, usage string) {
	flags.StringVar(file, "token-file", "", usage)
	checked(flags, "token", "", "", "", func(string) error {
		return errors.New("every account of this machine can read a command's arguments; write the token to a file that only you can read and give --token-file FILE, or set " + envIDToken)
	})
	old := flags.Lookup("token")
	old.Hidden, old.NoOptDefVal = true, " " // so that it is refused without a value, too
}

// flagError says in words for people what is wrong with a flag.
func flagError(cmd *cobra.Command, err error) error {
	if args := cmd.Flags().Args(); cmd.HasSubCommands() && len(args) > 0 { // the flag may be one of what was meant
		return positional(cmd, args)
	}
	if invalid := (*pflag.InvalidValueError)(nil); errors.As(err, &invalid) {
		flag, cause := invalid.GetFlag(), invalid.Unwrap()
		switch flag.Value.Type() {
		case "bool":
			cause = errors.New("it must be true or false")
		case "int":
			cause = errors.New("it must be a whole number")
		}
		err = fmt.Errorf("--%s is %q; %w", flag.Name, invalid.GetValue(), cause)
		if flag.Name == "token" { // whose value is a secret
			err = fmt.Errorf("--token is not taken: %w", cause)
		}
	}
	return usageError{fmt.Errorf("%w; see %s --help", err, cmd.CommandPath())}
}

// checkedValue is the value of a flag that is checked when it is set.
type checkedValue struct {
	text, kind string
	set        func(string) error
}

// String, Set and Type make it a pflag.Value.
func (v *checkedValue) String() string { return v.text }

func (v *checkedValue) Set(s string) error { v.text = s; return v.set(s) }

func (v *checkedValue) Type() string { return v.kind }

// checked adds a flag with the default value text. set sets it, or says what is
// allowed.
func checked(flags *pflag.FlagSet, name, text, kind, usage string, set func(string) error) {
	flags.Var(&checkedValue{text, kind, set}, name, usage)
}

// oneOf adds a flag that is one of the allowed values.
func oneOf[T ~string](flags *pflag.FlagSet, target *T, name, usage string, allowed ...T) {
	checked(flags, name, string(*target), "string", usage, func(s string) error {
		words := make([]string, len(allowed))
		for i, a := range allowed {
			if words[i] = string(a); words[i] == s {
				*target = a
				return nil
			}
		}
		last := len(words) - 1
		return fmt.Errorf("it must be %s or %s", strings.Join(words[:last], ", "), words[last])
	})
}

// portFlag adds a flag that is a port.
func portFlag(flags *pflag.FlagSet, name string, port *int, usage string) {
	checked(flags, name, strconv.Itoa(*port), "PORT", usage, func(s string) error {
		n, err := strconv.ParseUint(s, 10, 16)
		if err != nil {
			return errors.New("it must be 0 to 65535")
		}
		*port = int(n)
		return nil
	})
}

// formatFlag adds --format, text or json.
func formatFlag(cmd *cobra.Command) {
	format := "text"
	oneOf(cmd.Flags(), &format, "format", "how to print: text or json", "text", "json")
}

// wantsJSON reports whether --format is json.
func wantsJSON(cmd *cobra.Command) bool { return cmd.Flag("format").Value.String() == "json" }

// show prints v as JSON in one line, or the text, as --format says.
func show(cmd *cobra.Command, v any, text string, args ...any) error {
	if wantsJSON(cmd) {
		b, err := json.Marshal(v)
		if err != nil {
			return err
		}
		return printOut(cmd, string(visibleJSON(b))+"\n")
	}
	return printOut(cmd, fmt.Sprintf(text, args...))
}

// say prints lines, fit for a terminal.
func say(cmd *cobra.Command, lines ...string) error {
	var text strings.Builder
	for _, line := range lines {
		text.WriteString(visible(line) + "\n")
	}
	return printOut(cmd, text.String())
}

// printOut prints what a command has done. Where that cannot be written, standard error has it:
// it may be how to undo that.
func printOut(cmd *cobra.Command, text string) error {
	_, err := io.WriteString(cmd.OutOrStdout(), text)
	if err != nil {
		fmt.Fprint(cmd.ErrOrStderr(), text)
	}
	return err
}

// sayEach prints a line for each of all, or none when there are none.
func sayEach[T any](cmd *cobra.Command, all []T, none string, line func(T) string) error {
	if len(all) == 0 {
		return say(cmd, none)
	}
	for _, v := range all {
		if err := say(cmd, line(v)); err != nil {
			return err
		}
	}
	return nil
}

// table prints rows: on a terminal below a header and in columns, elsewhere with tabs
// between the cells.
func table(cmd *cobra.Command, header string, rows [][]string) error {
	var text strings.Builder
	for _, row := range rows {
		for i, cell := range row {
			row[i] = visible(cell)
		}
		text.WriteString(strings.Join(row, "\t") + "\n")
	}
	out := cmd.OutOrStdout()
	if !terminalOf(out).isTerminal {
		_, err := io.WriteString(out, text.String())
		return err
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprint(w, header+"\n"+text.String())
	return w.Flush()
}

// maxShown is about how much is printed of a text that somebody else wrote, in
// bytes.
const maxShown = 1000

// hidden reports whether a terminal obeys r, or shows it as nothing: controls,
// direction marks, fillers, characters without width.
func hidden(r rune) bool {
	return !strconv.IsPrint(r) || r == '\u2800' || unicode.In(r, unicode.Other_Default_Ignorable_Code_Point, unicode.Variation_Selector)
}

// visible returns the beginning of s, fit for a line on a terminal: its hidden
// characters are written out, as \x1b.
func visible(s string) string {
	var b strings.Builder
	for i, r := range s {
		switch {
		case b.Len() >= maxShown:
			fmt.Fprintf(&b, "... (%d bytes more)", len(s)-i)
			return b.String()
		default:
			writeVisible(&b, r)
		}
	}
	return b.String()
}

// writeVisible writes r, written out where it is hidden.
func writeVisible(b *strings.Builder, r rune) {
	switch {
	case !hidden(r):
		b.WriteRune(r)
	case strconv.IsPrint(r):
		fmt.Fprintf(b, `\u%04x`, r)
	default:
		b.WriteString(strings.Trim(strconv.QuoteRune(r), "'"))
	}
}

// visibleJSON returns JSON in one line with the hidden characters of its strings
// written out.
func visibleJSON(b []byte) []byte {
	var out bytes.Buffer
	for _, r := range string(b) {
		switch {
		case !hidden(r):
			out.WriteRune(r)
		case r > 0xffff:
			high, low := utf16.EncodeRune(r)
			fmt.Fprintf(&out, `\u%04x\u%04x`, high, low)
		default:
			fmt.Fprintf(&out, `\u%04x`, r)
		}
	}
	return out.Bytes()
}

// maxInput is the size of the largest push or message that is read, in bytes. No
// service takes larger ones.
const maxInput = 15 << 20

// readInput reads a file, or standard input where it is "-".
func readInput(file string) ([]byte, error) {
	in := os.Stdin
	if file != "-" {
		f, err := os.Open(file)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		in = f
	}
	b, err := io.ReadAll(io.LimitReader(in, maxInput+1))
	if err == nil && len(b) > maxInput {
		err = fmt.Errorf("%s is over 15 MiB, more than any push or message has", file)
	}
	return b, err
}
