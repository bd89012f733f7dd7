# What an operator's commands read, and what the console shows of the delivery.

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

variables {
  project_id = "demo-project"
  testers    = ["user:you@example.com"]
}

run "defaults" {
  assert {
    condition = jsonencode(output.delivery.subscriptions) == jsonencode({
      main = {
        name                    = "projects/demo-project/subscriptions/inbox-push"
        topic                   = "projects/demo-project/topics/inbox"
        endpoint                = "https://receive-123456789012.europe-west1.run.app/wrapped"
        audience                = "https://receive-123456789012.europe-west1.run.app"
        form                    = "wrapped"
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
}

# A subscription that an operator paused stays so.
run "paused" {
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

run "options" {
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
