package console

import (
	_ "embed"
	"net/http"

	"example.com/pushinbox/shared/httpapi"
)

//go:embed openapi.yaml
var openAPI []byte

// openAPI serves the description of the API.
func (h *handler) openAPI(w http.ResponseWriter, r *http.Request) error {
	if err := httpapi.AllowParameters(r); err != nil {
		return err
	}
	hd := w.Header()
	hd.Set("Content-Type", "application/yaml")
	hd.Set("X-Content-Type-Options", "nosniff")
	hd.Set("Cache-Control", "no-cache")
	_, _ = w.Write(openAPI)
	return nil
}
