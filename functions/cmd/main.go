// Command cmd serves the functions as they are deployed, wired from the
// environment. FUNCTION_TARGET picks the one that is served at every path; without
// it each is served at its name and below, such as receive's /receive/wrapped.
// PORT is 8080 by default.
//
//	FUNCTION_TARGET=receive PORT=8081 go run ./functions/cmd
package main

import (
	"cmp"
	"fmt"
	"maps"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"

	_ "example.com/pushinbox/functions/calendar"
	_ "example.com/pushinbox/functions/console"
	_ "example.com/pushinbox/functions/mns"
	_ "example.com/pushinbox/functions/publish"
	_ "example.com/pushinbox/functions/receive"
	"example.com/pushinbox/shared/httpapi"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "cmd:", err)
		os.Exit(1)
	}
}

func run() error {
	all := httpapi.Functions()
	if target := os.Getenv("FUNCTION_TARGET"); target != "" {
		if all[target] == nil {
			return fmt.Errorf("FUNCTION_TARGET is %q; set it to one of %s, or to nothing for all of them",
				target, strings.Join(slices.Sorted(maps.Keys(all)), ", "))
		}
		select {} // the function's own package serves it
	}
	mux := http.NewServeMux()
	for name, h := range all {
		below := http.StripPrefix("/"+name, h)
		mux.Handle("/"+name, below)
		mux.Handle("/"+name+"/", below)
	}
	server := httpapi.NewServer(mux)
	server.Addr = net.JoinHostPort("", cmp.Or(os.Getenv("PORT"), "8080"))
	return server.ListenAndServe()
}
