package main

import (
	"errors"
	"strconv"

	"github.com/spf13/pflag"
)

// proxyFlag adds --proxy-port.
func proxyFlag(flags *pflag.FlagSet, port *int) {
	checked(flags, "proxy-port", "0", "PORT", "the port of the proxy for pushinbox run; 0 takes a free one", func(s string) error {
		n, err := strconv.ParseUint(s, 10, 16)
		if err != nil {
			return errors.New("it must be 0 to 65535")
		}
		*port = int(n)
		return nil
	})
}
