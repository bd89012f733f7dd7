terraform {
  # 1.11: write-only arguments keep secrets out of the state.
  required_version = ">= 1.11"

  required_providers {
    google = {
      source  = "hashicorp/google"
      version = ">= 7.33, < 9.0" # deletion_policy of google_firestore_field
    }
  }
}

provider "google" {
  project = var.project_id
  region  = var.region
}
