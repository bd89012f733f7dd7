// Command cmd serves the functions with the functions framework, wired as in
// production. FUNCTION_TARGET picks the one that is served at every path;
// without it each is served at its name and at no path below, such as receive's
// /wrapped. PORT is 8080 by default.
//
//	FUNCTION_TARGET=receive PORT=8081 go run ./functions/cmd
package main

import (
	"fmt"
	"os"

	"github.com/GoogleCloudPlatform/functions-framework-go/funcframework"

	_ "example.com/pushinbox/functions/calendar"
	_ "example.com/pushinbox/functions/console"
	_ "example.com/pushinbox/functions/mns"
	_ "example.com/pushinbox/functions/publish"
	_ "example.com/pushinbox/functions/receive"
)

func main() {
	port := os.Getenv("PORT")
	if port == "" {
		port = "8080"
	}
	if err := funcframework.Start(port); err != nil {
		fmt.Fprintln(os.Stderr, "cmd:", err)
		os.Exit(1)
	}
}
