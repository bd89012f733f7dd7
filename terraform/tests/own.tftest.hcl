# Functions of a user's own: each has an account, a subscription and an audience, and
# may do no more than process messages.

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
  target          = google_service_account.function["orders"]
  values = {
    email  = "inbox-orders@demo-project.iam.gserviceaccount.com"
    member = "serviceAccount:inbox-orders@demo-project.iam.gserviceaccount.com"
    name   = "projects/demo-project/serviceAccounts/inbox-orders@demo-project.iam.gserviceaccount.com"
  }
}

override_resource {
  override_during = plan
  target          = google_service_account.function["returns"]
  values = {
    email  = "inbox-returns@demo-project.iam.gserviceaccount.com"
    member = "serviceAccount:inbox-returns@demo-project.iam.gserviceaccount.com"
    name   = "projects/demo-project/serviceAccounts/inbox-returns@demo-project.iam.gserviceaccount.com"
  }
}

override_resource {
  override_during = plan
  target          = google_project_iam_custom_role.process
  values          = { name = "projects/demo-project/roles/pushInboxProcessor" }
}

override_resource {
  override_during = plan
  target          = google_pubsub_topic.inbox
  values          = { id = "projects/demo-project/topics/inbox" }
}

override_resource {
  override_during = plan
  target          = google_pubsub_topic.dead_letter
  values          = { id = "projects/demo-project/topics/inbox-dead-letter" }
}

variables {
  project_id         = "demo-project"
  testers            = ["user:you@example.com"]
  verification_token = "0123456789abcdef0123456789abcdef"
  functions = {
    orders = {
      filter                  = "attributes.kind = \"order\""
      enable_message_ordering = true
      ack_deadline_seconds    = 120
      environment             = { CURRENCY = "EUR" }
      secrets                 = { PAYMENT_KEY = { secret = "payment-key", version = "7" } }
      size                    = { memory = "1Gi", max_instances = 5 }
    }
    returns = {
      topic = "projects/their-project/topics/returns"
      form  = "unwrapped"
    }
  }
}

run "none" {
  command = plan
  variables {
    functions = {}
  }

  assert {
    condition     = toset(keys(output.functions)) == toset(["publish", "receive", "console"]) && length(google_project_iam_custom_role.process) == 0 && keys(google_pubsub_subscription.push) == ["main"]
    error_message = "Something is made for functions that were not asked for."
  }
  assert {
    condition     = alltrue([for f in output.functions : !f.external])
    error_message = "A function of this module counts as a user's."
  }
}

run "own" {
  command = plan
  assert {
    condition = jsonencode({
      for key in ["main", "orders", "returns"] : key => {
        name     = google_pubsub_subscription.push[key].name
        topic    = google_pubsub_subscription.push[key].topic
        endpoint = nonsensitive(google_pubsub_subscription.push[key].push_config[0].push_endpoint)
        audience = google_pubsub_subscription.push[key].push_config[0].oidc_token[0].audience
        filter   = google_pubsub_subscription.push[key].filter
        ordering = google_pubsub_subscription.push[key].enable_message_ordering
        deadline = google_pubsub_subscription.push[key].ack_deadline_seconds
        bare     = length(google_pubsub_subscription.push[key].push_config[0].no_wrapper)
      }
      }) == jsonencode({
      main = {
        name     = "inbox-push"
        topic    = "projects/demo-project/topics/inbox"
        endpoint = "https://receive-123456789012.europe-west1.run.app/wrapped?token=0123456789abcdef0123456789abcdef"
        audience = "https://receive-123456789012.europe-west1.run.app"
        filter   = null
        ordering = false
        deadline = 60
        bare     = 0
      }
      orders = {
        name     = "inbox-orders"
        topic    = "projects/demo-project/topics/inbox"
        endpoint = "https://orders-123456789012.europe-west1.run.app/wrapped"
        audience = "https://orders-123456789012.europe-west1.run.app"
        filter   = "attributes.kind = \"order\""
        ordering = true
        deadline = 120
        bare     = 0
      }
      returns = {
        name     = "inbox-returns"
        topic    = "projects/their-project/topics/returns"
        endpoint = "https://returns-123456789012.europe-west1.run.app/unwrapped"
        audience = "https://returns-123456789012.europe-west1.run.app"
        filter   = null
        ordering = false
        deadline = 60
        bare     = 1
      }
    })
    error_message = "A subscription is not what was asked for, or the token of receive goes to another function."
  }
  assert {
    condition     = alltrue([for key in ["orders", "returns"] : google_pubsub_subscription.push[key].dead_letter_policy[0].dead_letter_topic == "projects/demo-project/topics/inbox-dead-letter" && google_pubsub_subscription.push[key].push_config[0].oidc_token[0].service_account_email == "inbox-push@demo-project.iam.gserviceaccount.com" && google_pubsub_subscription_iam_member.dead_letter_subscriber[key].role == "roles/pubsub.subscriber"])
    error_message = "Dead letters of a function go nowhere, or its pushes are signed by another account."
  }
  assert {
    condition = output.functions["orders"].environment == {
      CURRENCY             = "EUR"
      FIRESTORE_DATABASE   = "(default)"
      GOMEMLIMIT           = "896MiB"
      GOOGLE_CLOUD_PROJECT = "demo-project"
      INBOX_COLLECTION     = "messages"
      INBOX_SHARDS         = "16"
      INBOX_TTL            = "720h"
      PUSH_ACK_DEADLINE    = "120s"
      PUSH_AUDIENCE        = "https://orders-123456789012.europe-west1.run.app"
      PUSH_SERVICE_ACCOUNT = "inbox-push@demo-project.iam.gserviceaccount.com"
    }
    error_message = "The environment is not receive's, with the function's own values."
  }
  assert {
    condition     = output.functions["orders"].secrets == { PAYMENT_KEY = "payment-key:7" } && output.functions["orders"].memory == "1Gi" && output.functions["orders"].max_instances == 5 && output.functions["orders"].concurrency == 80 && output.functions["orders"].timeout_seconds == 120 && output.functions["orders"].service_account == "inbox-orders@demo-project.iam.gserviceaccount.com" && output.functions["orders"].external && output.functions["orders"].source == "orders" && output.functions["orders"].ingress == "internal-only"
    error_message = "scripts/deploy is told something else than was asked for."
  }
  assert {
    condition     = output.functions["receive"].environment.PUSH_ACK_DEADLINE == "60s" && output.functions["receive"].timeout_seconds == 60
    error_message = "The deadline of another function is receive's."
  }
  assert {
    condition = { for k, s in output.delivery.subscriptions : k => "${s.name} ${s.endpoint} ${s.audience} ${s.ack_deadline_seconds}" } == {
      main    = "projects/demo-project/subscriptions/inbox-push https://receive-123456789012.europe-west1.run.app/wrapped https://receive-123456789012.europe-west1.run.app 60"
      orders  = "projects/demo-project/subscriptions/inbox-orders https://orders-123456789012.europe-west1.run.app/wrapped https://orders-123456789012.europe-west1.run.app 120"
      returns = "projects/demo-project/subscriptions/inbox-returns https://returns-123456789012.europe-west1.run.app/unwrapped https://returns-123456789012.europe-west1.run.app 60"
    } && toset(keys(output.delivery.services)) == toset(["publish", "receive", "console", "orders", "returns"])
    error_message = "What operates the delivery does not know a function, or its subscription."
  }
  assert {
    condition     = output.functions["console"].environment.DELIVERY_SUBSCRIPTIONS == "projects/demo-project/subscriptions/inbox-push,projects/demo-project/subscriptions/inbox-orders,projects/demo-project/subscriptions/inbox-returns" && contains(keys(google_pubsub_subscription_iam_member.console), "console orders")
    error_message = "The console does not show how the delivery to a function goes."
  }
  assert {
    condition     = strcontains(google_logging_project_sink.receive[0].filter, "service_name=(\"receive\" OR \"orders\" OR \"returns\") AND jsonPayload.refusal:*") && strcontains(google_monitoring_alert_policy.inbox["oldest"].conditions[0].condition_threshold[0].filter, "\"inbox-orders\"")
    error_message = "What a function refuses is not shown, or raises no alert."
  }
  assert {
    condition = { for g in google_project_iam_member.project : g.member => "${g.role} ${one(g.condition).expression}" if can(regex("inbox-(orders|returns)@", g.member)) } == {
      for name in ["orders", "returns"] : "serviceAccount:inbox-${name}@demo-project.iam.gserviceaccount.com" => "projects/demo-project/roles/pushInboxProcessor resource.name == \"projects/demo-project/databases/(default)\""
    }
    error_message = "A function has other rights on the project than to process messages in the inbox's database."
  }
  assert {
    condition     = google_secret_manager_secret_iam_member.own["orders PAYMENT_KEY"].secret_id == "payment-key" && google_secret_manager_secret_iam_member.own["orders PAYMENT_KEY"].member == "serviceAccount:inbox-orders@demo-project.iam.gserviceaccount.com" && length(google_secret_manager_secret_iam_member.own) == 1
    error_message = "A function may not read its secret, or another may."
  }
  assert {
    condition     = keys(google_secret_manager_secret_iam_member.shared) == ["receive"] && toset(keys(google_pubsub_topic_iam_member.function_publisher)) == toset(["publish", "console"])
    error_message = "A user's function may publish, or read a secret of this module."
  }
}

run "secrets_need_their_api" {
  command = plan
  variables {
    verification_token = null
  }

  assert {
    condition     = contains(keys(google_project_service.api), "secretmanager.googleapis.com")
    error_message = "Secret Manager is not enabled."
  }
}

run "paused_deployed_operated" {
  command = plan
  variables {
    deployers          = ["group:team@example.com"]
    delivery_operators = ["group:oncall@example.com"]
    paused             = ["orders"]
    pipeline           = { state_bucket = "demo-state" }
  }

  assert {
    condition     = length(google_pubsub_subscription.push["orders"].push_config) == 0 && length(google_pubsub_subscription.push["returns"].push_config) == 1
    error_message = "A function's subscription cannot be paused by its key, or another is."
  }
  assert {
    condition     = contains(keys(google_service_account_iam_member.act_as), "group:team@example.com orders") && contains(keys(google_pubsub_subscription_iam_member.operator), "group:oncall@example.com orders") && contains(keys(google_service_account_iam_member.pipeline_act_as), "orders")
    error_message = "Who deploys or operates may not do so for a user's function."
  }
}
