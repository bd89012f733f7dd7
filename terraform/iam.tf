# One account for each function, so that a function that is broken into can do
# no more than that function does.
resource "google_service_account" "function" {
  for_each = toset(keys(local.functions))

  project      = var.project_id
  account_id   = "inbox-${each.key}"
  display_name = "Push Inbox: the function ${each.key}"

  depends_on = [terraform_data.apis]
}

# Signs the pushes and has no rights at all.
resource "google_service_account" "push" {
  project      = var.project_id
  account_id   = "inbox-push"
  display_name = "Push Inbox: signs what Pub/Sub pushes"

  depends_on = [terraform_data.apis]
}

locals {
  pubsub_agent = "serviceAccount:service-${local.project_number}@gcp-sa-pubsub.iam.gserviceaccount.com"
}

# What is granted on a resource is deleted with it. Where the replaced resource
# has the name of the old one nothing tells the grant so, and it would be missing
# until the next apply: hence replace_triggered_by. It names the ID, since the
# whole resource would renew the grants with each change in place.

# Pub/Sub signs as the push account. Projects made after 2021-04-08 grant that
# to its agent for the whole project; this holds where they do not.
resource "google_service_account_iam_member" "push_token_creator" {
  service_account_id = google_service_account.push.name
  role               = "roles/iam.serviceAccountTokenCreator"
  member             = local.pubsub_agent

  # The agent comes to be with the first resource of Pub/Sub in a project, if it
  # does not exist yet; with existing_topic that is the dead-letter topic.
  depends_on = [google_pubsub_topic.dead_letter, google_pubsub_topic.inbox]

  lifecycle {
    replace_triggered_by = [google_service_account.push.id]
  }
}

# Dead letters go nowhere unless the agent has both of these.
resource "google_pubsub_topic_iam_member" "dead_letter_publisher" {
  project = var.project_id
  topic   = google_pubsub_topic.dead_letter.name
  role    = "roles/pubsub.publisher"
  member  = local.pubsub_agent

  lifecycle {
    replace_triggered_by = [google_pubsub_topic.dead_letter.id]
  }
}

resource "google_pubsub_subscription_iam_member" "dead_letter_subscriber" {
  for_each = local.subscriptions

  project      = var.project_id
  subscription = google_pubsub_subscription.push[each.key].name
  role         = "roles/pubsub.subscriber"
  member       = local.pubsub_agent

  lifecycle {
    replace_triggered_by = [google_pubsub_subscription.push[each.key].id]
  }
}

moved {
  from = google_pubsub_subscription_iam_member.dead_letter_subscriber
  to   = google_pubsub_subscription_iam_member.dead_letter_subscriber["main"]
}

# On a topic of somebody else, its owner grants this.
resource "google_pubsub_topic_iam_member" "function_publisher" {
  for_each = toset([for name, f in local.functions : name if f.publishes && var.existing_topic == null])

  project = var.project_id
  topic   = google_pubsub_topic.inbox[0].name
  role    = "roles/pubsub.publisher"
  member  = google_service_account.function[each.key].member

  lifecycle {
    replace_triggered_by = [google_pubsub_topic.inbox[0].id]
  }
}

# What putting a message takes by Firestore's table of permissions: get to see
# whether a large one is there, create for messages, update for the chunks of
# one whose first attempt broke off. Neither list nor delete.
resource "google_project_iam_custom_role" "inbox_writer" {
  project = var.project_id
  role_id = "pushInboxWriter"
  title   = "Push Inbox: put messages"
  permissions = [
    "datastore.entities.create",
    "datastore.entities.get",
    "datastore.entities.update",
  ]

  depends_on = [terraform_data.apis]
}

locals {
  inbox_roles = {
    process = one(google_project_iam_custom_role.process[*].name)
    read    = "roles/datastore.viewer"
    sync    = one(google_project_iam_custom_role.calendar_sync[*].name)
    write   = google_project_iam_custom_role.inbox_writer.name
  }

  # Every right that is granted on the project is in this map, because the
  # service in question has no narrower resource to grant it on. A condition
  # narrows it where the service looks at one.
  project_grants = merge(
    {
      for name, f in local.functions : "${name}-inbox" => {
        role      = local.inbox_roles[f.inbox]
        member    = google_service_account.function[name].member
        condition = local.database_condition
      } if f.inbox != null
    },
    local.build_grants,
    local.delivery_grants,
    local.operator_grants,
    local.pipeline_grants,
  )
}

resource "google_project_iam_member" "project" {
  for_each = local.project_grants

  project = var.project_id
  role    = each.value.role
  member  = each.value.member

  dynamic "condition" {
    for_each = each.value.condition == null ? [] : [each.value.condition]
    content {
      title      = condition.value.title
      expression = condition.value.expression
    }
  }
}

# Who deploys acts as the accounts that it gives to functions and builds, and
# who applies this, or resumes the delivery, acts as the push account that it gives
# to the subscription.
resource "google_service_account_iam_member" "act_as" {
  for_each = {
    for pair in setunion(setproduct(var.deployers, keys(local.act_as)), setproduct(var.delivery_operators, ["push"])) :
    "${pair[0]} ${pair[1]}" => { member = pair[0], account = pair[1] }
  }

  service_account_id = local.act_as[each.value.account]
  role               = "roles/iam.serviceAccountUser"
  member             = each.value.member
}

locals {
  act_as = merge(
    { for name, account in google_service_account.function : name => account.name },
    { build = google_service_account.build.name, push = google_service_account.push.name },
  )
}

# A person's own ID token has gcloud as its audience. To try the functions by
# hand, testers get tokens of this account, which has no rights in the project.
resource "google_service_account" "tester" {
  count = length(var.testers) > 0 ? 1 : 0

  project      = var.project_id
  account_id   = "inbox-tester"
  display_name = "Push Inbox: calls publish and console by hand"

  depends_on = [terraform_data.apis]
}

resource "google_service_account_iam_member" "tester" {
  for_each = var.testers

  service_account_id = google_service_account.tester[0].name
  role               = "roles/iam.serviceAccountTokenCreator"
  member             = each.key

  lifecycle {
    replace_triggered_by = [google_service_account.tester[0].id]
  }
}
