package doctor

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

func checkProject(x *examination) {
	on := x.target.Project
	if !x.have(on, &x.project) {
		if last := &x.findings[len(x.findings)-1]; x.project.state == denied {
			last.What += ", or there is no such project"
		}
		return
	}
	p := x.project.value
	switch {
	case p.State != "" && p.State != "ACTIVE":
		x.bad(Finding{On: on, What: "the project is not active",
			Evidence: "its state is " + told(p.State), Consequence: "nothing in it works, and it will be gone 30 days after it was deleted",
			Command: command("gcloud", "projects", "undelete", on)})
	case x.target.Number != "" && x.target.Number != p.number():
		x.bad(Finding{On: on, What: "Terraform knows the project by another number",
			Evidence:    fmt.Sprintf("Terraform has %s, Google %s", told(x.target.Number), told(p.number())),
			Consequence: "addresses and the account of Pub/Sub's agent, which have the number in them, are those of another project",
			Command:     x.apply()})
	default:
		x.ok(on, "its number is %s", told(p.number()))
	}
}

func checkAPIs(x *examination) {
	on := x.target.Project
	if !x.have(on, &x.apis) {
		return
	}
	var off, unknown []string
	for _, api := range x.target.APIs {
		state := ""
		for _, s := range x.apis.value.Services {
			if short(s.Name) == api {
				state = s.State
			}
		}
		switch state {
		case "ENABLED":
		case "":
			unknown = append(unknown, api)
		default:
			off = append(off, api)
		}
	}
	switch {
	case len(off) > 0:
		x.bad(Finding{On: on, What: "an API that the inbox needs is not enabled",
			Evidence: "not enabled: " + strings.Join(off, ", "), Consequence: "every call to it fails",
			Command: x.gcloud(append([]string{"services", "enable"}, off...)...)})
	case len(unknown) > 0:
		x.unknown(on, "Service Usage says nothing of %s", strings.Join(unknown, ", "))
	default:
		x.ok(on, "%d APIs are enabled", len(x.target.APIs))
	}
}

func checkPerimeter(x *examination) {
	on := x.target.Project
	if x.refused == 0 {
		if !x.answered {
			x.unknown(on, "no question was answered")
			return
		}
		x.ok(on, "no question was refused by VPC Service Controls")
		return
	}
	f := Finding{On: on, What: "VPC Service Controls keep you out: no permission is missing",
		Evidence:    fmt.Sprintf("a service perimeter refused %d of the questions", x.refused),
		Consequence: "what was refused is unknown; ask from inside of the perimeter, or have its administrators let you in by an access level",
		Command:     x.gcloud("logging", "read", `protoPayload.metadata.@type="type.googleapis.com/google.cloud.audit.VpcServiceControlAuditMetadata"`, "--limit=5")}
	if ids := slices.Sorted(maps.Keys(x.violations)); len(ids) > 0 {
		f.Evidence += ", with the unique ID " + strings.Join(ids, ", ")
		f.Command = x.gcloud("logging", "read", `protoPayload.metadata.vpcServiceControlsUniqueId="`+ids[0]+`"`)
	}
	x.bad(f)
}

// maxSkew is how far a clock may be off: receive takes a token that is issued up to
// this far in the future.
const maxSkew = 10 * time.Second

func checkClock(x *examination) {
	const on = "this machine"
	if len(x.skew) == 0 {
		x.unknown(on, "no answer of Google's has a date to compare this clock with")
		return
	}
	slices.Sort(x.skew)
	skew := x.skew[len(x.skew)/2]
	if skew.Abs() <= maxSkew {
		x.ok(on, "its clock is right, give or take a second")
	} else {
		word := "ahead"
		if skew < 0 {
			word = "behind"
		}
		x.bad(Finding{On: on, What: "the clock of this machine is wrong", scope: "-",
			Evidence:    fmt.Sprintf("it is %v %s of Google's", skew.Abs().Round(time.Second), word),
			Consequence: "times here are not to be trusted, and tokens that this machine signs or asks for are refused elsewhere",
			Command:     "timedatectl set-ntp true"})
	}
}
