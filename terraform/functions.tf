# What each Cloud Function needs. A new function is one more entry here: its
# account, its grants and what scripts/deploy reads follow from it. The key is
# the function's name, its entry point and its folder in functions/.
#
#   publishes    whether its account may publish to the topic
#   inbox        what its account may do in Firestore: "write", "read", "sync",
#                "process" or null; "sync" is to put messages and to keep what a sync
#                needs, "process" to put them in a transaction with other documents
#   timeout      seconds until a request is cut off
#   environment  its variables; empty ones are left out
#   secrets      variables that come from Secret Manager, as SECRET:VERSION
#   source       its folder and entry point, where they are not its name
#   external     whether its source is a user's, and not in functions/
#   ingress      who may reach it, as gcloud's --ingress-settings; "all" if not said
#   iap_members  who passes Identity-Aware Proxy in front of it; none means no proxy
locals {
  functions = merge(local.own_functions, local.api_function, local.calendar_function, local.mns_function, {
    publish = {
      publishes = true
      inbox     = null
      timeout   = 60
      environment = {
        PUBSUB_TOPIC     = local.function_topic
        PUBLISH_AUDIENCE = format(local.url, "publish")
        PUBLISH_CALLERS  = join(",", concat(var.publish_callers, local.tester_emails))
      }
      secrets = {}
    }

    receive = {
      publishes = false
      inbox     = "write"
      # Pub/Sub does not wait longer for an answer.
      timeout = max(values(local.receive_subscriptions)[*].ack_deadline...)
      ingress = var.receive_ingress
      environment = merge(local.inbox_environment, {
        PUSH_ACK_DEADLINE    = "${min(values(local.receive_subscriptions)[*].ack_deadline...)}s"
        PUSH_AUDIENCE        = format(local.url, "receive")
        PUSH_SERVICE_ACCOUNT = google_service_account.push.email
      })
      secrets = { for name in ["receive"] : "PUBSUB_VERIFICATION_TOKEN" => local.secret_versions[name] if local.token_wanted }
    }

    console = {
      publishes = true
      inbox     = "read"
      # The live tail is one long request; the page resumes it after a cut.
      timeout     = 3600
      iap_members = var.console_iap
      environment = length(var.console_iap) > 0 ? merge(local.console_environment, {
        # The form of the audience is Cloud Run's when the proxy is on the service.
        IAP_AUDIENCE = "/projects/${local.project_number}/locations/${var.region}/services/console"
        }) : merge(local.console_environment, {
        CONSOLE_AUDIENCE = length(local.console_readers) > 0 ? format(local.url, "console") : ""
        CONSOLE_READERS  = join(",", local.console_readers)
        IAP_AUDIENCE     = var.iap_audience
      })
      secrets = {}
    }
  })

  # Identity-Aware Proxy stops programs, which bring a token of their own, so they
  # get the console a second time without it.
  api_function = length(var.console_iap) > 0 && length(local.console_readers) > 0 ? {
    api = {
      publishes = true
      inbox     = "read"
      timeout   = 3600
      source    = "console"
      environment = merge(local.console_environment, {
        CONSOLE_AUDIENCE = format(local.url, "api")
        CONSOLE_READERS  = join(",", local.console_readers)
      })
      secrets = {}
    }
  } : {}

  console_environment = merge(local.inbox_environment, local.delivery_environment, {
    CONSOLE_PUBLISHERS       = join(",", local.console_publishers)
    DEAD_LETTER_SUBSCRIPTION = local.dead_letter_subscription
    INBOX_SEARCH_ATTRIBUTES  = join(",", var.search_attributes)
    PUBSUB_TOPIC             = local.function_topic
  })

  # A topic of another project is known by its full name only.
  function_topic = try(google_pubsub_topic.inbox[0].name, var.existing_topic)

  inbox_environment = {
    FIRESTORE_DATABASE = local.database
    INBOX_COLLECTION   = var.inbox_collection
    INBOX_SHARDS       = tostring(var.inbox_shards)
    INBOX_TTL          = var.inbox_ttl
  }

  console_readers = concat(var.console_readers, local.tester_emails)
  # Without any, who reads with a token may publish too. Testers always may.
  console_publishers = length(var.console_publishers) > 0 ? concat(var.console_publishers, local.tester_emails) : []
  tester_emails      = google_service_account.tester[*].email

  # A function's deterministic address is known before the function is, so
  # nothing here waits for a deployment and no second apply is needed. Functions
  # also answer at REGION-PROJECT.cloudfunctions.net/NAME, which drops a path
  # segment on the way and so breaks signed paths.
  url = "https://%s-${local.project_number}.${var.region}.run.app"

  # What Go may use of an instance's memory: seven eighths. The functions share it
  # out among the requests that they hold, so that no number of large ones ends an
  # instance.
  go_memory = {
    for name in keys(local.functions) : name => format("%dMiB", floor(
      tonumber(regex("^[0-9]+", local.memory[name])) * (endswith(local.memory[name], "Gi") ? 1024 : 1) * 7 / 8
    ))
  }
  memory = { for name in keys(local.functions) : name => coalesce(try(local.sizes[name].memory, null), local.size.memory) }
  sizes  = { for name, s in merge(var.sizes, { for name, f in var.functions : name => f.size }) : name => s if s != null }

  # What scripts/deploy reads.
  deployed = {
    for name, f in local.functions : name => merge(
      local.size,
      { for k, v in try(local.sizes[name], {}) : k => v if v != null },
      {
        url             = format(local.url, name)
        service_account = google_service_account.function[name].email
        timeout_seconds = f.timeout
        secrets         = f.secrets
        source          = try(f.source, name)
        external        = try(f.external, false)
        ingress         = try(f.ingress, "all")
        iap_members     = try(f.iap_members, [])
        environment = merge(
          { GOOGLE_CLOUD_PROJECT = var.project_id, GOMEMLIMIT = local.go_memory[name] },
          { for k, v in f.environment : k => v if v != "" },
        )
      },
    )
  }

  # What an instance gets when var.sizes says nothing. Concurrency above one
  # lets pushes share a write to Firestore, and needs a whole CPU.
  size = { memory = "512Mi", cpu = 1, concurrency = 80, min_instances = 0, max_instances = 20 }
}
