// Command cmd serves the function orders on this machine, wired from the environment
// as it is deployed.
package main

import (
	"log"
	"os"

	_ "example.com/pushinbox/examples/orders"
)

func main() {
	if os.Getenv("FUNCTION_TARGET") != "orders" {
		log.Fatal("set FUNCTION_TARGET=orders")
	}
	select {} // the function's own package serves it
}
