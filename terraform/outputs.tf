output "api_url" {
  description = "Where programs read the inbox: the console's address, or with console_iap the one of the same function without the proxy; null where no program may."
  value       = length(var.console_iap) == 0 ? local.deployed["console"].url : try(local.deployed["api"].url, null)
}

output "console_url" {
  description = "Where people read the inbox."
  value       = local.deployed["console"].url
}

output "delivery" {
  description = "What `pushinbox delivery`, `dead-letters` and `doctor` need: how every subscription is meant to be, and who is involved. The shared token is not in it."
  value = {
    project        = var.project_id
    project_number = local.project_number
    region         = var.region
    pubsub_agent   = trimprefix(local.pubsub_agent, "serviceAccount:")
    push_account   = google_service_account.push.email
    # Of the job that renews the calendars' channels; null without calendars.
    scheduler_region = try(coalesce(var.calendar.scheduler_region, var.region), null)

    subscriptions = {
      for key, s in local.subscriptions : key => {
        name                    = local.push_subscriptions[key]
        topic                   = s.topic
        function                = s.function
        endpoint                = local.push_endpoints[key]
        audience                = local.push_audiences[key]
        form                    = s.form
        filter                  = s.filter
        ordering                = s.ordering
        ack_deadline_seconds    = s.ack_deadline
        minimum_backoff_seconds = var.retry_backoff_seconds.minimum
        maximum_backoff_seconds = var.retry_backoff_seconds.maximum
        max_delivery_attempts   = var.max_delivery_attempts
        paused                  = contains(var.paused, key)
      }
    }
    dead_letter_topic        = "projects/${var.project_id}/topics/${google_pubsub_topic.dead_letter.name}"
    dead_letter_subscription = local.dead_letter_subscription

    token_secret = one([
      for name, version in google_secret_manager_secret_version.shared :
      "projects/${var.project_id}/secrets/${google_secret_manager_secret.shared[name].secret_id}/versions/${version.version}" if name == "receive"
    ])

    database          = local.database_name
    collection        = var.inbox_collection
    shards            = var.inbox_shards
    search_attributes = var.search_attributes

    log_view       = local.log_view
    operations_log = "projects/${var.project_id}/logs/pushinbox-operations"

    services = {
      for name, f in local.deployed : name => {
        url               = f.url
        service_account   = f.service_account
        ingress           = f.ingress
        invoker_check_off = var.invoker_check_off
      }
    }
  }
}

output "deployment" {
  description = "What scripts/deploy needs besides the functions."
  value = {
    project           = var.project_id
    region            = var.region
    runtime           = "go126"
    build_account     = google_service_account.build.name
    docker_repository = google_artifact_registry_repository.functions.id
    invoker_check_off = var.invoker_check_off
    # By this scripts/deploy and scripts/teardown know what is theirs.
    labels = { managed-by = "push-inbox" }
  }

  # A build before these grants would fail.
  depends_on = [google_artifact_registry_repository_iam_member.build_writer, google_project_iam_member.project]
}

output "functions" {
  description = "For each function what scripts/deploy deploys it with: address, account, environment, secrets, size."
  value       = local.deployed

  # A function that starts before its grants would fail its first requests.
  depends_on = [
    google_project_iam_member.project,
    google_pubsub_topic_iam_member.calendar_sync,
    google_pubsub_topic_iam_member.function_publisher,
    google_service_account_iam_member.calendar_delegation,
    google_secret_manager_secret_iam_member.own,
    google_secret_manager_secret_iam_member.shared,
  ]
}

output "kept_database" {
  description = "The Firestore database that `terraform destroy` leaves."
  value       = local.database_name
}

output "pipeline_account" {
  description = "The account for a Cloud Build trigger of cloudbuild.yaml, or null."
  value       = one(google_service_account.pipeline[*].name)
}

output "publish_url" {
  description = "Where to publish."
  value       = local.deployed["publish"].url
}

output "tester_account" {
  description = "The account whose ID tokens testers get, or null."
  value       = one(google_service_account.tester[*].email)
}
