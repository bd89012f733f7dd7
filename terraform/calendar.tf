# For the function `calendar`, all of it behind var.calendar. A notification is
# answered at once, and the sync it asks for is pushed to the function as a
# message: what a function does after its answer gets no CPU.
locals {
  calendar_url = format(local.url, "calendar")

  calendar_function = var.calendar == null ? {} : {
    calendar = {
      publishes = false # not to the inbox's topic
      inbox     = "sync"
      # The first sync of a large calendar takes a while; see the subscription.
      timeout = 600
      environment = merge(local.inbox_environment, {
        CALENDAR_ADDRESS  = "${local.calendar_url}/notifications"
        CALENDAR_AUDIENCE = local.calendar_url
        CALENDAR_OPERATORS = join(",", concat(
          [google_service_account.scheduler[0].email, google_service_account.push.email],
          var.calendar.operators, local.tester_emails,
        ))
        CALENDAR_SUBJECT           = var.calendar.subject
        CALENDAR_SITE_VERIFICATION = var.calendar.site_verification
        CALENDAR_SYNC_TOPIC        = google_pubsub_topic.calendar_sync[0].name
      })
      secrets = {}
    }
  }
}

resource "google_pubsub_topic" "calendar_sync" {
  count = var.calendar == null ? 0 : 1

  project = var.project_id
  name    = "inbox-calendar-sync"

  depends_on = [terraform_data.apis]
}

resource "google_pubsub_subscription" "calendar_sync" {
  count = var.calendar == null ? 0 : 1

  project = var.project_id
  name    = "inbox-calendar-sync"
  topic   = google_pubsub_topic.calendar_sync[0].id

  # Pub/Sub's most. Who finds the calendar's sync under way is answered 429, and
  # comes again.
  ack_deadline_seconds = 600
  # The periodic sync does what is still undone after that, so that there are no
  # dead letters.
  message_retention_duration = "3600s"

  expiration_policy {
    ttl = ""
  }

  push_config {
    push_endpoint = "${local.calendar_url}/sync"

    oidc_token {
      service_account_email = google_service_account.push.email
      audience              = local.calendar_url
    }
  }

  retry_policy {
    minimum_backoff = "5s"
    maximum_backoff = "120s"
  }

  depends_on = [google_service_account_iam_member.push_token_creator]
}

resource "google_pubsub_topic_iam_member" "calendar_sync" {
  count = var.calendar == null ? 0 : 1

  project = var.project_id
  topic   = google_pubsub_topic.calendar_sync[0].name
  role    = "roles/pubsub.publisher"
  member  = google_service_account.function["calendar"].member

  lifecycle {
    replace_triggered_by = [google_pubsub_topic.calendar_sync[0].id]
  }
}

# What the state of a sync takes besides putting messages: transactions, lists,
# and to forget. Firestore knows no narrower resource than a database.
resource "google_project_iam_custom_role" "calendar_sync" {
  count = var.calendar == null ? 0 : 1

  project = var.project_id
  role_id = "pushInboxCalendar"
  title   = "Push Inbox: sync calendars"
  permissions = [
    "datastore.databases.get",
    "datastore.entities.create",
    "datastore.entities.delete",
    "datastore.entities.get",
    "datastore.entities.list",
    "datastore.entities.update",
  ]

  depends_on = [terraform_data.apis]
}

# To act for a user by domain-wide delegation the account signs for itself, so
# that there is no key.
resource "google_service_account_iam_member" "calendar_delegation" {
  count = try(var.calendar.subject, "") == "" ? 0 : 1

  service_account_id = google_service_account.function["calendar"].name
  role               = "roles/iam.serviceAccountTokenCreator"
  member             = google_service_account.function["calendar"].member

  lifecycle {
    replace_triggered_by = [google_service_account.function["calendar"].id]
  }
}
