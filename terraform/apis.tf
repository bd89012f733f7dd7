data "google_project" "this" {
  project_id = var.project_id
}

# Left enabled by `terraform destroy`: something else in the project may have
# come to use them.
resource "google_project_service" "api" {
  for_each = toset(concat([
    "artifactregistry.googleapis.com",
    "cloudbuild.googleapis.com",
    "cloudfunctions.googleapis.com",
    "firestore.googleapis.com",
    "iam.googleapis.com",
    "iamcredentials.googleapis.com",
    "logging.googleapis.com",
    "monitoring.googleapis.com",
    "pubsub.googleapis.com",
    "run.googleapis.com",
    ],
    local.token_wanted || local.mns_secret_wanted ? ["secretmanager.googleapis.com"] : [],
    var.calendar == null ? [] : ["calendar-json.googleapis.com", "cloudscheduler.googleapis.com"],
  ))

  project            = var.project_id
  service            = each.key
  disable_on_destroy = false
}
