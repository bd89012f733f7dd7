//go:build !unix

package pushfake

import "net"

// knowsClosed is whether closedByPeer can tell. Where it cannot, http.Transport
// posts everything: it reads from idle connections.
const knowsClosed = false

func closedByPeer(net.Conn) bool { return true }
