package doctor

import (
	"cmp"
	"encoding/json"
	"fmt"
)

// Outputs are those of the Terraform module that commands read.
type Outputs struct {
	APIURL        Output `json:"api_url"`
	ConsoleURL    Output `json:"console_url"`
	TesterAccount Output `json:"tester_account"`
	Delivery      struct {
		Value *DeliveryOutput `json:"value"`
	} `json:"delivery"`
	Deployment struct {
		Value struct {
			Project string `json:"project"`
		} `json:"value"`
	} `json:"deployment"`
	Functions struct {
		Value map[string]struct {
			ServiceAccount string            `json:"service_account"`
			Environment    map[string]string `json:"environment"`
			Secrets        map[string]string `json:"secrets"`
			Ingress        string            `json:"ingress"`
		} `json:"value"`
	} `json:"functions"`
}

// Output is an output that is a string or null.
type Output struct {
	Value string `json:"value"`
}

// DeliveryOutput is the output delivery.
type DeliveryOutput struct {
	Project                string                        `json:"project"`
	ProjectNumber          string                        `json:"project_number"`
	Region                 string                        `json:"region"`
	PushAccount            string                        `json:"push_account"`
	Subscriptions          map[string]SubscriptionOutput `json:"subscriptions"`
	DeadLetterTopic        string                        `json:"dead_letter_topic"`
	DeadLetterSubscription string                        `json:"dead_letter_subscription"`
	TokenSecret            string                        `json:"token_secret"`
	Database               string                        `json:"database"`
	Collection             string                        `json:"collection"`
	SearchAttributes       []string                      `json:"search_attributes"`
	LogView                string                        `json:"log_view"`
	OperationsLog          string                        `json:"operations_log"`
	SchedulerRegion        string                        `json:"scheduler_region"`
}

// SubscriptionOutput is a subscription as Terraform wants it. Its Endpoint is without the
// shared token.
type SubscriptionOutput struct {
	Name string `json:"name"`
	// Function is the one that it pushes to; the token is receive's.
	Function string `json:"function"`
	Wanted
}

// ReadOutputs reads what `terraform output -json` printed.
func ReadOutputs(printed []byte) (*Outputs, error) {
	o := new(Outputs)
	if err := json.Unmarshal(printed, o); err != nil {
		return nil, fmt.Errorf("what Terraform printed is not the output of `terraform output -json`: %w", err)
	}
	return o, nil
}

// Address returns where programs call the console. People's address lets no program
// in where Identity-Aware Proxy stands before it, and api_url is then another one.
func (o *Outputs) Address() string { return cmp.Or(o.APIURL.Value, o.ConsoleURL.Value) }
