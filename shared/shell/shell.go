// Package shell writes the commands that people are told to copy: the console's page, the
// doctor and the command line quote alike. It is for POSIX shells, not for Windows'.
package shell

import "strings"

// Quote returns an argument as one word of a shell, as it is where that means nothing to
// a shell. Of a flag --name=value it quotes the value.
func Quote(arg string) string {
	if arg != "" && !strings.ContainsFunc(arg, func(r rune) bool {
		return !('a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || strings.ContainsRune("-_./:=@,+%", r))
	}) {
		return arg
	}
	if name, value, ok := strings.Cut(arg, "="); ok && strings.HasPrefix(name, "--") && Quote(name) == name {
		return name + "=" + Quote(value)
	}
	return "'" + strings.ReplaceAll(arg, "'", `'\''`) + "'"
}
