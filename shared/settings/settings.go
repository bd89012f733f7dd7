// Package settings reads a function's settings from environment variables, and
// reports all that is wrong with them at once, by the variables' names.
package settings

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/caarlos0/env/v11"
)

// Parse fills a T, whose fields name their variables in env tags, from vars, or
// from the process's environment when vars is nil, and validates it. Its error
// is one line that names, once each, every variable that is malformed, that
// Validate objects to, or whose text has surrounding spaces, quotes or a line
// end. Validate joins its errors with errors.Join; each begins with the name of
// its variable.
//
// The error holds no value but what Validate puts there.
func Parse[T interface{ Validate() error }](vars map[string]string) (T, error) {
	v, err := env.ParseAsWithOptions[T](env.Options{Environment: vars})
	var malformed, unset []error
	var all env.AggregateError
	if err != nil && !errors.As(err, &all) {
		all.Errors = []error{err}
	}
	for _, err := range all.Errors {
		var field env.ParseError
		var missing env.VarIsNotSetError
		var empty env.EmptyVarError
		switch {
		case errors.As(err, &field):
			malformed = append(malformed, notValid(reflect.ValueOf(v), field))
		case errors.As(err, &missing):
			unset = append(unset, notSet(missing.Key))
		case errors.As(err, &empty):
			unset = append(unset, notSet(empty.Key))
		default:
			malformed = append(malformed, err)
		}
	}
	err = errors.Join(errors.Join(malformed...), v.Validate(), texts(v), errors.Join(unset...))
	if err == nil {
		return v, nil
	}
	var problems []string
	named := make(map[string]bool)
	for line := range strings.SplitSeq(err.Error(), "\n") {
		// A malformed variable is zero to Validate, and two parts of T may read
		// the same variable: what was found first says the most.
		if variable, _, _ := strings.Cut(line, " "); !named[variable] {
			named[variable] = true
			problems = append(problems, line)
		}
	}
	slices.Sort(problems)
	return v, errors.New(strings.Join(problems, "; "))
}

// Required returns an error that says what to set the variable to when its
// value is empty.
func Required(variable, value, advice string) error {
	if value == "" {
		return fmt.Errorf("%w: %s", notSet(variable), advice)
	}
	return nil
}

// Project returns an error when the Google Cloud project is not set.
func Project(id string) error {
	return Required("GOOGLE_CLOUD_PROJECT", id, "set it to the ID of the Google Cloud project")
}

func notSet(variable string) error { return errors.New(variable + " is not set, or is empty") }

// Emails returns an error when one of the addresses that the variable lists can
// never equal the e-mail address of a Google token, which has lower case and no
// prefix. A single empty one is a variable that is not set.
func Emails(variable string, addresses ...string) error {
	if len(addresses) == 1 && addresses[0] == "" {
		return nil // not set
	}
	for _, a := range addresses {
		local, domain, _ := strings.Cut(a, "@")
		fault := textFault(a)
		prefix, address, hasPrefix := strings.Cut(a, ":")
		switch {
		case a == "":
			return fmt.Errorf("%s has an empty item: separate addresses with one comma, and end without one", variable)
		case fault != "":
		case hasPrefix:
			fault = fmt.Sprintf("has the prefix %q: write %q", prefix+":", address)
		case local == "" || domain == "" || strings.Contains(domain, "@") || strings.ContainsAny(a, " ,;<>"):
			fault = "is not a valid e-mail address, such as a@example.com"
		case a != strings.ToLower(a):
			fault = fmt.Sprintf("has capitals, and Google's tokens have none: write %q", strings.ToLower(a))
		}
		if fault != "" {
			return fmt.Errorf("%s lists %q, which %s", variable, a, fault)
		}
	}
	return nil
}

// texts returns an error for each variable of the struct v whose text, or one of
// whose items, no part of this project would ever accept or match.
func texts(v any) error {
	var errs []error
	walk(reflect.ValueOf(v), func(variable string, _ reflect.StructField, value reflect.Value) {
		var all []string
		switch {
		case value.Kind() == reflect.String:
			all = []string{value.String()}
		case value.Type() == reflect.TypeFor[[]string]():
			all = value.Interface().([]string)
			if slices.Contains(all, "") {
				errs = append(errs, fmt.Errorf("%s has an empty item: separate items with one comma, and end without one", variable))
			}
		}
		for _, text := range all {
			if fault := textFault(text); fault != "" {
				errs = append(errs, errors.New(variable+" "+fault))
			}
		}
	})
	return errors.Join(errs...)
}

// textFault says what is wrong with a text as such, "" when nothing is. It does
// not repeat the text, which may be a secret.
func textFault(s string) string {
	quoted := func(r rune) bool { return strings.ContainsRune("\"'`“”‘’", r) }
	switch {
	case strings.ContainsFunc(s, unicode.IsControl):
		return "has a line end or another control character: remove it"
	case strings.TrimSpace(s) != s:
		return "has a space before or after it: remove it"
	case strings.TrimFunc(s, quoted) != s:
		return "has quotes around it: remove them"
	case strings.ContainsFunc(s, func(r rune) bool { return unicode.Is(unicode.Cf, r) }):
		return "has an invisible character: type it again"
	}
	return ""
}

// forms says how to write the values of a type.
var forms = map[reflect.Type]string{
	reflect.TypeFor[time.Duration](): "duration, such as 10s, 5m or 720h",
	reflect.TypeFor[int]():           "whole number, such as 16",
	reflect.TypeFor[bool]():          "truth value: true or false",
}

// notValid names the variable of a field that could not be read, and the form
// that its value must have.
func notValid(v reflect.Value, field env.ParseError) error {
	form := forms[field.Type]
	if form == "" {
		form = fmt.Sprintf("%v: %v", field.Type, field.Err)
	}
	name := field.Name
	walk(v, func(variable string, f reflect.StructField, _ reflect.Value) {
		if f.Name == field.Name && f.Type == field.Type {
			name = variable
		}
	})
	return fmt.Errorf("%s is not a valid %s", name, form)
}

// walk calls visit for each field of v, and of the structs in it, that is read
// from a variable.
func walk(v reflect.Value, visit func(variable string, f reflect.StructField, value reflect.Value)) {
	for f, value := range v.Fields() {
		if variable, _, _ := strings.Cut(f.Tag.Get("env"), ","); variable != "" {
			visit(variable, f, value)
		} else if value.Kind() == reflect.Struct {
			walk(value, visit)
		}
	}
}
