# What var.mns makes, and that nothing of it is there without.

mock_provider "google" {
  source          = "./tests/mocks"
  override_during = plan
}

override_resource {
  override_during = plan
  target          = google_service_account.function["mns"]
  values = {
    email  = "inbox-mns@demo-project.iam.gserviceaccount.com"
    member = "serviceAccount:inbox-mns@demo-project.iam.gserviceaccount.com"
    name   = "projects/demo-project/serviceAccounts/inbox-mns@demo-project.iam.gserviceaccount.com"
  }
}

override_resource {
  override_during = plan
  target          = google_project_iam_custom_role.inbox_writer
  values          = { name = "projects/demo-project/roles/pushInboxWriter" }
}

variables {
  project_id      = "demo-project"
  publish_callers = ["orders@example.com"]
  console_readers = ["reader@example.com"]
}

run "off" {
  command = plan
  variables {
    # By itself it makes nothing.
    mns_secret = "0123456789abcdef0123456789abcdef"
  }

  assert {
    condition     = !contains(keys(output.functions), "mns") && length(google_secret_manager_secret.shared) + length(google_secret_manager_secret_version.shared) + length(google_secret_manager_secret_iam_member.shared) + length(google_logging_project_exclusion.secret_urls) == 0
    error_message = "Something of MNS is made that was not asked for."
  }
  assert {
    condition     = !contains(keys(google_project_service.api), "secretmanager.googleapis.com")
    error_message = "Secret Manager is enabled for nothing."
  }
}

run "on" {
  command = plan
  variables {
    mns = { topic_owners = ["1234567890123456"] }
  }

  assert {
    condition     = output.functions["mns"].url == "https://mns-123456789012.europe-west1.run.app" && output.functions["mns"].service_account == "inbox-mns@demo-project.iam.gserviceaccount.com" && output.functions["mns"].timeout_seconds == 10
    error_message = "The function is not at its address, has another's account, or may take longer than MNS waits."
  }
  assert {
    condition = output.functions["mns"].environment == {
      FIRESTORE_DATABASE   = "(default)"
      GOMEMLIMIT           = "448MiB"
      GOOGLE_CLOUD_PROJECT = "demo-project"
      INBOX_COLLECTION     = "messages"
      INBOX_SHARDS         = "16"
      INBOX_TTL            = "720h"
      MNS_BODY             = "raw"
      MNS_TOPIC_OWNERS     = "1234567890123456"
    }
    error_message = "The function's environment is another."
  }
  assert {
    condition     = length(output.functions["mns"].secrets) + length(google_secret_manager_secret.shared) + length(google_logging_project_exclusion.secret_urls) == 0
    error_message = "A secret is made that was not asked for."
  }
  assert {
    condition     = [for g in google_project_iam_member.project : "${g.role} ${one(g.condition).expression}" if strcontains(g.member, "inbox-mns@")] == ["projects/demo-project/roles/pushInboxWriter resource.name == \"projects/demo-project/databases/(default)\""]
    error_message = "The function may do something else in the project than put messages into the inbox's database."
  }
  assert {
    condition     = !contains(keys(google_pubsub_topic_iam_member.function_publisher), "mns")
    error_message = "The function may publish."
  }
}

run "narrowed" {
  command = plan
  variables {
    mns = {
      topic_owners     = ["1", "2"]
      topics           = ["orders", "returns"]
      subscriptions    = ["orders-Sub"]
      certificate_pins = ["3f7edc3c7b871726fc961494a4f264d5403084f129c78bf6ef84672482e3e103"]
      body             = "base64,orders=raw"
    }
    mns_secret = "0123456789abcdef0123456789abcdef"
  }

  assert {
    condition = { for k, v in output.functions["mns"].environment : k => v if startswith(k, "MNS_") } == {
      MNS_BODY             = "base64,orders=raw"
      MNS_CERTIFICATE_PINS = "3f7edc3c7b871726fc961494a4f264d5403084f129c78bf6ef84672482e3e103"
      MNS_SUBSCRIPTIONS    = "orders-Sub"
      MNS_TOPICS           = "orders,returns"
      MNS_TOPIC_OWNERS     = "1,2"
    }
    error_message = "The function lets in others than it was told."
  }
  assert {
    condition     = output.functions["mns"].secrets.MNS_SECRET == "inbox-mns-secret:3"
    error_message = "The function does not get the secret from Secret Manager, by a version that is pinned."
  }
  assert {
    condition     = google_secret_manager_secret_version.shared["mns"].deletion_policy == "ABANDON"
    error_message = "A new secret destroys the one that running revisions read."
  }
  assert {
    condition     = !strcontains(nonsensitive(jsonencode(output.functions)), "0123456789abcdef0123456789abcdef")
    error_message = "The secret is in the outputs."
  }
  assert {
    condition     = [for m in google_secret_manager_secret_iam_member.shared : "${m.member} ${m.role}"] == ["serviceAccount:inbox-mns@demo-project.iam.gserviceaccount.com roles/secretmanager.secretAccessor"]
    error_message = "Others than the function may read the secret, or it may not."
  }
  assert {
    condition     = strcontains(google_logging_project_exclusion.secret_urls["mns"].filter, "service_name=\"mns\"") && strcontains(google_logging_project_exclusion.secret_urls["mns"].filter, "run.googleapis.com/requests")
    error_message = "Request logs keep the secret."
  }
  assert {
    condition     = contains(keys(google_project_service.api), "secretmanager.googleapis.com")
    error_message = "Secret Manager is not enabled."
  }
}
