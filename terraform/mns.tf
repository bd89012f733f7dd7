# For the function `mns`, all of it behind var.mns. The endpoint that a topic of
# Alibaba MNS is subscribed with is the function's address, with the secret as
# its last segment where there is one.
locals {
  mns_secret_wanted = nonsensitive(var.mns != null && var.mns_secret != null)

  mns_function = var.mns == null ? {} : {
    mns = {
      publishes = false
      inbox     = "write"
      # MNS does not wait longer than 5 seconds, and the function answers before
      # that; this leaves room for a start.
      timeout = 10
      environment = merge(local.inbox_environment, {
        MNS_TOPIC_OWNERS     = join(",", var.mns.topic_owners)
        MNS_TOPICS           = join(",", var.mns.topics)
        MNS_SUBSCRIPTIONS    = join(",", var.mns.subscriptions)
        MNS_CERTIFICATE_PINS = join(",", var.mns.certificate_pins)
        MNS_BODY             = var.mns.body
      })
      secrets = local.mns_secret_wanted ? {
        MNS_SECRET = "${google_secret_manager_secret.mns[0].secret_id}:${google_secret_manager_secret_version.mns[0].version}"
      } : {}
    }
  }
}

resource "google_secret_manager_secret" "mns" {
  count = local.mns_secret_wanted ? 1 : 0

  project   = var.project_id
  secret_id = "inbox-mns-secret"
  replication {
    auto {}
  }

  depends_on = [google_project_service.api]
}

resource "google_secret_manager_secret_version" "mns" {
  count = local.mns_secret_wanted ? 1 : 0

  secret      = google_secret_manager_secret.mns[0].id
  secret_data = var.mns_secret

  # A running revision still reads the old one until it is replaced.
  deletion_policy = "ABANDON"

  lifecycle {
    create_before_destroy = true
  }
}

resource "google_secret_manager_secret_iam_member" "mns" {
  count = local.mns_secret_wanted ? 1 : 0

  project   = var.project_id
  secret_id = google_secret_manager_secret.mns[0].secret_id
  role      = "roles/secretmanager.secretAccessor"
  member    = google_service_account.function["mns"].member
}

# Cloud Run's request log has whole addresses. The function's own line for each
# request has the secret masked.
resource "google_logging_project_exclusion" "mns_urls" {
  count = local.mns_secret_wanted ? 1 : 0

  project = var.project_id
  name    = "inbox-mns-urls"
  filter  = "resource.type=\"cloud_run_revision\" AND resource.labels.service_name=\"mns\" AND log_id(\"run.googleapis.com/requests\")"

  depends_on = [google_project_service.api]
}
