# The shared token that the push endpoint may ask for in addition. The signed
# token of each push proves more; this is for who must have both.
#
# It is part of the push endpoint, so it is in the subscription, in Terraform's
# state, and in every URL that is logged. The request log of `receive`, which
# Cloud Run writes, is therefore not kept; the function's own line for each
# request has no URL in it. Keep the state where only its owners can read it.
locals {
  token_wanted = nonsensitive(var.verification_token != null)
}

resource "google_secret_manager_secret" "verification_token" {
  count = local.token_wanted ? 1 : 0

  project   = var.project_id
  secret_id = "inbox-verification-token"
  replication {
    auto {}
  }

  depends_on = [google_project_service.api]
}

resource "google_secret_manager_secret_version" "verification_token" {
  count = local.token_wanted ? 1 : 0

  secret      = google_secret_manager_secret.verification_token[0].id
  secret_data = var.verification_token

  # A running revision still reads the old one until it is replaced.
  deletion_policy = "ABANDON"

  lifecycle {
    create_before_destroy = true
  }
}

resource "google_secret_manager_secret_iam_member" "verification_token" {
  count = local.token_wanted ? 1 : 0

  project   = var.project_id
  secret_id = google_secret_manager_secret.verification_token[0].secret_id
  role      = "roles/secretmanager.secretAccessor"
  member    = google_service_account.function["receive"].member
}

resource "google_logging_project_exclusion" "receive_urls" {
  count = local.token_wanted ? 1 : 0

  project = var.project_id
  name    = "inbox-receive-urls"
  filter  = "resource.type=\"cloud_run_revision\" AND resource.labels.service_name=\"receive\" AND log_id(\"run.googleapis.com/requests\")"

  depends_on = [google_project_service.api]
}
