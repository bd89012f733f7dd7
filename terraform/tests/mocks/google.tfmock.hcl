# Made-up values in the form of the real ones, which the provider checks. The tests plan,
# which takes half of the time of an apply, and override_during = plan makes up at once what
# is only known after one.
mock_data "google_project" {
  defaults = {
    number = "123456789012"
  }
}

mock_resource "google_service_account" {
  defaults = {
    email  = "inbox-other@demo-project.iam.gserviceaccount.com"
    member = "serviceAccount:inbox-other@demo-project.iam.gserviceaccount.com"
    name   = "projects/demo-project/serviceAccounts/inbox-other@demo-project.iam.gserviceaccount.com"
  }
}

mock_resource "google_project_iam_custom_role" {
  defaults = {
    name = "projects/demo-project/roles/pushInboxWriter"
  }
}

mock_resource "google_artifact_registry_repository" {
  defaults = {
    id = "projects/demo-project/locations/europe-west1/repositories/inbox-functions"
  }
}

mock_resource "google_secret_manager_secret_version" {
  defaults = {
    version = "3"
  }
}
