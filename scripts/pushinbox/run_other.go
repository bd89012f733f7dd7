//go:build !unix

package main

import (
	"errors"
	"os"
)

// passedOn are the signals that a program gets which runs below this one.
var passedOn = []os.Signal{os.Interrupt}

// replace is for systems that can run a program in place of another.
func replace(string, []string, []string) error { return errors.ErrUnsupported }

// fromTerminal reports whether a signal came from the terminal, which sends it to the
// program, too: it always does here.
func fromTerminal(os.Signal) bool { return true }

func codeOf(state *os.ProcessState) int { return state.ExitCode() }
