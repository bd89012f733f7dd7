package googleerror

import "testing"

// TestOf reads errors as Google's services send them, and what is none.
func TestOf(t *testing.T) {
	t.Parallel()
	const fence = `{"@type": "type.googleapis.com/google.rpc.PreconditionFailure", "violations": [{"type": "OTHER", "description": "no"}, {"type": "VPC_SERVICE_CONTROLS", "description": "an-id"}]}`
	const policy = `{"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "SECURITY_POLICY_VIOLATED", "metadata": {"uid": "a-uid"}}`
	for name, test := range map[string]struct {
		body string
		want Error
	}{
		"plain":         {`{"error": {"code": 403, "message": "no", "status": "PERMISSION_DENIED"}}`, Error{Message: "no"}},
		"disabled":      {`{"error": {"message": "off", "details": [{"@type": "type.googleapis.com/google.rpc.Help"}, {"reason": "SERVICE_DISABLED", "metadata": {"service": "run.googleapis.com", "consumer": "projects/1"}}]}}`, Error{Message: "off", Cause: Disabled, Service: "run.googleapis.com", Consumer: "projects/1"}},
		"perimeter":     {`{"error": {"details": [` + fence + `]}}`, Error{Cause: Perimeter, Violation: "an-id"}},
		"perimeter_too": {`{"error": {"details": [` + policy + `]}}`, Error{Cause: Perimeter, Violation: "a-uid"}},
		"the_first":     {`{"error": {"details": [` + fence + `,` + policy + `]}}`, Error{Cause: Perimeter, Violation: "an-id"}},
		"permission":    {`{"error": {"details": [{"reason": "IAM_PERMISSION_DENIED", "metadata": {"permission": "run.services.get"}}]}}`, Error{Permission: "run.services.get"}},
		"another_form":  {`{"error": "invalid_grant"}`, Error{}},
		"html":          {`<html>`, Error{}},
		"empty":         {``, Error{}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test.want.Status = 403
			if got := Of(403, []byte(test.body)); *got != test.want {
				t.Errorf("got %+v, want %+v", *got, test.want)
			}
		})
	}
}
