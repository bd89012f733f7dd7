# Pushes are signed, arrive where they are verified, and none is lost.

mock_provider "google" {
  source = "./tests/mocks"
}

override_resource {
  target = google_service_account.push
  values = {
    email = "inbox-push@demo-project.iam.gserviceaccount.com"
    name  = "projects/demo-project/serviceAccounts/inbox-push@demo-project.iam.gserviceaccount.com"
  }
}

override_resource {
  target = google_pubsub_topic.dead_letter
  values = { id = "projects/demo-project/topics/inbox-dead-letter" }
}

override_resource {
  target = google_pubsub_topic.inbox
  values = { id = "projects/demo-project/topics/inbox" }
}

variables {
  project_id = "demo-project"
  testers    = ["user:you@example.com"]
}

run "defaults" {
  assert {
    condition     = google_pubsub_subscription.push.topic == "projects/demo-project/topics/inbox"
    error_message = "The push subscription is not one of the topic."
  }
  assert {
    condition     = google_pubsub_subscription.push.push_config[0].push_endpoint == "https://receive-123456789012.europe-west1.run.app/"
    error_message = "Pushes do not go to the deterministic address of receive."
  }
  assert {
    condition     = google_pubsub_subscription.push.push_config[0].oidc_token[0].audience == "https://receive-123456789012.europe-west1.run.app"
    error_message = "The audience is not explicit."
  }
  assert {
    condition     = google_pubsub_subscription.push.push_config[0].oidc_token[0].audience == output.functions["receive"].environment.PUSH_AUDIENCE
    error_message = "receive expects another audience than the pushes have."
  }
  assert {
    condition     = google_pubsub_subscription.push.push_config[0].oidc_token[0].service_account_email == "inbox-push@demo-project.iam.gserviceaccount.com"
    error_message = "Pushes are not signed by the push account."
  }
  assert {
    condition     = google_pubsub_subscription.push.push_config[0].oidc_token[0].service_account_email == output.functions["receive"].environment.PUSH_SERVICE_ACCOUNT
    error_message = "receive expects another account than the one that signs."
  }
  assert {
    condition     = try(google_pubsub_subscription.push.expiration_policy[0].ttl == "", false)
    error_message = "The push subscription can expire."
  }
  assert {
    condition     = try(google_pubsub_subscription.dead_letter.expiration_policy[0].ttl == "", false)
    error_message = "The dead-letter subscription can expire."
  }
  assert {
    condition     = google_pubsub_subscription.push.dead_letter_policy[0].dead_letter_topic == "projects/demo-project/topics/inbox-dead-letter"
    error_message = "Dead letters do not go to the dead-letter topic."
  }
  assert {
    condition     = google_pubsub_subscription.push.dead_letter_policy[0].max_delivery_attempts == 20
    error_message = "A message is not tried 20 times."
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
    condition     = google_pubsub_topic.inbox.message_retention_duration == "604800s" && google_pubsub_subscription.push.message_retention_duration == "604800s"
    error_message = "Messages are not kept for a week."
  }
  assert {
    condition     = google_pubsub_subscription.push.retry_policy[0].minimum_backoff == "10s" && google_pubsub_subscription.push.retry_policy[0].maximum_backoff == "600s"
    error_message = "Failed pushes are not spread out."
  }
  assert {
    condition     = google_pubsub_subscription.push.ack_deadline_seconds == output.functions["receive"].timeout_seconds
    error_message = "receive works on after Pub/Sub has given up, or gives up before."
  }
  assert {
    condition     = google_pubsub_subscription.push.enable_exactly_once_delivery != true
    error_message = "Exactly-once delivery is for pull subscriptions only."
  }
  assert {
    condition     = length(google_pubsub_subscription.push.push_config[0].no_wrapper) == 0 && google_pubsub_subscription.push.filter == null && google_pubsub_subscription.push.enable_message_ordering == false
    error_message = "Something that was not asked for is on."
  }
  assert {
    condition     = length(google_secret_manager_secret.verification_token) == 0 && length(output.functions["receive"].secrets) == 0
    error_message = "A verification token is made that was not asked for."
  }
}

run "options" {
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
    condition     = google_pubsub_subscription.push.enable_message_ordering && google_pubsub_subscription.push.filter == "attributes.kind = \"order\""
    error_message = "Ordering or filter are not on."
  }
  assert {
    condition     = google_pubsub_subscription.push.push_config[0].no_wrapper[0].write_metadata
    error_message = "Unwrapped pushes come without the message ID, by which redeliveries are told."
  }
  assert {
    condition     = google_pubsub_subscription.push.ack_deadline_seconds == 30 && output.functions["receive"].timeout_seconds == 30
    error_message = "The ack deadline is not what was asked for."
  }
  assert {
    condition     = google_pubsub_subscription.push.retry_policy[0].minimum_backoff == "1s" && google_pubsub_subscription.push.retry_policy[0].maximum_backoff == "60s"
    error_message = "The backoff is not what was asked for."
  }
  assert {
    condition     = google_pubsub_subscription.push.dead_letter_policy[0].max_delivery_attempts == 5 && google_pubsub_topic.inbox.message_retention_duration == "86400s"
    error_message = "Attempts or retention are not what was asked for."
  }
}

run "verification_token" {
  variables {
    verification_token = "0123456789abcdef0123456789abcdef"
  }

  assert {
    condition     = google_pubsub_subscription.push.push_config[0].push_endpoint == "https://receive-123456789012.europe-west1.run.app/?token=0123456789abcdef0123456789abcdef"
    error_message = "Pushes do not carry the token."
  }
  assert {
    condition     = !strcontains(google_pubsub_subscription.push.push_config[0].oidc_token[0].audience, "token")
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
    condition     = google_secret_manager_secret_version.verification_token[0].deletion_policy == "ABANDON"
    error_message = "A new token destroys the one that running revisions read."
  }
  assert {
    condition     = [for m in google_secret_manager_secret_iam_member.verification_token : m.role] == ["roles/secretmanager.secretAccessor"]
    error_message = "Not exactly one account may read the token."
  }
  assert {
    condition     = strcontains(google_logging_project_exclusion.receive_urls[0].filter, "service_name=\"receive\"") && strcontains(google_logging_project_exclusion.receive_urls[0].filter, "run.googleapis.com/requests")
    error_message = "Request logs keep the token."
  }
  assert {
    condition     = contains(keys(google_project_service.api), "secretmanager.googleapis.com")
    error_message = "Secret Manager is not enabled."
  }
}
