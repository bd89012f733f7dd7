package console

import (
	"net/http"

	"example.com/pushinbox/shared/httpapi"
	"example.com/pushinbox/shared/problem"
)

// errNoDelivery is the answer where no source tells how delivery goes.
var errNoDelivery = problem.Named("delivery_off", http.StatusNotFound,
	"delivery is not told here: set DELIVERY_SUBSCRIPTIONS (console_delivery = true in Terraform) and deploy the console again")

// delivery tells how the pushes to this inbox go.
func (h *handler) delivery(w http.ResponseWriter, r *http.Request) error {
	if err := noParameters(r); err != nil {
		return err
	}
	if h.reports == nil {
		return errNoDelivery
	}
	report, err := h.reports.get(r.Context())
	if err != nil {
		return err
	}
	w.Header().Set("Vary", "Accept")
	httpapi.WriteJSON(w, http.StatusOK, report)
	return nil
}
