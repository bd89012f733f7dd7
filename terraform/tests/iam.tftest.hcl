# Each account may do what it does, on the narrowest resource, and no more.

mock_provider "google" {
  source          = "./tests/mocks"
  override_during = plan
}

override_resource {
  override_during = plan
  target          = google_service_account.push
  values = {
    email  = "inbox-push@demo-project.iam.gserviceaccount.com"
    member = "serviceAccount:inbox-push@demo-project.iam.gserviceaccount.com"
    name   = "projects/demo-project/serviceAccounts/inbox-push@demo-project.iam.gserviceaccount.com"
  }
}

override_resource {
  override_during = plan
  target          = google_service_account.function["publish"]
  values = {
    member = "serviceAccount:inbox-publish@demo-project.iam.gserviceaccount.com"
    name   = "projects/demo-project/serviceAccounts/inbox-publish@demo-project.iam.gserviceaccount.com"
  }
}

override_resource {
  override_during = plan
  target          = google_service_account.function["receive"]
  values = {
    email  = "inbox-receive@demo-project.iam.gserviceaccount.com"
    member = "serviceAccount:inbox-receive@demo-project.iam.gserviceaccount.com"
    name   = "projects/demo-project/serviceAccounts/inbox-receive@demo-project.iam.gserviceaccount.com"
  }
}

override_resource {
  override_during = plan
  target          = google_service_account.function["console"]
  values = {
    member = "serviceAccount:inbox-console@demo-project.iam.gserviceaccount.com"
    name   = "projects/demo-project/serviceAccounts/inbox-console@demo-project.iam.gserviceaccount.com"
  }
}

override_resource {
  override_during = plan
  target          = google_service_account.build
  values = {
    member = "serviceAccount:inbox-build@demo-project.iam.gserviceaccount.com"
    name   = "projects/demo-project/serviceAccounts/inbox-build@demo-project.iam.gserviceaccount.com"
  }
}

override_resource {
  override_during = plan
  target          = google_service_account.pipeline
  values = {
    member = "serviceAccount:inbox-pipeline@demo-project.iam.gserviceaccount.com"
    name   = "projects/demo-project/serviceAccounts/inbox-pipeline@demo-project.iam.gserviceaccount.com"
  }
}

override_resource {
  override_during = plan
  target          = google_service_account.tester
  values = {
    email = "inbox-tester@demo-project.iam.gserviceaccount.com"
    name  = "projects/demo-project/serviceAccounts/inbox-tester@demo-project.iam.gserviceaccount.com"
  }
}

variables {
  project_id      = "demo-project"
  publish_callers = ["orders@example.com"]
  console_readers = ["reader@example.com"]
}

run "defaults" {
  command = plan
  assert {
    condition     = google_service_account_iam_member.push_token_creator.service_account_id == "projects/demo-project/serviceAccounts/inbox-push@demo-project.iam.gserviceaccount.com" && google_service_account_iam_member.push_token_creator.role == "roles/iam.serviceAccountTokenCreator"
    error_message = "Pub/Sub may not sign as the push account."
  }
  assert {
    condition     = google_service_account_iam_member.push_token_creator.member == "serviceAccount:service-123456789012@gcp-sa-pubsub.iam.gserviceaccount.com"
    error_message = "Somebody else than Pub/Sub's agent may sign as the push account."
  }
  assert {
    condition     = !strcontains(lower(jsonencode(values(google_project_iam_member.project)[*].role)), "tokencreator")
    error_message = "Somebody may sign as any account of the project."
  }
  assert {
    condition     = google_pubsub_topic_iam_member.dead_letter_publisher.topic == "inbox-dead-letter" && google_pubsub_topic_iam_member.dead_letter_publisher.role == "roles/pubsub.publisher" && google_pubsub_topic_iam_member.dead_letter_publisher.member == "serviceAccount:service-123456789012@gcp-sa-pubsub.iam.gserviceaccount.com"
    error_message = "Pub/Sub may not publish dead letters."
  }
  assert {
    condition     = google_pubsub_subscription_iam_member.dead_letter_subscriber["main"].subscription == "inbox-push" && google_pubsub_subscription_iam_member.dead_letter_subscriber["main"].role == "roles/pubsub.subscriber" && google_pubsub_subscription_iam_member.dead_letter_subscriber["main"].member == "serviceAccount:service-123456789012@gcp-sa-pubsub.iam.gserviceaccount.com"
    error_message = "Pub/Sub may not take dead letters off the subscription."
  }
  assert {
    condition     = alltrue([for f in fileset(path.module, "*.tf") : !can(regex("\"google_[a-z0-9_]+_iam_(binding|policy)\"", file("${path.module}/${f}")))])
    error_message = "A *_iam_binding or *_iam_policy takes away what others granted."
  }
  assert {
    condition     = alltrue([for f in fileset(path.module, "*.tf") : !can(regex("roles/(owner|editor|viewer)\"", file("${path.module}/${f}")))])
    error_message = "A primitive role is granted."
  }
  assert {
    condition     = length(flatten([for f in fileset(path.module, "*.tf") : regexall("\"google_project_iam_member\"", file("${path.module}/${f}"))])) == 1
    error_message = "Something is granted on the project outside project_grants, where the other assertions do not see it."
  }
  assert {
    condition     = alltrue([for g in google_project_iam_member.project : !startswith(g.role, "roles/pubsub.")])
    error_message = "Somebody has rights on all Pub/Sub of the project."
  }
  assert {
    condition = {
      for g in google_project_iam_member.project : g.member => g.role...
      if can(regex("inbox-(publish|receive|console|push)@", g.member))
      } == {
      "serviceAccount:inbox-console@demo-project.iam.gserviceaccount.com" = ["roles/datastore.viewer", "roles/monitoring.viewer", "roles/logging.viewAccessor"]
      "serviceAccount:inbox-receive@demo-project.iam.gserviceaccount.com" = ["projects/demo-project/roles/pushInboxWriter"]
    }
    error_message = "A function has other rights on the project than to read, or to put, messages, and to see how the delivery goes."
  }
  assert {
    condition     = alltrue([for g in google_project_iam_member.project : one(g.condition).expression == "resource.name == \"projects/demo-project/databases/(default)\"" if can(regex("inbox-(publish|receive|console)@", g.member)) && can(regex("datastore|Writer", g.role))])
    error_message = "A function may use other databases than the inbox's."
  }
  assert {
    condition     = google_project_iam_custom_role.inbox_writer.permissions == toset(["datastore.entities.create", "datastore.entities.get", "datastore.entities.update"])
    error_message = "receive may do more than put messages."
  }
  assert {
    condition = { for k, m in google_pubsub_topic_iam_member.function_publisher : k => "${m.member} ${m.role} ${m.topic}" } == {
      console = "serviceAccount:inbox-console@demo-project.iam.gserviceaccount.com roles/pubsub.publisher inbox"
      publish = "serviceAccount:inbox-publish@demo-project.iam.gserviceaccount.com roles/pubsub.publisher inbox"
    }
    error_message = "Others than publish and console may publish, or they may do more."
  }
  assert {
    condition     = length(toset([for a in concat(values(google_service_account.function), [google_service_account.push, google_service_account.build]) : a.account_id])) == length(output.functions) + 2
    error_message = "Functions, builds and pushes share an account."
  }
  assert {
    condition     = { for g in google_project_iam_member.project : g.role => join("", g.condition[*].expression) if strcontains(g.member, "inbox-build@") } == { "roles/logging.logWriter" = "", "roles/storage.objectAdmin" = "resource.name.startsWith(\"projects/_/buckets/gcf-v2-\")" }
    error_message = "Builds may do more in the project than write logs, and read and write their source."
  }
  assert {
    condition     = google_artifact_registry_repository_iam_member.build_writer.repository == "inbox-functions"
    error_message = "Builds cannot write images to their repository."
  }
  assert {
    condition     = length(google_service_account.tester) == 0 && length(google_service_account.pipeline) == 0 && length(google_service_account_iam_member.act_as) == 0 && length(google_service_account.scheduler) == 0 && length(google_project_iam_custom_role.operator) == 0 && length(google_pubsub_subscription_iam_member.operator) == 0 && length(google_pubsub_subscription_iam_member.operator_dead_letter) == 0
    error_message = "An account or a right is made that was not asked for."
  }
  assert {
    condition     = output.functions["publish"].environment.PUBLISH_CALLERS == "orders@example.com" && output.functions["console"].environment.CONSOLE_READERS == "reader@example.com"
    error_message = "Others than those named may call the functions."
  }
  assert {
    condition     = alltrue([for s in google_project_service.api : s.disable_on_destroy == false])
    error_message = "Destroying this would switch an API off for the whole project."
  }
}

run "testers" {
  command = plan
  variables {
    testers = ["user:you@example.com"]
  }

  assert {
    condition     = google_service_account_iam_member.tester["user:you@example.com"].service_account_id == "projects/demo-project/serviceAccounts/inbox-tester@demo-project.iam.gserviceaccount.com"
    error_message = "Testers may sign as another account than the one made for that."
  }
  assert {
    condition     = output.functions["publish"].environment.PUBLISH_CALLERS == "orders@example.com,inbox-tester@demo-project.iam.gserviceaccount.com" && output.functions["console"].environment.CONSOLE_READERS == "reader@example.com,inbox-tester@demo-project.iam.gserviceaccount.com"
    error_message = "Testers cannot call the functions."
  }
  assert {
    condition     = length([for g in google_project_iam_member.project : g if strcontains(g.member, "inbox-tester@")]) == 0
    error_message = "The testers' account has rights in the project."
  }
}

run "deployers" {
  command = plan
  variables {
    deployers = ["group:team@example.com"]
  }

  assert {
    condition     = toset([for m in google_service_account_iam_member.act_as : m.service_account_id]) == toset([for a in ["publish", "receive", "console", "build", "push"] : "projects/demo-project/serviceAccounts/inbox-${a}@demo-project.iam.gserviceaccount.com"])
    error_message = "Deployers cannot act as exactly the accounts made here."
  }
  assert {
    condition     = alltrue([for m in google_service_account_iam_member.act_as : m.role == "roles/iam.serviceAccountUser" && m.member == "group:team@example.com"])
    error_message = "Deployers get something else than actAs."
  }
}

run "pipeline" {
  command = plan
  variables {
    pipeline = { state_bucket = "demo-state" }
  }

  assert {
    condition = toset([for g in google_project_iam_member.project : "${g.role} ${join("", g.condition[*].expression)}" if strcontains(g.member, "inbox-pipeline@")]) == toset(concat(
      ["roles/browser ", "roles/cloudfunctions.developer ", "roles/logging.logWriter "],
      [for name in ["console", "publish", "receive"] : "roles/run.admin resource.name == \"projects/demo-project/locations/europe-west1/services/${name}\""],
    ))
    error_message = "The pipeline has other rights on the project than to deploy these functions."
  }
  assert {
    condition     = !contains([for m in google_service_account_iam_member.pipeline_act_as : m.service_account_id], google_service_account.push.name)
    error_message = "The pipeline may act as the push account, and so forge pushes."
  }
  assert {
    condition     = google_storage_bucket_iam_member.pipeline_state[0].bucket == "demo-state" && google_storage_bucket_iam_member.pipeline_state[0].role == "roles/storage.objectViewer"
    error_message = "The pipeline cannot read the state, or may write it."
  }
}
