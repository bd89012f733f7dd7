data "google_project" "this" {
  project_id = var.project_id
}

locals {
  project_number = data.google_project.this.number

  # By what asks for them, so that who switches something on waits for its APIs only.
  apis = merge(
    {
      always = [
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
      ]
    },
    { for name in ["calendar"] : name => ["calendar-json.googleapis.com", "cloudscheduler.googleapis.com"] if var.calendar != null },
    { for name in ["proxy"] : name => ["iap.googleapis.com"] if length(var.console_iap) > 0 },
    { for name in ["secrets"] : name => ["secretmanager.googleapis.com"] if length(local.secrets) + length(local.own_secrets) > 0 },
  )
}

# Left enabled by `terraform destroy`: something else in the project may have
# come to use them.
resource "google_project_service" "api" {
  for_each = toset(flatten(values(local.apis)))

  project            = var.project_id
  service            = each.key
  disable_on_destroy = false
}

# An API that was just enabled answers SERVICE_DISABLED for a while, and the
# provider does not try again: the first apply would stop half way. All that uses
# an API waits here, once.
resource "terraform_data" "apis" {
  for_each = local.apis

  triggers_replace = each.value

  provisioner "local-exec" {
    # In `terraform test` provisioners run although nothing is created; the made-up
    # provider does not know the form of the ID.
    command = alltrue([for name, api in google_project_service.api : api.id == "${var.project_id}/${name}"]) ? "sh '${path.module}/wait-for-apis.sh' '${var.project_id}' ${join(" ", each.value)}" : "exit 0"
  }

  depends_on = [google_project_service.api]
}
