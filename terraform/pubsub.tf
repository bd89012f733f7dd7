resource "google_pubsub_topic" "inbox" {
  project = var.project_id
  name    = var.topic
  # Lets a subscription be moved back in time.
  message_retention_duration = var.message_retention

  depends_on = [google_project_service.api]
}

resource "google_pubsub_subscription" "push" {
  project = var.project_id
  name    = var.subscription
  topic   = google_pubsub_topic.inbox.id

  ack_deadline_seconds       = var.ack_deadline_seconds
  message_retention_duration = var.message_retention
  enable_message_ordering    = var.enable_message_ordering
  filter                     = var.filter

  # Without this block a subscription without activity vanishes after 31 days.
  expiration_policy {
    ttl = ""
  }

  push_config {
    # The token is sensitive and stays so; see secrets.tf.
    push_endpoint = local.token_wanted ? "${local.push_audience}/?token=${var.verification_token}" : "${local.push_audience}/"

    oidc_token {
      service_account_email = google_service_account.push.email
      audience              = local.push_audience
    }

    dynamic "no_wrapper" {
      for_each = var.unwrapped ? [true] : []
      content {
        # The message ID is metadata, and what the inbox tells redeliveries by.
        write_metadata = true
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

resource "google_pubsub_topic" "dead_letter" {
  project                    = var.project_id
  name                       = "${var.topic}-dead-letter"
  message_retention_duration = local.longest_retention

  depends_on = [google_project_service.api]
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
