# The functions of var.functions: programs of a user's own that a subscription pushes
# to, made with shared/process. Each has an account, a subscription and an audience of
# its own; scripts/deploy --function deploys it.
locals {
  own_functions = {
    for name, f in var.functions : name => {
      publishes = false
      inbox     = "process"
      # Pub/Sub does not wait longer for an answer.
      timeout  = local.subscriptions[name].ack_deadline
      external = true
      # Only its own subscription is to reach it, and that is in this project.
      ingress = "internal-only"
      environment = merge(f.environment, local.inbox_environment, {
        PUSH_ACK_DEADLINE    = "${local.subscriptions[name].ack_deadline}s"
        PUSH_AUDIENCE        = format(local.url, name)
        PUSH_SERVICE_ACCOUNT = google_service_account.push.email
      })
      secrets = { for variable, s in f.secrets : variable => "${s.secret}:${s.version}" }
    }
  }

  own_subscriptions = {
    for name, f in var.functions : name => {
      name         = "inbox-${name}"
      topic        = coalesce(f.topic, local.topic)
      filter       = f.filter
      form         = f.form
      ordering     = f.enable_message_ordering
      ack_deadline = coalesce(f.ack_deadline_seconds, var.ack_deadline_seconds)
      function     = name
    }
  }

  # Names that would be those of something else here: of a function, an account, a
  # subscription, or a word of scripts/deploy.
  taken_names = [
    "api", "build", "calendar", "calendar-sync", "cmd", "console", "dead-letter", "main", "mns",
    "pipeline", "publish", "push", "receive", "scheduler", "tester",
  ]

  own_secrets = merge([
    for name, f in var.functions : {
      for variable, s in f.secrets : "${name} ${variable}" => { function = name, variable = variable }
    }
  ]...)
}

# What a transaction takes by Firestore's table of permissions, with all that a
# function may do through it: begin and roll back (databases.get), read, query (list),
# write and delete. TestPermissions in e2e/deploy holds this to the calls that are
# made. Firestore knows no narrower resource than a database.
resource "google_project_iam_custom_role" "process" {
  count = length(var.functions) > 0 ? 1 : 0

  project = var.project_id
  role_id = "pushInboxProcessor"
  title   = "Push Inbox: process messages"
  permissions = [
    "datastore.databases.get",
    "datastore.entities.create",
    "datastore.entities.delete",
    "datastore.entities.get",
    "datastore.entities.list",
    "datastore.entities.update",
  ]

  depends_on = [terraform_data.apis]
}

# The secrets are the user's, and are there already.
resource "google_secret_manager_secret_iam_member" "own" {
  for_each = local.own_secrets

  project   = var.project_id
  secret_id = var.functions[each.value.function].secrets[each.value.variable].secret
  role      = "roles/secretmanager.secretAccessor"
  member    = google_service_account.function[each.value.function].member

  depends_on = [terraform_data.apis]
}
