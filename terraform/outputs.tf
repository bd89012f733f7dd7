output "api_url" {
  description = "Where programs read the inbox: the console's address, or with console_iap the one of the same function without the proxy; null where no program may."
  value       = length(var.console_iap) == 0 ? local.deployed["console"].url : try(local.deployed["api"].url, null)
}

output "console_url" {
  description = "Where people read the inbox."
  value       = local.deployed["console"].url
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
    google_secret_manager_secret_iam_member.shared,
  ]
}

output "kept_database" {
  description = "The Firestore database that `terraform destroy` leaves."
  value       = "projects/${var.project_id}/databases/${local.database}"
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
