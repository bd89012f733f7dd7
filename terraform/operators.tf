# What `pushinbox delivery pause | resume` and `dead-letters list | redrive | purge`
# take, for var.delivery_operators. Each right is on the narrowest resource that
# Google knows for it; the permissions are those of Google's tables for the methods
# that the commands call.
locals {
  operator_roles = length(var.delivery_operators) == 0 ? {} : {
    # On the subscriptions: to read and change them, to pull and to seek.
    subscription = {
      id    = "pushInboxSubscriptionOperator"
      title = "Push Inbox: operate a subscription"
      permissions = [
        "pubsub.subscriptions.consume",
        "pubsub.subscriptions.get",
        "pubsub.subscriptions.update",
      ]
    }
    # On the database, to record what is under way. Firestore knows no narrower
    # resource, so that who may do this may change messages, too.
    record = {
      id    = "pushInboxRecordKeeper"
      title = "Push Inbox: record operations"
      permissions = [
        "datastore.databases.get",
        "datastore.entities.create",
        "datastore.entities.delete",
        "datastore.entities.get",
        "datastore.entities.update",
      ]
    }
    # On the project: a snapshot is not there yet when it is created, and logs and
    # numbers know nothing narrower. services.use is for calls that are counted to
    # the project of application default credentials, as gcloud sets them up.
    project = {
      id    = "pushInboxDeliveryOperator"
      title = "Push Inbox: operate the delivery"
      permissions = [
        "logging.logEntries.create",
        "monitoring.timeSeries.list",
        "pubsub.snapshots.create",
        "pubsub.snapshots.seek",
        "serviceusage.services.use",
      ]
    }
  }

  operator_grants = merge([
    for member in var.delivery_operators : {
      "operator ${member}" = {
        role      = google_project_iam_custom_role.operator["project"].name
        member    = member
        condition = null
      }
      "operator-records ${member}" = {
        role      = google_project_iam_custom_role.operator["record"].name
        member    = member
        condition = local.database_condition
      }
    }
  ]...)
}

resource "google_project_iam_custom_role" "operator" {
  for_each = local.operator_roles

  project     = var.project_id
  role_id     = each.value.id
  title       = each.value.title
  permissions = each.value.permissions

  depends_on = [terraform_data.apis]
}

# To act as the push account, which resuming takes, is in iam.tf.
resource "google_pubsub_subscription_iam_member" "operator" {
  for_each = {
    for pair in setproduct(var.delivery_operators, keys(local.subscriptions)) :
    join(" ", pair) => { member = pair[0], subscription = pair[1] }
  }

  project      = var.project_id
  subscription = google_pubsub_subscription.push[each.value.subscription].id
  role         = google_project_iam_custom_role.operator["subscription"].name
  member       = each.value.member
}

resource "google_pubsub_subscription_iam_member" "operator_dead_letter" {
  for_each = var.delivery_operators

  project      = var.project_id
  subscription = google_pubsub_subscription.dead_letter.id
  role         = google_project_iam_custom_role.operator["subscription"].name
  member       = each.key
}

# The recorded configuration has no token: resuming reads it where it is kept.
resource "google_secret_manager_secret_iam_member" "operator" {
  for_each = local.token_wanted ? var.delivery_operators : []

  project   = var.project_id
  secret_id = google_secret_manager_secret.shared["receive"].id
  role      = "roles/secretmanager.secretAccessor"
  member    = each.key
}
