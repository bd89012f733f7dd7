# Pushes are signed, arrive where they are verified, and none is lost.

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
  target          = google_pubsub_topic.dead_letter
  values          = { id = "projects/demo-project/topics/inbox-dead-letter" }
}

override_resource {
  override_during = plan
  target          = google_pubsub_topic.inbox
  values          = { id = "projects/demo-project/topics/inbox" }
}

variables {
  project_id = "demo-project"
  testers    = ["user:you@example.com"]
}

run "defaults" {
  command = plan
  assert {
    condition     = google_pubsub_subscription.push["main"].topic == "projects/demo-project/topics/inbox"
    error_message = "The push subscription is not one of the topic."
  }
  assert {
    condition     = google_pubsub_subscription.push["main"].push_config[0].push_endpoint == "https://receive-123456789012.europe-west1.run.app/wrapped"
    error_message = "Pushes do not go to the deterministic address of receive."
  }
  assert {
    condition     = google_pubsub_subscription.push["main"].push_config[0].oidc_token[0].audience == "https://receive-123456789012.europe-west1.run.app"
    error_message = "The audience is not explicit."
  }
  assert {
    condition     = google_pubsub_subscription.push["main"].push_config[0].oidc_token[0].audience == output.functions["receive"].environment.PUSH_AUDIENCE
    error_message = "receive expects another audience than the pushes have."
  }
  assert {
    condition     = google_pubsub_subscription.push["main"].push_config[0].oidc_token[0].service_account_email == "inbox-push@demo-project.iam.gserviceaccount.com"
    error_message = "Pushes are not signed by the push account."
  }
  assert {
    condition     = google_pubsub_subscription.push["main"].push_config[0].oidc_token[0].service_account_email == output.functions["receive"].environment.PUSH_SERVICE_ACCOUNT
    error_message = "receive expects another account than the one that signs."
  }
  assert {
    condition     = try(google_pubsub_subscription.push["main"].expiration_policy[0].ttl == "", false)
    error_message = "The push subscription can expire."
  }
  assert {
    condition     = try(google_pubsub_subscription.dead_letter.expiration_policy[0].ttl == "", false)
    error_message = "The dead-letter subscription can expire."
  }
  assert {
    condition     = google_pubsub_subscription.push["main"].dead_letter_policy[0].dead_letter_topic == "projects/demo-project/topics/inbox-dead-letter"
    error_message = "Dead letters do not go to the dead-letter topic."
  }
  assert {
    condition     = google_pubsub_subscription.push["main"].dead_letter_policy[0].max_delivery_attempts == 100
    error_message = "A message does not outlive an outage of half a day."
  }
  assert {
    condition     = google_pubsub_subscription.dead_letter.topic == "projects/demo-project/topics/inbox-dead-letter"
    error_message = "The dead-letter topic has no subscription: what it gets would be lost."
  }
  assert {
    condition     = length(google_pubsub_subscription.dead_letter.push_config) == 0
    error_message = "Dead letters are pushed, not kept to be pulled."
  }
  assert {
    condition     = google_pubsub_subscription.dead_letter.message_retention_duration == "2678400s"
    error_message = "Dead letters are not kept as long as Pub/Sub can."
  }
  assert {
    condition     = google_pubsub_topic.inbox[0].message_retention_duration == "604800s" && google_pubsub_subscription.push["main"].message_retention_duration == "604800s"
    error_message = "Messages are not kept for a week."
  }
  assert {
    condition     = google_pubsub_subscription.push["main"].retry_policy[0].minimum_backoff == "10s" && google_pubsub_subscription.push["main"].retry_policy[0].maximum_backoff == "600s"
    error_message = "Failed pushes are not spread out."
  }
  assert {
    condition     = google_pubsub_subscription.push["main"].ack_deadline_seconds == output.functions["receive"].timeout_seconds
    error_message = "receive works on after Pub/Sub has given up, or gives up before."
  }
  assert {
    condition     = output.functions["receive"].environment.PUSH_ACK_DEADLINE == "60s"
    error_message = "receive does not know how long Pub/Sub waits."
  }
  assert {
    condition     = google_pubsub_subscription.push["main"].enable_exactly_once_delivery != true
    error_message = "Exactly-once delivery is for pull subscriptions only."
  }
  assert {
    condition     = length(google_pubsub_subscription.push["main"].push_config[0].no_wrapper) == 0 && google_pubsub_subscription.push["main"].filter == null && google_pubsub_subscription.push["main"].enable_message_ordering == false
    error_message = "Something that was not asked for is on."
  }
  assert {
    condition     = length(google_secret_manager_secret.shared) == 0 && length(output.functions["receive"].secrets) == 0
    error_message = "A verification token is made that was not asked for."
  }
}

run "options" {
  command = plan
  variables {
    ack_deadline_seconds    = 30
    enable_message_ordering = true
    filter                  = "attributes.kind = \"order\""
    message_retention       = "86400s"
    max_delivery_attempts   = 5
    retry_backoff_seconds   = { minimum = 1, maximum = 60 }
    unwrapped               = true
  }

  assert {
    condition     = google_pubsub_subscription.push["main"].enable_message_ordering && google_pubsub_subscription.push["main"].filter == "attributes.kind = \"order\""
    error_message = "Ordering or filter are not on."
  }
  assert {
    condition     = google_pubsub_subscription.push["main"].push_config[0].no_wrapper[0].write_metadata && endswith(google_pubsub_subscription.push["main"].push_config[0].push_endpoint, ".run.app/unwrapped")
    error_message = "Unwrapped pushes come without the message ID, by which redeliveries are told."
  }
  assert {
    condition     = google_pubsub_subscription.push["main"].ack_deadline_seconds == 30 && output.functions["receive"].timeout_seconds == 30
    error_message = "The ack deadline is not what was asked for."
  }
  assert {
    condition     = google_pubsub_subscription.push["main"].retry_policy[0].minimum_backoff == "1s" && google_pubsub_subscription.push["main"].retry_policy[0].maximum_backoff == "60s"
    error_message = "The backoff is not what was asked for."
  }
  assert {
    condition     = google_pubsub_subscription.push["main"].dead_letter_policy[0].max_delivery_attempts == 5 && google_pubsub_topic.inbox[0].message_retention_duration == "86400s"
    error_message = "Attempts or retention are not what was asked for."
  }
}

run "verification_token" {
  command = plan
  variables {
    verification_token = "0123456789abcdef0123456789abcdef"
  }

  assert {
    condition     = google_pubsub_subscription.push["main"].push_config[0].push_endpoint == "https://receive-123456789012.europe-west1.run.app/wrapped?token=0123456789abcdef0123456789abcdef"
    error_message = "Pushes do not carry the token."
  }
  assert {
    condition     = !strcontains(google_pubsub_subscription.push["main"].push_config[0].oidc_token[0].audience, "token")
    error_message = "The token is in the audience, and so in every signed token and its stored claims."
  }
  assert {
    condition     = output.functions["receive"].secrets.PUBSUB_VERIFICATION_TOKEN == "inbox-verification-token:3"
    error_message = "receive does not get the token from Secret Manager, by a version that is pinned."
  }
  assert {
    condition     = !strcontains(nonsensitive(jsonencode(output.functions)), "0123456789abcdef")
    error_message = "The token is in the outputs."
  }
  assert {
    condition     = google_secret_manager_secret_version.shared["receive"].deletion_policy == "ABANDON" && tostring(google_secret_manager_secret_version.shared["receive"].secret_data_wo_version) == "1"
    error_message = "A new token destroys the one that running revisions read."
  }
  assert {
    condition     = [for m in google_secret_manager_secret_iam_member.shared : m.role] == ["roles/secretmanager.secretAccessor"]
    error_message = "Not exactly one account may read the token."
  }
  assert {
    condition     = strcontains(google_logging_project_exclusion.secret_urls["receive"].filter, "service_name=\"receive\"") && strcontains(google_logging_project_exclusion.secret_urls["receive"].filter, "run.googleapis.com/requests") && strcontains(google_logging_project_exclusion.secret_urls["receive"].filter, "requestUrl:\"token=\"")
    error_message = "Request logs keep the token."
  }
  assert {
    condition     = contains(keys(google_project_service.api), "secretmanager.googleapis.com")
    error_message = "Secret Manager is not enabled."
  }
}

run "more_subscriptions" {
  command = plan
  variables {
    ack_deadline_seconds = 120
    more_subscriptions = {
      orders  = { topic = "projects/other-project/topics/orders", filter = "attributes.kind = \"order\"", form = "unwrapped" }
      returns = { form = "bare", ack_deadline_seconds = 30, enable_message_ordering = true }
    }
  }

  assert {
    condition = { for k, s in google_pubsub_subscription.push : s.name => "${s.topic} ${s.push_config[0].push_endpoint} ${s.ack_deadline_seconds} ${s.enable_message_ordering}" } == {
      inbox-push = "projects/demo-project/topics/inbox https://receive-123456789012.europe-west1.run.app/wrapped 120 false"
      orders     = "projects/other-project/topics/orders https://receive-123456789012.europe-west1.run.app/unwrapped 120 false"
      returns    = "projects/demo-project/topics/inbox https://receive-123456789012.europe-west1.run.app/bare 30 true"
    }
    error_message = "A further subscription is not what was asked for."
  }
  assert {
    condition     = google_pubsub_subscription.push["orders"].push_config[0].no_wrapper[0].write_metadata && !google_pubsub_subscription.push["returns"].push_config[0].no_wrapper[0].write_metadata && google_pubsub_subscription.push["orders"].filter == "attributes.kind = \"order\""
    error_message = "A push does not have the form that its path promises, or the filter is missing."
  }
  assert {
    condition     = toset([for m in google_pubsub_subscription_iam_member.dead_letter_subscriber : "${m.subscription} ${m.role}"]) == toset(["inbox-push roles/pubsub.subscriber", "orders roles/pubsub.subscriber", "returns roles/pubsub.subscriber"])
    error_message = "Dead letters of a further subscription go nowhere."
  }
  assert {
    condition     = output.functions["receive"].environment.PUSH_ACK_DEADLINE == "30s" && output.functions["receive"].timeout_seconds == 120
    error_message = "receive stores for longer than the most impatient subscription waits, or is cut off while another still waits."
  }
  assert {
    condition     = strcontains(google_monitoring_alert_policy.inbox["oldest"].conditions[0].condition_threshold[0].filter, "one_of(\"inbox-push\", \"orders\", \"returns\")")
    error_message = "A further subscription raises no alert."
  }
}

run "existing_topic" {
  command = plan
  variables {
    existing_topic = "projects/other-project/topics/events"
  }

  assert {
    condition     = length(google_pubsub_topic.inbox) == 0 && google_pubsub_subscription.push["main"].topic == "projects/other-project/topics/events"
    error_message = "The subscription is not one of the other team's topic."
  }
  assert {
    condition     = length(google_pubsub_topic_iam_member.function_publisher) == 0 && output.functions["publish"].environment.PUBSUB_TOPIC == "projects/other-project/topics/events"
    error_message = "Grants are made on somebody else's topic, or publish does not know its full name."
  }
  assert {
    condition     = google_pubsub_subscription.push["main"].dead_letter_policy[0].dead_letter_topic == "projects/demo-project/topics/inbox-dead-letter" && google_pubsub_topic_iam_member.dead_letter_publisher.member == "serviceAccount:service-123456789012@gcp-sa-pubsub.iam.gserviceaccount.com" && google_pubsub_subscription_iam_member.dead_letter_subscriber["main"].member == "serviceAccount:service-123456789012@gcp-sa-pubsub.iam.gserviceaccount.com"
    error_message = "Dead letters leave this project, or belong to another project's agent."
  }
}
