# For the function `calendar`: channels end and are not renewed by Google, and a
# small share of notifications is dropped. Off unless var.calendar is set.
resource "google_service_account" "scheduler" {
  count = var.calendar == null ? 0 : 1

  project      = var.project_id
  account_id   = "inbox-scheduler"
  display_name = "Push Inbox: calls calendar on a schedule"

  depends_on = [terraform_data.apis]
}

resource "google_cloud_scheduler_job" "calendar" {
  for_each = var.calendar == null ? {} : {
    renew = var.calendar.renew_schedule
    sync  = var.calendar.sync_schedule
  }

  project          = var.project_id
  region           = coalesce(var.calendar.scheduler_region, var.region)
  name             = "inbox-calendar-${each.key}"
  schedule         = each.value
  time_zone        = "Etc/UTC"
  attempt_deadline = "600s"

  retry_config {
    retry_count          = 3
    min_backoff_duration = "30s"
  }

  http_target {
    uri         = "${local.calendar_url}/${each.key}"
    http_method = "POST"

    oidc_token {
      service_account_email = google_service_account.scheduler[0].email
      audience              = local.calendar_url
    }
  }

  depends_on = [terraform_data.apis]
}
