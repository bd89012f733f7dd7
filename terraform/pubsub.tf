resource "google_pubsub_topic" "inbox" {
  # With existing_topic the topic belongs to somebody else.
  count = var.existing_topic == null ? 1 : 0

  project = var.project_id
  name    = var.topic
  # Lets a subscription be moved back in time.
  message_retention_duration = var.message_retention

  depends_on = [terraform_data.apis]
}

locals {
  topic = var.existing_topic == null ? "projects/${var.project_id}/topics/${google_pubsub_topic.inbox[0].name}" : var.existing_topic

  # Every subscription that pushes into the inbox: to receive, or to a function of the
  # user's own. The first is in every project; the key of the others is their name, or
  # that of the function.
  subscriptions = merge(
    {
      main = {
        name         = var.subscription
        topic        = local.topic
        filter       = var.filter
        form         = var.unwrapped ? "unwrapped" : "wrapped"
        ordering     = var.enable_message_ordering
        ack_deadline = var.ack_deadline_seconds
        function     = "receive"
      }
    },
    {
      for name, s in var.more_subscriptions : name => {
        name         = name
        topic        = coalesce(s.topic, local.topic)
        filter       = s.filter
        form         = s.form
        ordering     = s.enable_message_ordering
        ack_deadline = coalesce(s.ack_deadline_seconds, var.ack_deadline_seconds)
        function     = "receive"
      }
    },
    local.own_subscriptions,
  )
  receive_subscriptions = { for key, s in local.subscriptions : key => s if s.function == "receive" }

  # Where each pushes to. The path says which form the pushes have, so that no
  # publisher's message can claim another. Without an audience of its own a
  # subscription uses the whole endpoint, the shared token included.
  push_audiences = { for key, s in local.subscriptions : key => format(local.url, s.function) }
  push_endpoints = { for key, s in local.subscriptions : key => "${local.push_audiences[key]}/${s.form}" }
}

resource "google_pubsub_subscription" "push" {
  for_each = local.subscriptions

  project = var.project_id
  name    = each.value.name
  topic   = each.value.topic

  ack_deadline_seconds       = each.value.ack_deadline
  message_retention_duration = var.message_retention
  enable_message_ordering    = each.value.ordering
  filter                     = each.value.filter

  # Without this block a subscription without activity vanishes after 31 days.
  expiration_policy {
    ttl = ""
  }

  dynamic "push_config" {
    for_each = contains(var.paused, each.key) ? [] : [true]
    content {
      # The token is sensitive and stays so; see secrets.tf.
      push_endpoint = local.token_wanted && each.value.function == "receive" ? "${local.push_endpoints[each.key]}?token=${var.verification_token}" : local.push_endpoints[each.key]

      oidc_token {
        service_account_email = google_service_account.push.email
        audience              = local.push_audiences[each.key]
      }

      dynamic "no_wrapper" {
        for_each = each.value.form == "wrapped" ? [] : [each.value.form]
        content {
          # The message ID is metadata, and what the inbox tells redeliveries by.
          write_metadata = no_wrapper.value == "unwrapped"
        }
      }
    }
  }

  retry_policy {
    minimum_backoff = "${var.retry_backoff_seconds.minimum}s"
    maximum_backoff = "${var.retry_backoff_seconds.maximum}s"
  }

  dead_letter_policy {
    dead_letter_topic     = google_pubsub_topic.dead_letter.id
    max_delivery_attempts = var.max_delivery_attempts
  }

  # Both are needed from the first push on.
  depends_on = [
    google_pubsub_topic_iam_member.dead_letter_publisher,
    google_service_account_iam_member.push_token_creator,
  ]
}

# Earlier versions had one subscription.
moved {
  from = google_pubsub_subscription.push
  to   = google_pubsub_subscription.push["main"]
}

resource "google_pubsub_topic" "dead_letter" {
  project                    = var.project_id
  name                       = "${var.topic}-dead-letter"
  message_retention_duration = local.longest_retention

  depends_on = [terraform_data.apis]
}

# A topic without a subscription loses what is published to it.
resource "google_pubsub_subscription" "dead_letter" {
  project                    = var.project_id
  name                       = "${var.topic}-dead-letter"
  topic                      = google_pubsub_topic.dead_letter.id
  ack_deadline_seconds       = 60
  message_retention_duration = local.longest_retention

  expiration_policy {
    ttl = ""
  }
}

locals {
  longest_retention = "2678400s" # 31 days, Pub/Sub's most
}
