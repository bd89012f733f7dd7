package inboxclient

import (
	"context"
	"fmt"
	"net/http"

	"example.com/pushinbox/shared/delivery"
)

// Delivery returns how Pub/Sub's pushes to the inbox go. IsNotFound tells that the
// console is not configured to know.
func (c *Client) Delivery(ctx context.Context) (*delivery.Report, error) {
	report := new(delivery.Report)
	if err := c.readJSON(ctx, request{path: "delivery", header: http.Header{"Accept": {"application/json"}}}, report); err != nil {
		return nil, err
	}
	if report.At.IsZero() {
		return nil, fmt.Errorf("%w: it does not say when the delivery was looked at", errAnswer)
	}
	return report, nil
}
