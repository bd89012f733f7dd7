# What the console shows of the delivery: the state of each subscription, numbers of
# Cloud Monitoring, and what receive refused. Its accounts may read that and change
# nothing. var.console_delivery switches all of it off; the console has the name of the
# dead-letter subscription all the same.
locals {
  # Full names. Those of the push subscriptions have the key of local.subscriptions.
  push_subscriptions       = { for key, s in local.subscriptions : key => "projects/${var.project_id}/subscriptions/${s.name}" }
  dead_letter_subscription = "projects/${var.project_id}/subscriptions/${var.topic}-dead-letter"

  # The function's own line of each request that it did not acknowledge. A line has
  # neither the payload nor the query.
  refusal_services = join(" OR ", [for name in concat(["receive"], keys(var.functions)) : "\"${name}\""])
  refusal_lines    = "resource.type=\"cloud_run_revision\" AND resource.labels.service_name=${length(var.functions) > 0 ? "(${local.refusal_services})" : local.refusal_services} AND jsonPayload.refusal:*"

  # Who may look at this view may look at every line of the bucket, and at no other log.
  log_bucket = one([for bucket in google_logging_project_bucket_config.receive : "projects/${var.project_id}/locations/${bucket.location}/buckets/${bucket.bucket_id}"])
  log_view   = local.log_bucket == null ? null : "${local.log_bucket}/views/_AllLogs"

  delivery_environment = var.console_delivery ? {
    DELIVERY_SUBSCRIPTIONS = join(",", values(local.push_subscriptions))
    DELIVERY_LOG_VIEW      = local.log_view
  } : {}

  # The functions that show it.
  delivery_readers = var.console_delivery ? [for name, f in local.functions : name if f.inbox == "read"] : []

  delivery_grants = merge([
    for name in local.delivery_readers : {
      # Monitoring knows no narrower resource than the project, and no condition.
      "${name}-numbers" = {
        role      = "roles/monitoring.viewer"
        member    = google_service_account.function[name].member
        condition = null
      }
      "${name}-refusals" = {
        role   = "roles/logging.viewAccessor"
        member = google_service_account.function[name].member
        condition = {
          title      = "inbox-receive-log"
          expression = "resource.name == \"${local.log_view}\""
        }
      }
    }
  ]...)
}

# A view of _Default could not be narrowed to one function: the filter of a view knows
# no labels. So the lines are kept a second time, in a bucket of their own, whose view
# _AllLogs Google makes.
resource "google_logging_project_bucket_config" "receive" {
  count = var.console_delivery ? 1 : 0

  project        = var.project_id
  location       = var.region
  bucket_id      = "inbox-receive"
  description    = "Push Inbox: what receive refused, for the console"
  retention_days = 30

  # A bucket that is deleted keeps its name for a week and cannot be changed, so that
  # the next apply would fail. Forgotten, it stays as it is and is taken over.
  deletion_policy = "ABANDON"

  depends_on = [terraform_data.apis]
}

# To a bucket of the same project it needs no grant.
resource "google_logging_project_sink" "receive" {
  count = var.console_delivery ? 1 : 0

  project     = var.project_id
  name        = "inbox-receive"
  description = "Push Inbox: what receive refused, for the console"
  destination = "logging.googleapis.com/${local.log_bucket}"
  filter      = local.refusal_lines
}

# The names and settings of the subscriptions: the endpoint, with its token, among them.
# An ID is not known ahead, so that who replaces a subscription grants this again.
resource "google_pubsub_subscription_iam_member" "console" {
  for_each = {
    for pair in setproduct(local.delivery_readers, keys(local.subscriptions)) :
    join(" ", pair) => { function = pair[0], subscription = pair[1] }
  }

  project      = var.project_id
  subscription = google_pubsub_subscription.push[each.value.subscription].id
  role         = "roles/pubsub.viewer"
  member       = google_service_account.function[each.value.function].member
}

resource "google_pubsub_subscription_iam_member" "console_dead_letter" {
  for_each = toset(local.delivery_readers)

  project      = var.project_id
  subscription = google_pubsub_subscription.dead_letter.id
  role         = "roles/pubsub.viewer"
  member       = google_service_account.function[each.key].member
}
