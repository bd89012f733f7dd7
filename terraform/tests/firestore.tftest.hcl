# Firestore keeps what is put, answers the lists and forgets what has expired.

mock_provider "google" {
  source          = "./tests/mocks"
  override_during = plan
}

variables {
  project_id = "demo-project"
  testers    = ["user:you@example.com"]
}

run "defaults" {
  command = plan
  assert {
    condition     = google_firestore_database.inbox[0].delete_protection_state == "DELETE_PROTECTION_ENABLED"
    error_message = "The database can be deleted by accident."
  }
  assert {
    condition     = google_firestore_database.inbox[0].deletion_policy == "ABANDON"
    error_message = "terraform destroy would try to delete the messages."
  }
  assert {
    condition     = alltrue([for f in google_firestore_field.inbox : f.deletion_policy == "ABANDON"])
    error_message = "terraform destroy would keep the messages that remain for ever, and index their times."
  }
  assert {
    condition     = google_firestore_database.inbox[0].name == "(default)" && google_firestore_database.inbox[0].location_id == "europe-west1" && google_firestore_database.inbox[0].type == "FIRESTORE_NATIVE"
    error_message = "The database is not the default one, in the region, in Native mode."
  }
  assert {
    condition     = alltrue([for field in ["receivedAt", "publishTime", "expireAt"] : length(google_firestore_field.inbox["messages ${field}"].index_config[0].indexes) == 0])
    error_message = "A time that only grows is indexed: that caps the collection at about 500 writes a second."
  }
  assert {
    condition     = alltrue([for field in ["data", "attributes", "verified"] : length(google_firestore_field.inbox["messages ${field}"].index_config[0].indexes) == 0])
    error_message = "Data that nobody queries is indexed, and billed."
  }
  assert {
    condition     = length(google_firestore_field.inbox["messages expireAt"].ttl_config) == 1 && length(google_firestore_field.inbox["messages-chunks expireAt"].ttl_config) == 1
    error_message = "Messages or their chunks are never deleted."
  }
  assert {
    condition     = length(google_firestore_field.inbox["messages-chunks expireAt"].index_config[0].indexes) == 0
    error_message = "The expiry of chunks is indexed."
  }
  assert {
    condition     = length([for f in google_firestore_field.inbox : f if length(f.ttl_config) > 0 && f.field != "expireAt"]) == 0
    error_message = "A TTL policy is on another field than expireAt."
  }
  assert {
    condition     = length(google_firestore_index.inbox) == 14
    error_message = "There is not one index for each way to filter the list, in either order."
  }
  assert {
    condition = toset([for i in google_firestore_index.inbox : join(",", i.fields[*].field_path)]) == toset([
      "shard,receivedAt", "source,shard,receivedAt", "subscription,shard,receivedAt", "quarantined.is,shard,receivedAt",
      "shard,messageId,receivedAt", "shard,orderingKey,receivedAt", "shard,attributes.`replay-of`,receivedAt",
    ])
    error_message = "A way to filter the list has no index."
  }
  assert {
    condition     = alltrue([for order in ["ASCENDING", "DESCENDING"] : length([for i in google_firestore_index.inbox : i if i.fields[length(i.fields) - 1].order == order]) == 7])
    error_message = "Lists are newest or oldest first, the indexes are not."
  }
  assert {
    condition     = !contains(keys(output.functions["console"].environment), "INBOX_SEARCH_ATTRIBUTES")
    error_message = "The console looks up attributes that have no index."
  }
  assert {
    condition     = alltrue([for name in ["receive", "console"] : output.functions[name].environment.FIRESTORE_DATABASE == "(default)" && output.functions[name].environment.INBOX_COLLECTION == "messages"])
    error_message = "A function uses another database or collection than the one that is made."
  }
}

run "existing_database_and_other_names" {
  command = plan
  variables {
    create_database    = false
    firestore_database = "shared-data"
    inbox_collection   = "pushes"
  }

  assert {
    condition     = length(google_firestore_database.inbox) == 0
    error_message = "A database is made where one is to be used."
  }
  assert {
    condition     = alltrue([for i in google_firestore_index.inbox : i.database == "shared-data" && i.collection == "pushes"])
    error_message = "The indexes are on another database or collection."
  }
  assert {
    condition     = toset([for f in google_firestore_field.inbox : f.collection]) == toset(["pushes", "pushes-chunks"])
    error_message = "Exemptions and TTL are on another collection."
  }
  assert {
    condition     = output.functions["receive"].environment.FIRESTORE_DATABASE == "shared-data" && output.functions["receive"].environment.INBOX_COLLECTION == "pushes"
    error_message = "receive writes to another database or collection."
  }
}

run "search_attributes" {
  command = plan
  variables {
    search_attributes = ["tenant", "ce-type", "replay-of"]
  }

  assert {
    condition     = length(google_firestore_index.inbox) == 18
    error_message = "There are not two indexes for each attribute."
  }
  assert {
    condition = toset([for i in google_firestore_index.inbox : join(" ", [for f in i.fields : "${f.field_path}:${f.order}"]) if startswith(i.fields[1].field_path, "attributes.")]) == toset([
      "shard:ASCENDING attributes.tenant:ASCENDING receivedAt:DESCENDING", "shard:ASCENDING attributes.tenant:ASCENDING receivedAt:ASCENDING",
      "shard:ASCENDING attributes.`ce-type`:ASCENDING receivedAt:DESCENDING", "shard:ASCENDING attributes.`ce-type`:ASCENDING receivedAt:ASCENDING",
      "shard:ASCENDING attributes.`replay-of`:ASCENDING receivedAt:DESCENDING", "shard:ASCENDING attributes.`replay-of`:ASCENDING receivedAt:ASCENDING",
    ])
    error_message = "The indexes of attributes do not have the form that queries need."
  }
  assert {
    condition     = output.functions["console"].environment.INBOX_SEARCH_ATTRIBUTES == "tenant,ce-type,replay-of" && !contains(keys(output.functions["receive"].environment), "INBOX_SEARCH_ATTRIBUTES")
    error_message = "The console does not know which attributes have an index, or receive does."
  }
}

run "markers" {
  command = plan
  variables {
    marker_collections = ["orders-done"]
  }

  assert {
    condition = { for k, f in google_firestore_field.inbox : f.field => "${f.collection} ttl=${length(f.ttl_config)} indexes=${length(f.index_config[0].indexes)}" if f.collection == "orders-done" } == {
      expireAt    = "orders-done ttl=1 indexes=0"
      processedAt = "orders-done ttl=0 indexes=0"
    }
    error_message = "Markers are kept for ever, or their times are indexed."
  }
}
