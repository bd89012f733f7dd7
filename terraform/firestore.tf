resource "google_firestore_database" "inbox" {
  count = var.create_database ? 1 : 0

  project                 = var.project_id
  name                    = var.firestore_database
  location_id             = coalesce(var.firestore_location, var.region)
  type                    = "FIRESTORE_NATIVE"
  delete_protection_state = var.database_delete_protection ? "DELETE_PROTECTION_ENABLED" : "DELETE_PROTECTION_DISABLED"
  # `terraform destroy` forgets the database and leaves it, with all messages.
  deletion_policy = "ABANDON"

  depends_on = [terraform_data.apis]
}

locals {
  # Waits for the database, if it is created here.
  database      = try(google_firestore_database.inbox[0].name, var.firestore_database)
  database_name = "projects/${var.project_id}/databases/${local.database}" # in full

  # Narrows a right on Firestore to the inbox's database.
  database_condition = {
    title      = "inbox-database"
    expression = "resource.name == \"${local.database_name}\""
  }

  # The packages that use Firestore say what their queries need, in the format of
  # Firebase's tools, for their default collections.
  declared          = jsondecode(file("${path.module}/../shared/inbox/firestoreinbox/firestore.indexes.json"))
  declared_calendar = jsondecode(file("${path.module}/../shared/calendar/firestorestate/firestore.indexes.json"))

  # The declared indexes of the attribute replay-of are the form of the others.
  attribute_paths = [
    for name in setsubtract(var.search_attributes, ["replay-of"]) :
    can(regex("^[A-Za-z_][A-Za-z_0-9]*$", name)) ? "attributes.${name}" : "attributes.`${name}`"
  ]
  attribute_indexes = [
    for pair in setproduct(local.attribute_paths, local.declared.indexes) : merge(pair[1], {
      fields = [for f in pair[1].fields : merge(f, { fieldPath = f.fieldPath == "attributes.`replay-of`" ? pair[0] : f.fieldPath })]
    }) if contains(pair[1].fields[*].fieldPath, "attributes.`replay-of`")
  ]

  # Both are times that only grow, see below. No name here can begin with "messages".
  marker_overrides = flatten([
    for name in var.marker_collections : [
      { collectionGroup = name, fieldPath = "expireAt", ttl = true, indexes = [] },
      { collectionGroup = name, fieldPath = "processedAt", ttl = false, indexes = [] },
    ]
  ])

  indexes = {
    for i in concat(local.declared.indexes, local.attribute_indexes) :
    join(" ", concat([i.collectionGroup], [for f in i.fields : "${f.fieldPath}:${lower(try(f.order, f.arrayConfig))}"])) => i
  }
  field_overrides = {
    for f in concat(
      local.declared.fieldOverrides,
      [for f in local.declared_calendar.fieldOverrides : f if var.calendar != null],
      local.marker_overrides,
    ) : "${f.collectionGroup} ${f.fieldPath}" => f
  }
}

# The lists. Firestore refuses a query whose index is missing.
resource "google_firestore_index" "inbox" {
  for_each = local.indexes

  project     = var.project_id
  database    = local.database
  collection  = replace(each.value.collectionGroup, "/^messages/", var.inbox_collection)
  query_scope = each.value.queryScope

  dynamic "fields" {
    # Firestore adds the document's name at the end by itself.
    for_each = [for f in each.value.fields : f if f.fieldPath != "__name__"]
    content {
      field_path   = fields.value.fieldPath
      order        = try(fields.value.order, null)
      array_config = try(fields.value.arrayConfig, null)
    }
  }
}

# Exemptions: an index on a time that only grows allows a collection about 500
# writes a second, and an index on data nobody queries is only billed. And the
# policies by which Firestore deletes what has expired.
resource "google_firestore_field" "inbox" {
  for_each = local.field_overrides

  project    = var.project_id
  database   = local.database
  collection = replace(each.value.collectionGroup, "/^messages/", var.inbox_collection)
  field      = each.value.fieldPath
  # Forgotten, not reset: the database stays, and its messages go on expiring.
  deletion_policy = "ABANDON"

  index_config {
    dynamic "indexes" {
      for_each = each.value.indexes
      content {
        order        = try(indexes.value.order, null)
        array_config = try(indexes.value.arrayConfig, null)
        query_scope  = try(indexes.value.queryScope, null)
      }
    }
  }

  dynamic "ttl_config" {
    for_each = try(each.value.ttl, false) ? [true] : []
    content {}
  }
}
