package console

import (
	"testing"

	"example.com/pushinbox/shared/settings"
)

// TestDeliveryIsOffByDefault builds the source from the environment.
func TestDeliveryIsOffByDefault(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		vars map[string]string
		isOn bool
	}{
		"off":               {nil, false},
		"empty":             {map[string]string{"DELIVERY_SUBSCRIPTIONS": "", "DEAD_LETTER_SUBSCRIPTION": ""}, false},
		"on":                {map[string]string{"DELIVERY_SUBSCRIPTIONS": "projects/p/subscriptions/a,projects/p/subscriptions/b"}, true},
		"dead_letters_only": {map[string]string{"DEAD_LETTER_SUBSCRIPTION": "projects/p/subscriptions/d"}, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			vars := map[string]string{"GOOGLE_CLOUD_PROJECT": "p", "PUBSUB_TOPIC": "t", "IAP_AUDIENCE": iapAudience, "FIRESTORE_EMULATOR_HOST": "127.0.0.1:1"}
			for k, v := range test.vars {
				vars[k] = v
			}
			e, err := settings.Parse[environment](vars)
			if err != nil {
				t.Fatal(err)
			}
			source, err := openDelivery(t.Context(), e)
			if err != nil || (source != nil) != test.isOn {
				t.Errorf("got %v, %v", source, err)
			}
		})
	}
}
