# Functions are built by Cloud Build. Left to itself that runs as the default
# compute account, which in some organisations may do anything and in others
# nothing; this one may do what a build does.
resource "google_service_account" "build" {
  project      = var.project_id
  account_id   = "inbox-build"
  display_name = "Push Inbox: builds the functions"

  depends_on = [terraform_data.apis]
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

  depends_on = [terraform_data.apis]
}

resource "google_artifact_registry_repository_iam_member" "build_writer" {
  project    = var.project_id
  location   = var.region
  repository = google_artifact_registry_repository.functions.repository_id
  role       = "roles/artifactregistry.writer"
  member     = google_service_account.build.member

  lifecycle {
    replace_triggered_by = [google_artifact_registry_repository.functions.id]
  }
}

# The account that cloudbuild.yaml deploys with.
resource "google_service_account" "pipeline" {
  count = var.pipeline == null ? 0 : 1

  project      = var.project_id
  account_id   = "inbox-pipeline"
  display_name = "Push Inbox: runs cloudbuild.yaml"

  depends_on = [terraform_data.apis]
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
  # The roles of Google's page "Custom Service Account for Cloud Build", of Cloud
  # Run functions; the one to write images is on the repository alone.
  build_grants = {
    build-logs = {
      role      = "roles/logging.logWriter"
      member    = google_service_account.build.member
      condition = null
    }
    # gcloud uploads the source to a bucket that Cloud Functions makes and names.
    build-source = {
      role   = "roles/storage.objectAdmin"
      member = google_service_account.build.member
      condition = {
        title      = "function-sources"
        expression = "resource.name.startsWith(\"projects/_/buckets/gcf-v2-\")"
      }
    }
  }

  pipeline_roles = merge(
    {
      pipeline-functions = "roles/cloudfunctions.developer"
      pipeline-logs      = "roles/logging.logWriter"
      # To print a plan, which reads the project's number.
      pipeline-project = "roles/browser"
    },
    # To let anyone invoke a function, by granting it or by switching Cloud Run's
    # check off: on the functions' own services and on no other.
    { for name in keys(local.functions) : "pipeline-run-${name}" => "roles/run.admin" },
    # To let people through the proxy in front of the console.
    { for role in ["roles/iap.admin"] : "pipeline-iap" => role if length(var.console_iap) > 0 },
  )

  pipeline_grants = {
    for key, role in local.pipeline_roles : key => {
      role   = role
      member = google_service_account.pipeline[0].member
      condition = startswith(key, "pipeline-run-") ? {
        title      = trimprefix(key, "pipeline-")
        expression = "resource.name == \"projects/${var.project_id}/locations/${var.region}/services/${trimprefix(key, "pipeline-run-")}\""
      } : null
    } if var.pipeline != null
  }
}
