// Package functiontarget takes FUNCTION_TARGET out of the environment before the
// packages of the functions see it. They would serve the function that it names as
// soon as they are initialized, and not the program for which it is meant, as in
//
//	FUNCTION_TARGET=receive pushinbox run -- go run ./functions/cmd
//
// Go initializes the first package, by import path, all of whose imports are: this
// one imports os alone, and the functions import packages with later paths.
package functiontarget

import "os"

// Variable is the name of the variable.
const Variable = "FUNCTION_TARGET"

// Given is what the variable was set to.
var Given = take()

func take() string {
	given := os.Getenv(Variable)
	_ = os.Unsetenv(Variable)
	return given
}
