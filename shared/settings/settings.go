// Package settings reads a function's settings from environment variables, and
// reports all that is wrong with them at once, by the variables' names.
package settings

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/caarlos0/env/v11"
)

// Parse fills a T, whose fields name their variables in env tags, from vars,
// or from the process's environment when vars is nil, and validates it. Its
// error is one line that names every variable that is missing, empty or
// malformed, or else all that Validate objects to.
func Parse[T interface{ Validate() error }](vars map[string]string) (T, error) {
	v, err := env.ParseAsWithOptions[T](env.Options{Environment: vars})
	if err == nil {
		if err = v.Validate(); err == nil {
			return v, nil
		}
		return v, errors.New(strings.ReplaceAll(err.Error(), "\n", "; "))
	}
	var problems []string
	for _, err := range causes(err) {
		var missing env.VarIsNotSetError
		var empty env.EmptyVarError
		var malformed env.ParseError
		switch {
		case errors.As(err, &missing):
			problems = append(problems, missing.Key+" is not set")
		case errors.As(err, &empty):
			problems = append(problems, empty.Key+" is empty")
		case errors.As(err, &malformed):
			problems = append(problems, fmt.Sprintf("%s is not a valid %v", variable(reflect.TypeFor[T](), malformed.Name), malformed.Type))
		default:
			problems = append(problems, err.Error())
		}
	}
	// Two parts of T may read the same variable.
	slices.Sort(problems)
	return v, errors.New(strings.Join(slices.Compact(problems), "; "))
}

// Emails reports, naming the variable, whether one of the addresses that it
// lists cannot be one: a space after a comma makes one that nobody ever has.
func Emails(variable string, addresses []string) error {
	for _, a := range addresses {
		if !strings.Contains(a, "@") || strings.ContainsAny(a, " \t") {
			return errors.New(variable + " lists something that is no e-mail address; separate addresses with commas alone")
		}
	}
	return nil
}

func causes(err error) []error {
	if all := (env.AggregateError{}); errors.As(err, &all) {
		return all.Errors
	}
	return []error{err}
}

// variable returns the variable of the field with this name in t or a struct
// inside it.
func variable(t reflect.Type, field string) string {
	for f := range t.Fields() {
		if f.Name == field {
			name, _, _ := strings.Cut(f.Tag.Get("env"), ",")
			return name
		}
		if f.Type.Kind() == reflect.Struct {
			if name := variable(f.Type, field); name != "" {
				return name
			}
		}
	}
	return ""
}
