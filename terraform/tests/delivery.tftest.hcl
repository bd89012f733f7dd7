# What an operator's commands read, and what the console shows of the delivery.

mock_provider "google" {
  source          = "./tests/mocks"
  override_during = plan
}

override_resource {
  override_during = plan
  target          = google_service_account.push
  values = {
    email = "inbox-push@demo-project.iam.gserviceaccount.com"
    name  = "projects/demo-project/serviceAccounts/inbox-push@demo-project.iam.gserviceaccount.com"
  }
}

override_resource {
  override_during = plan
  target          = google_service_account.function["console"]
  values = {
    member = "serviceAccount:inbox-console@demo-project.iam.gserviceaccount.com"
    name   = "projects/demo-project/serviceAccounts/inbox-console@demo-project.iam.gserviceaccount.com"
  }
}

override_resource {
  override_during = plan
  target          = google_service_account.function["api"]
  values = {
    member = "serviceAccount:inbox-api@demo-project.iam.gserviceaccount.com"
    name   = "projects/demo-project/serviceAccounts/inbox-api@demo-project.iam.gserviceaccount.com"
  }
}

override_resource {
  override_during = plan
  target          = google_pubsub_subscription.push["main"]
  values          = { id = "projects/demo-project/subscriptions/inbox-push" }
}

override_resource {
  override_during = plan
  target          = google_pubsub_subscription.push["orders"]
  values          = { id = "projects/demo-project/subscriptions/orders" }
}

override_resource {
  override_during = plan
  target          = google_pubsub_subscription.dead_letter
  values          = { id = "projects/demo-project/subscriptions/inbox-dead-letter" }
}

override_resource {
  override_during = plan
  target          = google_project_iam_custom_role.operator["subscription"]
  values          = { name = "projects/demo-project/roles/pushInboxSubscriptionOperator" }
}

override_resource {
  override_during = plan
  target          = google_project_iam_custom_role.operator["record"]
  values          = { name = "projects/demo-project/roles/pushInboxRecordKeeper" }
}

override_resource {
  override_during = plan
  target          = google_project_iam_custom_role.operator["project"]
  values          = { name = "projects/demo-project/roles/pushInboxDeliveryOperator" }
}

variables {
  project_id = "demo-project"
  testers    = ["user:you@example.com"]
}

run "defaults" {
  command = plan
  assert {
    condition = jsonencode(output.delivery.subscriptions) == jsonencode({
      main = {
        name                    = "projects/demo-project/subscriptions/inbox-push"
        topic                   = "projects/demo-project/topics/inbox"
        function                = "receive"
        endpoint                = "https://receive-123456789012.europe-west1.run.app/wrapped"
        audience                = "https://receive-123456789012.europe-west1.run.app"
        form                    = "wrapped"
        function                = "receive"
        filter                  = null
        ordering                = false
        ack_deadline_seconds    = 60
        minimum_backoff_seconds = 10
        maximum_backoff_seconds = 600
        max_delivery_attempts   = 100
        paused                  = false
      }
    })
    error_message = "The output does not say how the subscription is meant to be."
  }
  assert {
    condition     = output.delivery.subscriptions.main.endpoint == google_pubsub_subscription.push["main"].push_config[0].push_endpoint && output.delivery.subscriptions.main.audience == google_pubsub_subscription.push["main"].push_config[0].oidc_token[0].audience
    error_message = "The output's endpoint or audience is not the subscription's."
  }
  assert {
    condition     = output.delivery.dead_letter_topic == "projects/demo-project/topics/inbox-dead-letter" && output.delivery.dead_letter_subscription == "projects/demo-project/subscriptions/inbox-dead-letter"
    error_message = "Dead letters cannot be found."
  }
  assert {
    condition     = "${output.delivery.project} ${output.delivery.project_number} ${output.delivery.region} ${output.delivery.pubsub_agent} ${output.delivery.push_account}" == "demo-project 123456789012 europe-west1 service-123456789012@gcp-sa-pubsub.iam.gserviceaccount.com inbox-push@demo-project.iam.gserviceaccount.com"
    error_message = "Who is involved is not in the output."
  }
  assert {
    condition     = output.delivery.token_secret == null && output.delivery.database == "projects/demo-project/databases/(default)" && output.delivery.collection == "messages" && output.delivery.shards == 16 && length(output.delivery.search_attributes) == 0
    error_message = "A secret is named that there is not, or the inbox is not."
  }
  assert {
    condition     = { for name, s in output.delivery.services : name => "${s.url} ${s.ingress} ${s.invoker_check_off}" } == { for name, f in output.functions : name => "${f.url} ${f.ingress} false" }
    error_message = "The services are not the functions."
  }
  assert {
    condition     = output.functions["console"].environment.DELIVERY_SUBSCRIPTIONS == "projects/demo-project/subscriptions/inbox-push" && output.functions["console"].environment.DEAD_LETTER_SUBSCRIPTION == "projects/demo-project/subscriptions/inbox-dead-letter" && output.functions["console"].environment.DELIVERY_LOG_VIEW == output.delivery.log_view
    error_message = "The console does not know what to show of the delivery."
  }
  assert {
    condition     = alltrue([for name in ["publish", "receive"] : !contains(keys(output.functions[name].environment), "DELIVERY_SUBSCRIPTIONS")])
    error_message = "A function knows of the delivery that does not show it."
  }
  assert {
    condition = { for k, m in merge(google_pubsub_subscription_iam_member.console, google_pubsub_subscription_iam_member.console_dead_letter) : k => "${m.member} ${m.role} ${m.subscription}" } == {
      "console"      = "serviceAccount:inbox-console@demo-project.iam.gserviceaccount.com roles/pubsub.viewer projects/demo-project/subscriptions/inbox-dead-letter"
      "console main" = "serviceAccount:inbox-console@demo-project.iam.gserviceaccount.com roles/pubsub.viewer projects/demo-project/subscriptions/inbox-push"
    }
    error_message = "The console cannot see the subscriptions, or may do more with them."
  }
  assert {
    condition     = output.delivery.log_view == "projects/demo-project/locations/europe-west1/buckets/inbox-receive/views/_AllLogs"
    error_message = "The view is not that of the bucket of receive's lines."
  }
  assert {
    condition     = [for g in google_project_iam_member.project : "${g.member} ${one(g.condition[*].expression)}" if g.role == "roles/logging.viewAccessor"] == ["serviceAccount:inbox-console@demo-project.iam.gserviceaccount.com resource.name == \"${output.delivery.log_view}\""]
    error_message = "The console may read other logs than what receive refused."
  }
  assert {
    condition     = alltrue([for part in ["resource.type=\"cloud_run_revision\"", "resource.labels.service_name=\"receive\"", "jsonPayload.refusal:*"] : contains(split(" AND ", google_logging_project_sink.receive[0].filter), part)]) && google_logging_project_sink.receive[0].destination == "logging.googleapis.com/projects/demo-project/locations/europe-west1/buckets/inbox-receive"
    error_message = "Other lines than what receive refused are kept for the console, or somewhere else."
  }
  assert {
    condition     = google_logging_project_bucket_config.receive[0].deletion_policy == "ABANDON"
    error_message = "The bucket is deleted, and its name cannot be used for a week."
  }
  assert {
    condition     = google_logging_metric.refusals.filter == google_logging_project_sink.receive[0].filter && google_logging_metric.refusals.label_extractors.reason == "EXTRACT(jsonPayload.refusal)" && toset(google_logging_metric.refusals.metric_descriptor[0].labels[*].key) == toset(keys(google_logging_metric.refusals.label_extractors))
    error_message = "Refusals are not counted by their reason."
  }
  assert {
    condition     = strcontains(google_monitoring_dashboard.inbox.dashboard_json, "logging.googleapis.com/user/push-inbox-refusals") && strcontains(google_monitoring_dashboard.inbox.dashboard_json, "metric.label.reason")
    error_message = "The dashboard does not show why receive refuses."
  }
}

run "console_delivery_off" {
  command = plan
  variables {
    console_delivery = false
  }

  assert {
    condition     = length(google_pubsub_subscription_iam_member.console) == 0 && length(google_pubsub_subscription_iam_member.console_dead_letter) == 0 && length([for g in google_project_iam_member.project : g if contains(["roles/monitoring.viewer", "roles/logging.viewAccessor"], g.role)]) == 0
    error_message = "The console keeps rights that it does not need."
  }
  assert {
    condition     = length(google_logging_project_bucket_config.receive) == 0 && length(google_logging_project_sink.receive) == 0 && output.delivery.log_view == null
    error_message = "Refusals are kept for nobody."
  }
  assert {
    condition     = length(setintersection(keys(output.functions["console"].environment), ["DELIVERY_SUBSCRIPTIONS", "DELIVERY_LOG_VIEW"])) == 0
    error_message = "The console shows what it may not read."
  }
  # Which messages came by it the console knows without any right.
  assert {
    condition     = output.functions["console"].environment.DEAD_LETTER_SUBSCRIPTION == "projects/demo-project/subscriptions/inbox-dead-letter"
    error_message = "The lists do not show which messages are dead letters."
  }
}

# Whoever reads with a token sees it, too.
run "console_iap" {
  command = plan
  variables {
    console_iap = ["user:you@example.com"]
  }

  assert {
    condition     = keys(merge(google_pubsub_subscription_iam_member.console, google_pubsub_subscription_iam_member.console_dead_letter)) == ["api", "api main", "console", "console main"] && output.functions["api"].environment.DELIVERY_SUBSCRIPTIONS == output.functions["console"].environment.DELIVERY_SUBSCRIPTIONS
    error_message = "Programs are not shown what people are."
  }
  assert {
    condition     = toset([for g in google_project_iam_member.project : g.member if g.role == "roles/monitoring.viewer"]) == toset(["serviceAccount:inbox-api@demo-project.iam.gserviceaccount.com", "serviceAccount:inbox-console@demo-project.iam.gserviceaccount.com"])
    error_message = "Others than the console see the numbers of the project, or it does not."
  }
}

# A subscription that an operator paused stays so.
run "paused" {
  command = plan
  variables {
    paused             = ["orders"]
    more_subscriptions = { orders = {} }
  }

  assert {
    condition     = length(google_pubsub_subscription.push["orders"].push_config) == 0 && length(google_pubsub_subscription.push["main"].push_config) == 1
    error_message = "An apply resumes the delivery unasked, or pauses another subscription."
  }
  assert {
    condition     = output.delivery.subscriptions.orders.paused && !output.delivery.subscriptions.main.paused && output.delivery.subscriptions.orders.endpoint == "https://receive-123456789012.europe-west1.run.app/wrapped"
    error_message = "Resuming would not know where to push."
  }
}

run "delivery_operators" {
  command = plan
  variables {
    delivery_operators = ["group:oncall@example.com"]
    deployers          = ["group:oncall@example.com"]
    verification_token = "0123456789abcdef0123456789abcdef"
    more_subscriptions = { orders = {} }
  }

  assert {
    condition = { for k, m in merge(google_pubsub_subscription_iam_member.operator, google_pubsub_subscription_iam_member.operator_dead_letter) : k => "${m.member} ${m.role} ${m.subscription}" } == {
      "group:oncall@example.com"        = "group:oncall@example.com projects/demo-project/roles/pushInboxSubscriptionOperator projects/demo-project/subscriptions/inbox-dead-letter"
      "group:oncall@example.com main"   = "group:oncall@example.com projects/demo-project/roles/pushInboxSubscriptionOperator projects/demo-project/subscriptions/inbox-push"
      "group:oncall@example.com orders" = "group:oncall@example.com projects/demo-project/roles/pushInboxSubscriptionOperator projects/demo-project/subscriptions/orders"
    }
    error_message = "Operators cannot change the subscriptions made here, or others too."
  }
  assert {
    condition     = google_project_iam_custom_role.operator["subscription"].permissions == toset(["pubsub.subscriptions.consume", "pubsub.subscriptions.get", "pubsub.subscriptions.update"])
    error_message = "Operators may do more with a subscription than read, change, pull and seek it."
  }
  assert {
    condition = { for g in google_project_iam_member.project : g.role => join("", g.condition[*].expression) if g.member == "group:oncall@example.com" } == {
      "projects/demo-project/roles/pushInboxDeliveryOperator" = ""
      "projects/demo-project/roles/pushInboxRecordKeeper"     = "resource.name == \"projects/demo-project/databases/(default)\""
    }
    error_message = "Operators have other rights on the project, or may use other databases than the inbox's."
  }
  assert {
    condition     = google_project_iam_custom_role.operator["project"].permissions == toset(["logging.logEntries.create", "monitoring.timeSeries.list", "pubsub.snapshots.create", "pubsub.snapshots.seek", "serviceusage.services.use"])
    error_message = "Operators may do more in the project than snapshots, audit lines and numbers."
  }
  assert {
    condition     = google_project_iam_custom_role.operator["record"].permissions == toset(["datastore.databases.get", "datastore.entities.create", "datastore.entities.delete", "datastore.entities.get", "datastore.entities.update"])
    error_message = "Operators cannot record what is under way, or may do more."
  }
  assert {
    condition     = google_service_account_iam_member.act_as["group:oncall@example.com push"].role == "roles/iam.serviceAccountUser" && google_service_account_iam_member.act_as["group:oncall@example.com push"].service_account_id == "projects/demo-project/serviceAccounts/inbox-push@demo-project.iam.gserviceaccount.com"
    error_message = "Operators could pause and not resume."
  }
  assert {
    condition     = google_secret_manager_secret_iam_member.operator["group:oncall@example.com"].role == "roles/secretmanager.secretAccessor"
    error_message = "Operators could not put the token back into the endpoint."
  }
}

# One who operates and does not deploy acts as the push account alone.
run "operators_alone" {
  command = plan
  variables {
    delivery_operators = ["user:oncall@example.com"]
  }

  assert {
    condition     = keys(google_service_account_iam_member.act_as) == ["user:oncall@example.com push"]
    error_message = "Operators may act as other accounts than the push account."
  }
  assert {
    condition     = length(google_secret_manager_secret_iam_member.operator) == 0
    error_message = "A right is granted on a secret that there is not."
  }
}

run "options" {
  command = plan
  variables {
    verification_token    = "0123456789abcdef0123456789abcdef"
    retry_backoff_seconds = { minimum = 1, maximum = 60 }
    more_subscriptions = {
      orders = { topic = "projects/other-project/topics/orders", filter = "attributes.kind = \"order\"", form = "bare" }
    }
  }

  assert {
    condition     = !strcontains(nonsensitive(jsonencode(output.delivery)), "0123456789abcdef") && !issensitive(output.delivery)
    error_message = "The token is in the output, or the output cannot be read."
  }
  assert {
    condition     = output.delivery.token_secret == "projects/demo-project/secrets/inbox-verification-token/versions/3"
    error_message = "The token cannot be found by who may read it."
  }
  assert {
    condition     = output.delivery.subscriptions.orders.topic == "projects/other-project/topics/orders" && endswith(output.delivery.subscriptions.orders.endpoint, "/bare") && output.delivery.subscriptions.orders.filter == "attributes.kind = \"order\"" && output.delivery.subscriptions.main.maximum_backoff_seconds == 60
    error_message = "A further subscription is not in the output."
  }
}
