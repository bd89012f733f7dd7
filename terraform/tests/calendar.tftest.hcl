# What var.calendar makes, and that nothing of it is there without.

mock_provider "google" {
  source          = "./tests/mocks"
  override_during = plan
}

override_resource {
  override_during = plan
  target          = google_service_account.push
  values = {
    email = "inbox-push@demo-project.iam.gserviceaccount.com"
    name  = "projects/demo-project/serviceAccounts/inbox-push@demo-project.iam.gserviceaccount.com"
  }
}

override_resource {
  override_during = plan
  target          = google_service_account.scheduler
  values = {
    email = "inbox-scheduler@demo-project.iam.gserviceaccount.com"
  }
}

override_resource {
  override_during = plan
  target          = google_service_account.function["calendar"]
  values = {
    email  = "inbox-calendar@demo-project.iam.gserviceaccount.com"
    member = "serviceAccount:inbox-calendar@demo-project.iam.gserviceaccount.com"
    name   = "projects/demo-project/serviceAccounts/inbox-calendar@demo-project.iam.gserviceaccount.com"
  }
}

override_resource {
  override_during = plan
  target          = google_project_iam_custom_role.calendar_sync
  values          = { name = "projects/demo-project/roles/pushInboxCalendar" }
}

override_resource {
  override_during = plan
  target          = google_pubsub_topic.calendar_sync
  values          = { id = "projects/demo-project/topics/inbox-calendar-sync" }
}

variables {
  project_id      = "demo-project"
  publish_callers = ["orders@example.com"]
  console_readers = ["reader@example.com"]
}

run "off" {
  command = plan
  assert {
    condition     = !contains(keys(output.functions), "calendar") && length(google_pubsub_topic.calendar_sync) + length(google_pubsub_subscription.calendar_sync) + length(google_pubsub_topic_iam_member.calendar_sync) + length(google_project_iam_custom_role.calendar_sync) + length(google_service_account_iam_member.calendar_delegation) == 0
    error_message = "Something of the calendar is made that was not asked for."
  }
  assert {
    condition     = length(setintersection(keys(google_project_service.api), ["calendar-json.googleapis.com", "cloudscheduler.googleapis.com"])) == 0
    error_message = "The calendar's APIs are enabled."
  }
  assert {
    condition     = length([for k in keys(google_firestore_field.inbox) : k if startswith(k, "calendars")]) == 0
    error_message = "Fields of the calendar's state are exempt that are never written."
  }
}

run "on" {
  command = plan
  variables {
    calendar = { operators = ["you@example.com"] }
  }

  assert {
    condition     = strcontains(google_monitoring_alert_policy.inbox["calendar_failures"].conditions[0].condition_threshold[0].filter, "service_name = \"calendar\"") && strcontains(google_monitoring_alert_policy.inbox["calendar_syncs"].conditions[0].condition_threshold[0].filter, "subscription_id = \"inbox-calendar-sync\"")
    error_message = "Nobody hears of a calendar that is not synced or renewed."
  }

  assert {
    condition     = output.functions["calendar"].url == "https://calendar-123456789012.europe-west1.run.app" && output.functions["calendar"].service_account == "inbox-calendar@demo-project.iam.gserviceaccount.com"
    error_message = "The function is not at its address, or has another's account."
  }
  assert {
    condition = output.functions["calendar"].environment == {
      CALENDAR_ADDRESS     = "https://calendar-123456789012.europe-west1.run.app/notifications"
      CALENDAR_AUDIENCE    = "https://calendar-123456789012.europe-west1.run.app"
      CALENDAR_OPERATORS   = "inbox-scheduler@demo-project.iam.gserviceaccount.com,inbox-push@demo-project.iam.gserviceaccount.com,you@example.com"
      CALENDAR_SYNC_TOPIC  = "inbox-calendar-sync"
      FIRESTORE_DATABASE   = "(default)"
      GOMEMLIMIT           = "448MiB"
      GOOGLE_CLOUD_PROJECT = "demo-project"
      INBOX_COLLECTION     = "messages"
      INBOX_SHARDS         = "16"
      INBOX_TTL            = "720h"
    }
    error_message = "The function's environment is another."
  }
  assert {
    condition     = length(setsubtract(["calendar-json.googleapis.com", "cloudscheduler.googleapis.com"], keys(google_project_service.api))) == 0
    error_message = "Google Calendar's or Cloud Scheduler's API is not enabled."
  }
  assert {
    condition     = google_pubsub_subscription.calendar_sync[0].topic == "projects/demo-project/topics/inbox-calendar-sync" && google_pubsub_subscription.calendar_sync[0].push_config[0].push_endpoint == "https://calendar-123456789012.europe-west1.run.app/sync"
    error_message = "Syncs are not pushed to the function."
  }
  assert {
    condition     = google_pubsub_subscription.calendar_sync[0].push_config[0].oidc_token[0].audience == output.functions["calendar"].environment.CALENDAR_AUDIENCE
    error_message = "The function expects another audience than the pushes have."
  }
  assert {
    condition     = contains(split(",", output.functions["calendar"].environment.CALENDAR_OPERATORS), google_pubsub_subscription.calendar_sync[0].push_config[0].oidc_token[0].service_account_email)
    error_message = "The account that signs the pushes may not sync."
  }
  assert {
    condition     = google_pubsub_subscription.calendar_sync[0].ack_deadline_seconds == output.functions["calendar"].timeout_seconds && google_pubsub_subscription.calendar_sync[0].expiration_policy[0].ttl == ""
    error_message = "The function syncs on after Pub/Sub has given up, or the subscription can expire."
  }
  assert {
    condition     = [for m in google_pubsub_topic_iam_member.calendar_sync : "${m.member} ${m.role} ${m.topic}"] == ["serviceAccount:inbox-calendar@demo-project.iam.gserviceaccount.com roles/pubsub.publisher inbox-calendar-sync"]
    error_message = "Others than the function may ask for syncs, or it may not."
  }
  assert {
    condition     = !contains(keys(google_pubsub_topic_iam_member.function_publisher), "calendar")
    error_message = "The function may publish to the inbox's topic."
  }
  assert {
    condition     = [for g in google_project_iam_member.project : "${g.role} ${one(g.condition).expression}" if strcontains(g.member, "inbox-calendar@")] == ["projects/demo-project/roles/pushInboxCalendar resource.name == \"projects/demo-project/databases/(default)\""]
    error_message = "The function may do something else in the project than use the inbox's database."
  }
  assert {
    condition = google_project_iam_custom_role.calendar_sync[0].permissions == toset([
      "datastore.databases.get", "datastore.entities.create", "datastore.entities.delete",
      "datastore.entities.get", "datastore.entities.list", "datastore.entities.update",
    ])
    error_message = "The function may do more, or less, in Firestore than a sync takes."
  }
  assert {
    condition     = alltrue([for k in ["calendars-events event", "calendars-events change", "calendars wanted"] : google_firestore_field.inbox[k].collection == split(" ", k)[0] && length(google_firestore_field.inbox[k].index_config[0].indexes) == 0])
    error_message = "Large fields, or those that only grow, are indexed."
  }
  assert {
    condition     = [for k, f in google_firestore_field.inbox : k if length(f.ttl_config) == 1 && startswith(k, "calendars")] == ["calendars-events expireAt"]
    error_message = "Deleted events are kept for ever, or something else is not."
  }
  assert {
    condition     = length(google_service_account_iam_member.calendar_delegation) == 0
    error_message = "The function may sign as an account though it acts for nobody."
  }
  assert {
    condition     = alltrue([for j in google_cloud_scheduler_job.calendar : j.http_target[0].oidc_token[0].service_account_email == "inbox-scheduler@demo-project.iam.gserviceaccount.com" && j.attempt_deadline == "600s"])
    error_message = "The jobs are not signed by an operator, or end before a sync may."
  }
}

run "delegation" {
  command = plan
  variables {
    calendar = { subject = "rooms@example.com", site_verification = "google0123456789abcdef.html" }
    testers  = ["user:you@example.com"]
  }

  assert {
    condition     = output.functions["calendar"].environment.CALENDAR_SUBJECT == "rooms@example.com" && output.functions["calendar"].environment.CALENDAR_SITE_VERIFICATION == "google0123456789abcdef.html"
    error_message = "The function does not know for whom it acts, or its verification file."
  }
  assert {
    condition     = [for m in google_service_account_iam_member.calendar_delegation : "${m.member} ${m.role} ${m.service_account_id}"] == ["serviceAccount:inbox-calendar@demo-project.iam.gserviceaccount.com roles/iam.serviceAccountTokenCreator projects/demo-project/serviceAccounts/inbox-calendar@demo-project.iam.gserviceaccount.com"]
    error_message = "The function may not sign for itself, or for others too."
  }
  assert {
    condition     = strcontains(output.functions["calendar"].environment.CALENDAR_OPERATORS, google_service_account.tester[0].email)
    error_message = "Testers cannot watch calendars."
  }
}
