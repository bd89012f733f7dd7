# Functions are built by Cloud Build. Left to itself that runs as the default
# compute account, which in some organisations may do anything and in others
# nothing; this one may do what a build does.
resource "google_service_account" "build" {
  project      = var.project_id
  account_id   = "inbox-build"
  display_name = "Push Inbox: builds the functions"

  depends_on = [google_project_service.api]
}

resource "google_artifact_registry_repository" "functions" {
  project       = var.project_id
  location      = var.region
  repository_id = "inbox-functions"
  format        = "DOCKER"

  cleanup_policies {
    id     = "keep-recent"
    action = "KEEP"
    most_recent_versions {
      keep_count = 5
    }
  }
  cleanup_policies {
    id     = "delete-old"
    action = "DELETE"
    condition {
      older_than = "2592000s"
    }
  }

  depends_on = [google_project_service.api]
}

resource "google_artifact_registry_repository_iam_member" "build_writer" {
  project    = var.project_id
  location   = var.region
  repository = google_artifact_registry_repository.functions.repository_id
  role       = "roles/artifactregistry.writer"
  member     = google_service_account.build.member
}

# The account that cloudbuild.yaml deploys with.
resource "google_service_account" "pipeline" {
  count = var.pipeline == null ? 0 : 1

  project      = var.project_id
  account_id   = "inbox-pipeline"
  display_name = "Push Inbox: runs cloudbuild.yaml"

  depends_on = [google_project_service.api]
}

resource "google_service_account_iam_member" "pipeline_act_as" {
  for_each = var.pipeline == null ? {} : { for k, v in local.act_as : k => v if k != "push" }

  service_account_id = each.value
  role               = "roles/iam.serviceAccountUser"
  member             = google_service_account.pipeline[0].member
}

# It reads Terraform's outputs from the state.
resource "google_storage_bucket_iam_member" "pipeline_state" {
  count = var.pipeline == null ? 0 : 1

  bucket = var.pipeline.state_bucket
  role   = "roles/storage.objectViewer"
  member = google_service_account.pipeline[0].member
}

locals {
  build_grants = {
    build-logs = {
      role      = "roles/logging.logWriter"
      member    = google_service_account.build.member
      condition = null
    }
    # gcloud uploads the source to a bucket that Cloud Functions makes and names.
    build-source = {
      role   = "roles/storage.objectViewer"
      member = google_service_account.build.member
      condition = {
        title      = "function-sources"
        expression = "resource.name.startsWith(\"projects/_/buckets/gcf-v2-\")"
      }
    }
  }

  pipeline_grants = var.pipeline == null ? {} : {
    pipeline-logs = {
      role      = "roles/logging.logWriter"
      member    = google_service_account.pipeline[0].member
      condition = null
    }
    pipeline-functions = {
      role      = "roles/cloudfunctions.developer"
      member    = google_service_account.pipeline[0].member
      condition = null
    }
    # To let anyone invoke a function.
    pipeline-run = {
      role      = "roles/run.admin"
      member    = google_service_account.pipeline[0].member
      condition = null
    }
  }
}
