locals {
  push_filter = "resource.type = \"pubsub_subscription\" AND resource.labels.subscription_id = \"${google_pubsub_subscription.push.name}\""
  run_filter  = "resource.type = \"cloud_run_revision\" AND resource.labels.service_name = \"receive\""

  metric = {
    oldest    = "${local.push_filter} AND metric.type = \"pubsub.googleapis.com/subscription/oldest_unacked_message_age\""
    backlog   = "${local.push_filter} AND metric.type = \"pubsub.googleapis.com/subscription/num_undelivered_messages\""
    dead      = "${local.push_filter} AND metric.type = \"pubsub.googleapis.com/subscription/dead_letter_message_count\""
    pushes    = "${local.push_filter} AND metric.type = \"pubsub.googleapis.com/subscription/push_request_count\""
    latencies = "${local.push_filter} AND metric.type = \"pubsub.googleapis.com/subscription/push_request_latencies\""
    requests  = "${local.run_filter} AND metric.type = \"run.googleapis.com/request_count\""
    instances = "${local.run_filter} AND metric.type = \"run.googleapis.com/container/instance_count\""
  }

  # Each is one condition: a value above a threshold. Where denominator is set
  # the value is filter's share of it.
  alerts = merge(local.calendar_alerts, {
    oldest = {
      name        = "a message waits for too long"
      filter      = local.metric.oldest
      denominator = null
      aligner     = "ALIGN_MAX"
      reducer     = "REDUCE_MAX"
      threshold   = 600
      duration    = "300s"
      severity    = "ERROR"
      what        = "The oldest message that was not acknowledged is more than ten minutes old. Pushes fail or cannot keep up: look at the push success ratio and at the log of the function receive, whose lines name the cause."
    }
    dead_letters = {
      name        = "dead letters arrive"
      filter      = local.metric.dead
      denominator = null
      aligner     = "ALIGN_DELTA"
      reducer     = "REDUCE_SUM"
      threshold   = 0
      duration    = "0s"
      severity    = "ERROR"
      what        = "A message failed ${var.max_delivery_attempts} times and went to the topic ${google_pubsub_topic.dead_letter.name}. Its subscription keeps it for 31 days: pull it there, mend the cause, publish it again."
    }
    push_failures = {
      name        = "pushes fail"
      filter      = "${local.metric.pushes} AND metric.labels.response_class != \"ack\""
      denominator = local.metric.pushes
      aligner     = "ALIGN_DELTA"
      reducer     = "REDUCE_SUM"
      threshold   = 0.01
      duration    = "600s"
      severity    = "WARNING"
      what        = "More than one push in a hundred was not acknowledged, for ten minutes. From there on Pub/Sub slows its pushes down."
    }
    refused = {
      name        = "requests are refused"
      filter      = "${local.metric.requests} AND metric.labels.response_code = one_of(\"401\", \"403\")"
      denominator = null
      aligner     = "ALIGN_DELTA"
      reducer     = "REDUCE_SUM"
      threshold   = 10
      duration    = "0s"
      severity    = "WARNING"
      what        = "The function receive refused more than ten requests in five minutes with 401 or 403. Either its audience or push account is not the subscription's (deploy it again after terraform apply), or somebody tries the door: its log has the reason for each."
    }
  })

  # Channels that are not renewed, and syncs that fail, are silent gaps.
  calendar_alerts = var.calendar == null ? {} : {
    calendar_failures = {
      name        = "the function calendar fails"
      filter      = "resource.type = \"cloud_run_revision\" AND resource.labels.service_name = \"calendar\" AND metric.type = \"run.googleapis.com/request_count\" AND metric.labels.response_code_class = \"5xx\""
      denominator = null
      aligner     = "ALIGN_DELTA"
      reducer     = "REDUCE_SUM"
      threshold   = 2
      duration    = "0s"
      severity    = "ERROR"
      what        = "The function calendar answered with 5xx more than twice in five minutes, as it does to Cloud Scheduler's tries when a calendar fails. Channels may not be renewed, or calendars not synced: `pushinbox calendar list` tells when each was synced last, and the function's log names the cause."
    }
    calendar_syncs = {
      name        = "a calendar's sync waits for too long"
      filter      = "resource.type = \"pubsub_subscription\" AND resource.labels.subscription_id = \"${google_pubsub_subscription.calendar_sync[0].name}\" AND metric.type = \"pubsub.googleapis.com/subscription/oldest_unacked_message_age\""
      denominator = null
      aligner     = "ALIGN_MAX"
      reducer     = "REDUCE_MAX"
      threshold   = 1800
      duration    = "300s"
      severity    = "ERROR"
      what        = "A notification of Google Calendar has asked for a sync that has not ended in half an hour. The log of the function calendar names the cause."
    }
  }
}

resource "google_monitoring_alert_policy" "inbox" {
  for_each = local.alerts

  project               = var.project_id
  display_name          = "Push Inbox: ${each.value.name}"
  combiner              = "OR"
  severity              = each.value.severity
  notification_channels = var.notification_channels

  conditions {
    display_name = each.value.name

    condition_threshold {
      filter             = each.value.filter
      denominator_filter = each.value.denominator
      comparison         = "COMPARISON_GT"
      threshold_value    = each.value.threshold
      duration           = each.value.duration

      aggregations {
        alignment_period     = "300s"
        per_series_aligner   = each.value.aligner
        cross_series_reducer = each.value.reducer
      }

      dynamic "denominator_aggregations" {
        for_each = each.value.denominator == null ? [] : [true]
        content {
          alignment_period     = "300s"
          per_series_aligner   = each.value.aligner
          cross_series_reducer = each.value.reducer
        }
      }
    }
  }

  documentation {
    content   = each.value.what
    mime_type = "text/markdown"
  }

  depends_on = [google_project_service.api]
}

locals {
  charts = [
    { title = "Pushes by answer", filter = local.metric.pushes, aligner = "ALIGN_RATE", reducer = "REDUCE_SUM", by = ["metric.label.response_class", "metric.label.response_code"], unit = "1/s" },
    { title = "Messages that wait", filter = local.metric.backlog, aligner = "ALIGN_MAX", reducer = "REDUCE_SUM", by = [], unit = "1" },
    { title = "Age of the oldest message that waits", filter = local.metric.oldest, aligner = "ALIGN_MAX", reducer = "REDUCE_MAX", by = [], unit = "s" },
    { title = "Push latency, 95th percentile", filter = local.metric.latencies, aligner = "ALIGN_PERCENTILE_95", reducer = "REDUCE_MAX", by = [], unit = "us" },
    { title = "Dead letters", filter = local.metric.dead, aligner = "ALIGN_DELTA", reducer = "REDUCE_SUM", by = [], unit = "1" },
    { title = "Requests to receive by status", filter = local.metric.requests, aligner = "ALIGN_RATE", reducer = "REDUCE_SUM", by = ["metric.label.response_code"], unit = "1/s" },
    { title = "Instances of receive", filter = local.metric.instances, aligner = "ALIGN_MAX", reducer = "REDUCE_SUM", by = ["metric.label.state"], unit = "1" },
  ]
}

resource "google_monitoring_dashboard" "inbox" {
  project = var.project_id
  dashboard_json = jsonencode({
    displayName = "Push Inbox"
    mosaicLayout = {
      columns = 48
      tiles = [
        for i, c in local.charts : {
          xPos   = i % 2 * 24
          yPos   = floor(i / 2) * 16
          width  = 24
          height = 16
          widget = {
            title = c.title
            xyChart = {
              dataSets = [{
                plotType = "LINE"
                timeSeriesQuery = {
                  timeSeriesFilter = {
                    filter = c.filter
                    aggregation = {
                      alignmentPeriod    = "60s"
                      perSeriesAligner   = c.aligner
                      crossSeriesReducer = c.reducer
                      groupByFields      = c.by
                    }
                  }
                  unitOverride = c.unit
                }
              }]
            }
          }
        }
      ]
    }
  })

  depends_on = [google_project_service.api]
}
