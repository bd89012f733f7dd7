locals {
  push_filter = "resource.type = \"pubsub_subscription\" AND resource.labels.subscription_id = one_of(${join(", ", [for s in google_pubsub_subscription.push : "\"${s.name}\""])})"
  run_filter  = "resource.type = \"cloud_run_revision\" AND resource.labels.service_name = \"receive\""

  metric = {
    oldest    = "${local.push_filter} AND metric.type = \"pubsub.googleapis.com/subscription/oldest_unacked_message_age\""
    backlog   = "${local.push_filter} AND metric.type = \"pubsub.googleapis.com/subscription/num_undelivered_messages\""
    dead      = "${local.push_filter} AND metric.type = \"pubsub.googleapis.com/subscription/dead_letter_message_count\""
    pushes    = "${local.push_filter} AND metric.type = \"pubsub.googleapis.com/subscription/push_request_count\""
    latencies = "${local.push_filter} AND metric.type = \"pubsub.googleapis.com/subscription/push_request_latencies\""
    requests  = "${local.run_filter} AND metric.type = \"run.googleapis.com/request_count\""
    instances = "${local.run_filter} AND metric.type = \"run.googleapis.com/container/instance_count\""
    refusals  = "${local.run_filter} AND metric.type = \"logging.googleapis.com/user/${google_logging_metric.refusals.name}\""
  }

  # Each is one condition: a value above a threshold. Where denominator is set
  # the value is filter's share of it. docs/alerts has a page for each, with the
  # key's name.
  alerts = merge(local.calendar_alerts, local.failure_alerts, {
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
      what        = "A message failed ${var.max_delivery_attempts} times and went to the topic ${google_pubsub_topic.dead_letter.name}. Its subscription ${google_pubsub_subscription.dead_letter.name} keeps it for 31 days."
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

  # Functions that people and programs call. A failing `receive` shows in
  # push_failures. MNS drops a message after three retries within a minute, so one
  # failure is worth a look. `publish` answers 404 where its topic was deleted, as
  # Google does.
  failure_alerts = {
    for name, f in {
      publish = { services = ["publish"], threshold = 5, not_found = true }
      console = { services = [for name in ["api", "console"] : name if contains(keys(local.functions), name)], threshold = 5, not_found = false }
      mns     = { services = ["mns"], threshold = 0, not_found = false }
    } :
    "${name}_failures" => {
      name        = "the function ${name} fails"
      filter      = "resource.type = \"cloud_run_revision\" AND resource.labels.service_name = one_of(${join(", ", [for s in f.services : "\"${s}\""])}) AND metric.type = \"run.googleapis.com/request_count\" AND ${f.not_found ? "metric.labels.response_code = monitoring.regex.full_match(\"404|5[0-9][0-9]\")" : "metric.labels.response_code_class = \"5xx\""}"
      denominator = null
      aligner     = "ALIGN_DELTA"
      reducer     = "REDUCE_SUM"
      threshold   = f.threshold
      duration    = "0s"
      severity    = "ERROR"
      what        = "${join(" and ", f.services)} answered with ${f.not_found ? "404 or 5xx" : "5xx"} more than ${f.threshold} times in five minutes. The function's log names the cause of each."
    } if contains(keys(local.functions), name)
  }

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
    content   = "${each.value.what} ${local.alert_page[each.key]}"
    mime_type = "text/markdown"
  }

  depends_on = [terraform_data.apis]
}

# Cloud Run counts no instance that it ends for its memory; it says so in its log.
resource "google_monitoring_alert_policy" "memory" {
  project               = var.project_id
  display_name          = "Push Inbox: an instance ran out of memory"
  combiner              = "OR"
  severity              = "ERROR"
  notification_channels = var.notification_channels

  conditions {
    display_name = "an instance ran out of memory"

    condition_matched_log {
      filter = "resource.type=\"cloud_run_revision\" AND resource.labels.service_name=(${join(" OR ", [for name in sort(keys(local.functions)) : "\"${name}\""])}) AND severity>=ERROR AND (textPayload:\"Memory limit of\" OR textPayload:\"using too much memory\")"
    }
  }

  alert_strategy {
    auto_close = "1800s"

    notification_rate_limit {
      period = "3600s"
    }
  }

  documentation {
    content   = "Cloud Run ended an instance because it used more memory than it has; all requests in it failed, and what Pub/Sub pushed is pushed again. ${local.alert_page["memory"]}"
    mime_type = "text/markdown"
  }

  depends_on = [terraform_data.apis]
}

locals {
  alert_page = {
    for key in concat(keys(local.alerts), ["memory"]) :
    key => "What to look at and what to do: ${trimsuffix(var.alert_docs_url, "/")}/${replace(key, "_", "-")}.md"
  }

  charts = [
    { title = "Pushes by answer", filter = local.metric.pushes, aligner = "ALIGN_RATE", reducer = "REDUCE_SUM", by = ["metric.label.response_class", "metric.label.response_code"], unit = "1/s" },
    { title = "Messages that wait", filter = local.metric.backlog, aligner = "ALIGN_MAX", reducer = "REDUCE_SUM", by = [], unit = "1" },
    { title = "Age of the oldest message that waits", filter = local.metric.oldest, aligner = "ALIGN_MAX", reducer = "REDUCE_MAX", by = [], unit = "s" },
    { title = "Push latency, 95th percentile", filter = local.metric.latencies, aligner = "ALIGN_PERCENTILE_95", reducer = "REDUCE_MAX", by = [], unit = "us" },
    { title = "Dead letters", filter = local.metric.dead, aligner = "ALIGN_DELTA", reducer = "REDUCE_SUM", by = [], unit = "1" },
    { title = "Requests to receive by status", filter = local.metric.requests, aligner = "ALIGN_RATE", reducer = "REDUCE_SUM", by = ["metric.label.response_code"], unit = "1/s" },
    { title = "Refusals of receive by reason", filter = local.metric.refusals, aligner = "ALIGN_DELTA", reducer = "REDUCE_SUM", by = ["metric.label.reason"], unit = "1" },
    { title = "Instances of receive", filter = local.metric.instances, aligner = "ALIGN_MAX", reducer = "REDUCE_SUM", by = ["metric.label.state"], unit = "1" },
  ]
}

# How often receive did not acknowledge a request, by the short name of the reason.
resource "google_logging_metric" "refusals" {
  project     = var.project_id
  name        = "push-inbox-refusals"
  description = "Requests that the function receive did not acknowledge"
  filter      = local.refusal_lines

  label_extractors = {
    reason = "EXTRACT(jsonPayload.refusal)"
    status = "EXTRACT(httpRequest.status)"
  }

  metric_descriptor {
    display_name = "Push Inbox: refusals of receive"
    metric_kind  = "DELTA"
    value_type   = "INT64"
    unit         = "1"

    labels {
      key         = "reason"
      value_type  = "STRING"
      description = "The short name of the reason, such as audience"
    }
    labels {
      key         = "status"
      value_type  = "INT64"
      description = "The HTTP status of the answer"
    }
  }

  depends_on = [terraform_data.apis]
}

resource "google_monitoring_dashboard" "inbox" {
  project = var.project_id
  dashboard_json = jsonencode({
    displayName = "Push Inbox"
    mosaicLayout = {
      columns = 48
      tiles = [
        # The API leaves out zeros and empty lists, which would then differ in
        # each plan.
        for i, c in local.charts : merge({ for k, v in { xPos = i % 2 * 24, yPos = floor(i / 2) * 16 } : k => v if v != 0 }, {
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
                    aggregation = merge({ for k, v in { groupByFields = c.by } : k => v if length(v) > 0 }, {
                      alignmentPeriod    = "60s"
                      perSeriesAligner   = c.aligner
                      crossSeriesReducer = c.reducer
                    })
                  }
                  unitOverride = c.unit
                }
              }]
            }
          }
        })
      ]
    }
  })

  depends_on = [terraform_data.apis]
}
