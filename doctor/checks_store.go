package doctor

import (
	"fmt"
	"slices"
	"strings"
)

func (x *examination) databaseID() string { return short(x.target.Database) }

// knowDatabase reports whether a database is named.
func (x *examination) knowDatabase() bool {
	if x.target.Database == "" {
		if x.have("the database", &x.service) {
			x.unknown("the database", "receive does not say which database it has")
		}
		return false
	}
	return true
}

func checkDatabase(x *examination) {
	if !x.knowDatabase() {
		return
	}
	on := x.databaseID()
	if x.database.state == absent {
		x.bad(Finding{On: on, What: "the Firestore database does not exist", Evidence: "Firestore answers 404 for " + told(x.target.Database),
			Consequence: "receive answers 503 to every push", Command: x.mend("firestore", "databases", "list")})
		return
	}
	if x.have(on, &x.database) {
		x.ok(on, "it is in %s", told(x.database.value.LocationID))
	}
}

func checkDatabaseMode(x *examination) {
	if !x.knowDatabase() || !x.have(x.databaseID(), &x.database) {
		return
	}
	on := x.databaseID()
	if x.database.value.Type == "FIRESTORE_NATIVE" {
		x.ok(on, "it is in native mode")
		return
	}
	x.bad(Finding{On: on, What: "the Firestore database is in Datastore mode", Evidence: "its type is " + told(x.database.value.Type),
		Consequence: "receive cannot write to it, and answers 503 to every push; the mode can be changed only while it is empty",
		Command:     x.gcloud("firestore", "databases", "update", "--database="+on, "--type=firestore-native")})
}

// The permissions that putting a message takes.
var putPermissions = []string{"datastore.entities.create", "datastore.entities.get", "datastore.entities.update"}

func checkWriter(x *examination) {
	on := x.target.Account
	if on == "" {
		if x.have("receive's account", &x.service) {
			x.unknown("receive's account", "which account receive runs as is not known")
		}
		return
	}
	role := x.writerRole()
	f := Finding{On: on, Consequence: "receive answers 503 to every push, or to every large one",
		Command: x.mend("projects", "add-iam-policy-binding", x.target.Project, "--member=serviceAccount:"+on, "--role="+role, "--condition=None")}
	if x.target.Terraform == "" { // the project is the argument here
		f.Command = command("gcloud", "projects", "add-iam-policy-binding", x.target.Project, "--member=serviceAccount:"+on, "--role="+role, "--condition=None")
	}
	for _, permission := range putPermissions {
		h := x.holds("serviceAccount:"+on, permission, &x.policy)
		switch {
		case h.yes:
			continue
		case slices.ContainsFunc(h.conditional, func(b binding) bool { return x.isOfDatabase(b.Condition.Expression) }):
			continue
		case h.unsure != nil:
			x.have(on, h.unsure)
			return
		case len(h.conditional) > 0:
			expression := h.conditional[0].Condition.Expression
			if !strings.HasPrefix(strings.TrimSpace(expression), "resource.name ==") {
				x.add(Finding{On: on, Result: Unknown, What: "its grant has a condition that cannot be evaluated here: " + told(expression)})
				return
			}
			f.What, f.Evidence = "the account of receive may write to another database only", "the condition of its role is "+told(expression)+", and the database is "+told(x.target.Database)
			x.bad(f)
			return
		}
		f.What, f.Evidence = "the account of receive may not write to Firestore", "the project grants it no role with "+permission
		if x.project.state == known && x.project.value.Parent != "" {
			f.Evidence += "; a folder or the organisation may, which is not looked at"
		}
		x.bad(f)
		return
	}
	x.ok(on, "it may put messages")
}

// writerRole is the role that lets receive write, as far as a name of one is known.
func (x *examination) writerRole() string {
	return "projects/" + x.target.Project + "/roles/pushInboxWriter"
}

// isOfDatabase reports whether a condition is met by the inbox's database.
func (x *examination) isOfDatabase(expression string) bool {
	is := strings.Join(strings.Fields(expression), " ")
	return is == `resource.name == "`+x.target.Database+`"`
}

func checkIndexes(x *examination) {
	if !x.knowDatabase() {
		return
	}
	var missing, building, broken []string
	for _, d := range x.declared {
		list := x.indexes[d.CollectionGroup]
		if !x.have(x.databaseID(), list) {
			return
		}
		key := index{Fields: d.Fields}.key()
		state := ""
		for _, i := range list.value.Indexes {
			if i.key() == key && (i.QueryScope == "" || i.QueryScope == "COLLECTION") && state != "READY" {
				state = i.State
			}
		}
		name := d.CollectionGroup + " " + key
		switch state {
		case "READY":
		case "":
			missing = append(missing, name)
		case "CREATING":
			building = append(building, name)
		default:
			broken = append(broken, name)
		}
	}
	on := x.databaseID()
	f := Finding{On: on, Consequence: "lists of the console fail, or those of one kind; what is pushed is stored all the same"}
	switch {
	case len(missing) > 0:
		f.What, f.Evidence = "composite indexes are missing", some(missing)
		f.Command = x.mend(createIndex(x, missing[0])...)
	case len(broken) > 0:
		f.What, f.Evidence = "composite indexes are broken", some(broken)+": delete and create them again"
		f.Command = x.gcloud("firestore", "indexes", "composite", "list", "--database="+on)
	case len(building) > 0:
		f.What, f.Evidence = "composite indexes are still being built", some(building)+": wait, this takes minutes to hours"
		f.Command = x.gcloud("firestore", "operations", "list", "--database="+on)
	default:
		x.ok(on, "%d composite indexes are ready", len(x.declared))
		return
	}
	x.bad(f)
}

// createIndex is the command for an index that is named as in checkIndexes.
func createIndex(x *examination, name string) []string {
	words := strings.Fields(name)
	args := []string{"firestore", "indexes", "composite", "create", "--database=" + x.databaseID(), "--collection-group=" + words[0]}
	for _, w := range words[1:] {
		i := strings.LastIndexByte(w, ':')
		args = append(args, "--field-config=field-path="+w[:i]+",order="+strings.ToLower(w[i+1:]))
	}
	return args
}

// some names the first of many.
func some(all []string) string {
	const most = 3
	if len(all) <= most {
		return strings.Join(all, "; ")
	}
	return fmt.Sprintf("%s; and %d more", strings.Join(all[:most], "; "), len(all)-most)
}

func checkExemptions(x *examination) {
	if !x.knowDatabase() {
		return
	}
	on := x.databaseID()
	var indexed []fieldName
	for _, d := range x.declaredOf {
		name := fieldName{d.CollectionGroup, d.FieldPath}
		if len(d.Indexes) > 0 {
			continue
		}
		if !x.have(on, x.fields[name]) {
			return
		}
		c := x.fields[name].value.IndexConfig
		if c.UsesAncestorConfig || len(c.Indexes) > 0 {
			indexed = append(indexed, name)
		}
	}
	if len(indexed) == 0 {
		x.ok(on, "%d fields have no index of their own, as they should not", len(x.declaredOf))
		return
	}
	names := make([]string, len(indexed))
	for i, n := range indexed {
		names[i] = n.collection + "." + n.field
	}
	x.bad(Finding{On: on, What: "fields are indexed that must not be", Evidence: some(names),
		Consequence: "an index on a time allows about 500 writes a second, one on data costs money, and a value over 1,500 bytes may be refused",
		Command:     x.mend("firestore", "indexes", "fields", "update", indexed[0].field, "--collection-group="+indexed[0].collection, "--database="+on, "--disable-indexes")})
}

func checkTTL(x *examination) {
	if !x.knowDatabase() {
		return
	}
	on := x.databaseID()
	var off []fieldName
	evidence := ""
	for _, d := range x.declaredOf {
		name := fieldName{d.CollectionGroup, d.FieldPath}
		if !d.TTL {
			continue
		}
		if !x.have(on, x.fields[name]) {
			return
		}
		c := x.fields[name].value.TTLConfig
		if c != nil && (c.State == "ACTIVE" || c.State == "CREATING") {
			continue
		}
		off = append(off, name)
		state := "there is no policy"
		if c != nil {
			state = "its state is " + told(c.State)
		}
		if evidence != "" {
			evidence += "; "
		}
		evidence += name.collection + "." + name.field + ": " + state
	}
	if len(off) == 0 {
		x.ok(on, "what has expired is deleted")
		return
	}
	x.bad(Finding{On: on, What: "what has expired is not deleted", Evidence: evidence,
		Consequence: "the inbox shows it no more, and it is stored and paid for ever",
		Command:     x.mend("firestore", "fields", "ttls", "update", off[0].field, "--collection-group="+off[0].collection, "--database="+on, "--enable-ttl")})
}
