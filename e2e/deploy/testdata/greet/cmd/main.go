// Command cmd stays behind, too: what it imports is not there where Google builds.
package main

import _ "example.com/pushinbox/e2e/deploy/testdata/greet"

func main() { select {} }
