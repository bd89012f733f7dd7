# The shared secrets, each of one function. `receive` may ask for one in addition
# to the signed token of a push, which proves more; this is for who must have
# both. `mns` should have one.
#
# The arguments are write-only, so that Terraform's state has no secret, with one
# exception that cannot be helped: the token of `receive` is part of the push
# endpoint, so it is in the subscription and in the state. A saved plan has both.
# Keep the state where only its owners can read it.
locals {
  token_wanted      = nonsensitive(var.verification_token != null)
  mns_secret_wanted = nonsensitive(var.mns != null && var.mns_secret != null)

  secrets = merge(
    local.token_wanted ? {
      receive = { id = "inbox-verification-token", version = var.verification_token_version }
    } : {},
    local.mns_secret_wanted ? {
      mns = { id = "inbox-mns-secret", version = var.mns_secret_version }
    } : {},
  )

  secret_values = {
    mns     = var.mns_secret
    receive = var.verification_token
  }

  # In the form that functions read: SECRET:VERSION.
  secret_versions = {
    for name, version in google_secret_manager_secret_version.shared :
    name => "${google_secret_manager_secret.shared[name].secret_id}:${version.version}"
  }
}

resource "google_secret_manager_secret" "shared" {
  for_each = local.secrets

  project   = var.project_id
  secret_id = each.value.id
  replication {
    auto {}
  }

  depends_on = [terraform_data.apis]
}

resource "google_secret_manager_secret_version" "shared" {
  for_each = local.secrets

  secret                 = google_secret_manager_secret.shared[each.key].id
  secret_data_wo         = local.secret_values[each.key]
  secret_data_wo_version = each.value.version

  # A running revision still reads the old one until it is replaced.
  deletion_policy = "ABANDON"

  lifecycle {
    create_before_destroy = true
  }
}

resource "google_secret_manager_secret_iam_member" "shared" {
  for_each = local.secrets

  project   = var.project_id
  secret_id = google_secret_manager_secret.shared[each.key].secret_id
  role      = "roles/secretmanager.secretAccessor"
  member    = google_service_account.function[each.key].member

  lifecycle {
    replace_triggered_by = [google_secret_manager_secret.shared[each.key].id]
  }
}

# Cloud Run's request log has whole addresses, and so the secrets that come in
# them. The functions' own line for each request has them masked.
resource "google_logging_project_exclusion" "secret_urls" {
  for_each = local.secrets

  project = var.project_id
  name    = "inbox-${each.key}-urls"
  # MNS's secret is a segment of the path, so that every line may have it.
  filter = join(" AND ", concat(
    [
      "resource.type=\"cloud_run_revision\"",
      "resource.labels.service_name=\"${each.key}\"",
      "log_id(\"run.googleapis.com/requests\")",
    ],
    each.key == "mns" ? [] : ["httpRequest.requestUrl:\"token=\""],
  ))

  depends_on = [terraform_data.apis]
}

# Earlier versions had each of these twice.
moved {
  from = google_secret_manager_secret.verification_token[0]
  to   = google_secret_manager_secret.shared["receive"]
}

moved {
  from = google_secret_manager_secret_version.verification_token[0]
  to   = google_secret_manager_secret_version.shared["receive"]
}

moved {
  from = google_secret_manager_secret_iam_member.verification_token[0]
  to   = google_secret_manager_secret_iam_member.shared["receive"]
}

moved {
  from = google_logging_project_exclusion.receive_urls[0]
  to   = google_logging_project_exclusion.secret_urls["receive"]
}

moved {
  from = google_secret_manager_secret.mns[0]
  to   = google_secret_manager_secret.shared["mns"]
}

moved {
  from = google_secret_manager_secret_version.mns[0]
  to   = google_secret_manager_secret_version.shared["mns"]
}

moved {
  from = google_secret_manager_secret_iam_member.mns[0]
  to   = google_secret_manager_secret_iam_member.shared["mns"]
}

moved {
  from = google_logging_project_exclusion.mns_urls[0]
  to   = google_logging_project_exclusion.secret_urls["mns"]
}
