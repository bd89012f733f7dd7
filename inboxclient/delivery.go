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
	err := c.read(ctx, request{path: "delivery", header: http.Header{"Accept": {"application/json"}}}, func(resp *http.Response) error {
		b, err := all(resp, 0)
		if err != nil {
			return err
		}
		if err := decode(b, report); err != nil {
			return err
		}
		if report.At.IsZero() {
			return fmt.Errorf("%w: it does not say when the delivery was looked at", errAnswer)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return report, nil
}
