package pushfake

import "example.com/pushinbox/local/pubsubserver"

// Clock is the time that an Issuer and a Dispatcher go by.
type Clock = pubsubserver.Clock
