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
    length(local.secrets) > 0 ? ["secretmanager.googleapis.com"] : [],
    var.calendar == null ? [] : ["calendar-json.googleapis.com", "cloudscheduler.googleapis.com"],
    length(var.console_iap) > 0 ? ["iap.googleapis.com"] : [],
  ))

  project            = var.project_id
  service            = each.key
  disable_on_destroy = false
}

# An API that was just enabled answers SERVICE_DISABLED for a while, and the
# provider does not try again: the first apply would stop half way. All that uses
# an API waits here, once for each set of APIs.
resource "terraform_data" "apis" {
  triggers_replace = sort(keys(google_project_service.api))

  provisioner "local-exec" {
    # In `terraform test` provisioners run although nothing is made; the made-up
    # provider does not know the form of the ID.
    command = alltrue([for name, api in google_project_service.api : api.id == "${var.project_id}/${name}"]) ? "sh '${path.module}/wait-for-apis.sh' '${var.project_id}' ${join(" ", sort(keys(google_project_service.api)))}" : "exit 0"
  }

  depends_on = [google_project_service.api]
}
