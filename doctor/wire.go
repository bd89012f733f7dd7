package doctor

import (
	"strconv"
	"strings"
	"time"
)

// What is read of Google's resources, in the form of their REST APIs.

type project struct {
	Name   string `json:"name"` // projects/NUMBER
	State  string `json:"state"`
	Parent string `json:"parent"`
}

func (p project) number() string { return strings.TrimPrefix(p.Name, "projects/") }

type apiStates struct {
	Services []struct {
		Name  string `json:"name"`
		State string `json:"state"`
	} `json:"services"`
}

type subscription struct {
	Topic              string `json:"topic"`
	Detached           bool   `json:"detached"`
	AckDeadlineSeconds int    `json:"ackDeadlineSeconds"`
	Filter             string `json:"filter"`
	ExactlyOnce        bool   `json:"enableExactlyOnceDelivery"`
	PushConfig         struct {
		PushEndpoint string `json:"pushEndpoint"`
		OIDCToken    *struct {
			ServiceAccountEmail string `json:"serviceAccountEmail"`
			Audience            string `json:"audience"`
		} `json:"oidcToken"`
		NoWrapper *struct {
			WriteMetadata bool `json:"writeMetadata"`
		} `json:"noWrapper"`
	} `json:"pushConfig"`
	ExpirationPolicy *struct {
		TTL string `json:"ttl"`
	} `json:"expirationPolicy"`
	RetryPolicy *struct {
		MinimumBackoff string `json:"minimumBackoff"`
		MaximumBackoff string `json:"maximumBackoff"`
	} `json:"retryPolicy"`
	DeadLetterPolicy *struct {
		DeadLetterTopic     string `json:"deadLetterTopic"`
		MaxDeliveryAttempts int    `json:"maxDeliveryAttempts"`
	} `json:"deadLetterPolicy"`
	MessageTransforms []struct {
		Disabled bool `json:"disabled"`
	} `json:"messageTransforms"`
}

type topicSubscriptions struct {
	Subscriptions []string `json:"subscriptions"`
}

type policy struct {
	Bindings []binding `json:"bindings"`
}

type binding struct {
	Role      string     `json:"role"`
	Members   []string   `json:"members"`
	Condition *condition `json:"condition"`
}

type condition struct {
	Expression string `json:"expression"`
}

type role struct {
	IncludedPermissions []string `json:"includedPermissions"`
	Deleted             bool     `json:"deleted"`
}

type serviceAccount struct {
	Disabled bool `json:"disabled"`
}

type functions struct {
	Functions []function `json:"functions"`
}

type function struct {
	Name          string `json:"name"`
	URL           string `json:"url"`
	State         string `json:"state"`
	StateMessages []struct {
		Message string `json:"message"`
	} `json:"stateMessages"`
	ServiceConfig struct {
		URI                  string            `json:"uri"`
		ServiceAccountEmail  string            `json:"serviceAccountEmail"`
		EnvironmentVariables map[string]string `json:"environmentVariables"`
	} `json:"serviceConfig"`
}

type service struct {
	URI                   string   `json:"uri"`
	URLs                  []string `json:"urls"`
	Ingress               string   `json:"ingress"`
	InvokerIAMDisabled    bool     `json:"invokerIamDisabled"`
	LatestReadyRevision   string   `json:"latestReadyRevision"`
	LatestCreatedRevision string   `json:"latestCreatedRevision"`
	TerminalCondition     struct {
		State   string `json:"state"`
		Reason  string `json:"reason"`
		Message string `json:"message"`
	} `json:"terminalCondition"`
	Template struct {
		Timeout   string `json:"timeout"`
		VPCAccess *struct {
			Egress string `json:"egress"`
		} `json:"vpcAccess"`
		Containers []struct {
			Env []envVar `json:"env"`
		} `json:"containers"`
	} `json:"template"`
	Traffic []struct {
		Type     string `json:"type"`
		Revision string `json:"revision"`
		Percent  int    `json:"percent"`
	} `json:"traffic"`
}

type envVar struct {
	Name        string `json:"name"`
	Value       string `json:"value"`
	ValueSource *struct {
		SecretKeyRef struct {
			Secret  string `json:"secret"`
			Version string `json:"version"`
		} `json:"secretKeyRef"`
	} `json:"valueSource"`
}

// env returns a variable of the service.
func (s *service) env(name string) (envVar, bool) {
	for _, c := range s.Template.Containers {
		for _, e := range c.Env {
			if e.Name == name {
				return e, true
			}
		}
	}
	return envVar{}, false
}

type orgPolicy struct {
	Spec struct {
		Rules []struct {
			AllowAll bool `json:"allowAll"`
			DenyAll  bool `json:"denyAll"`
			Enforce  bool `json:"enforce"`
			Values   *struct {
				AllowedValues []string `json:"allowedValues"`
				DeniedValues  []string `json:"deniedValues"`
			} `json:"values"`
		} `json:"rules"`
	} `json:"spec"`
}

type database struct {
	Type       string `json:"type"`
	LocationID string `json:"locationId"`
}

type indexes struct {
	Indexes []index `json:"indexes"`
}

type index struct {
	QueryScope string       `json:"queryScope"`
	State      string       `json:"state"`
	Fields     []indexField `json:"fields"`
}

type indexField struct {
	FieldPath   string `json:"fieldPath"`
	Order       string `json:"order"`
	ArrayConfig string `json:"arrayConfig"`
}

// key names an index by what it is of, without the document's name, which Firestore
// adds at the end by itself.
func (i index) key() string {
	var b strings.Builder
	for _, f := range i.Fields {
		if f.FieldPath != "__name__" {
			b.WriteString(" " + f.FieldPath + ":" + f.Order + f.ArrayConfig)
		}
	}
	return strings.TrimSpace(b.String())
}

type field struct {
	IndexConfig struct {
		UsesAncestorConfig bool    `json:"usesAncestorConfig"`
		Indexes            []index `json:"indexes"`
	} `json:"indexConfig"`
	TTLConfig *struct {
		State string `json:"state"`
	} `json:"ttlConfig"`
}

type timeSeries struct {
	TimeSeries []struct {
		Metric struct {
			Labels map[string]string `json:"labels"`
		} `json:"metric"`
		Resource struct {
			Labels map[string]string `json:"labels"`
		} `json:"resource"`
		Points []struct {
			Value struct {
				Int64Value  string   `json:"int64Value"`
				DoubleValue *float64 `json:"doubleValue"`
			} `json:"value"`
		} `json:"points"`
	} `json:"timeSeries"`
}

type logEntries struct {
	Entries []struct {
		JSONPayload struct {
			Refusal string `json:"refusal"`
			Error   string `json:"error"`
		} `json:"jsonPayload"`
	} `json:"entries"`
}

type secretVersion struct {
	State string `json:"state"`
}

type secretPayload struct {
	Payload struct {
		Data []byte `json:"data"`
	} `json:"payload"`
}

type job struct {
	State  string `json:"state"`
	Status struct {
		Code    int    `json:"code"`
		Message string `json:"message"`
	} `json:"status"`
}

type documents struct {
	Documents []document `json:"documents"`
}

type document struct {
	Fields map[string]struct {
		StringValue    string `json:"stringValue"`
		TimestampValue string `json:"timestampValue"`
	} `json:"fields"`
}

// text returns a field that is a text, and at one that is a time.
func (d document) text(name string) string { return d.Fields[name].StringValue }

func (d document) at(name string) time.Time {
	t, err := time.Parse(time.RFC3339Nano, d.Fields[name].TimestampValue)
	if err != nil {
		return time.Time{}
	}
	return t
}

type troubleshooting struct {
	Access string `json:"access"`
}

// seconds returns a duration of Google's, such as "60s", or -1.
func seconds(s string) float64 {
	n, err := strconv.ParseFloat(strings.TrimSuffix(s, "s"), 64)
	if err != nil || !strings.HasSuffix(s, "s") {
		return -1
	}
	return n
}
