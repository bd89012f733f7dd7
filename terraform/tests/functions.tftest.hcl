# What the functions are deployed with, what watches them, what is off by default.

mock_provider "google" {
  source          = "./tests/mocks"
  override_during = plan
}

variables {
  project_id = "demo-project"
  testers    = ["user:you@example.com"]
}

run "defaults" {
  command = plan
  assert {
    condition     = toset(keys(output.functions)) == toset(["publish", "receive", "console"])
    error_message = "The functions are not publish, receive and console."
  }
  assert {
    condition     = alltrue([for f in output.functions : f.concurrency == 80 && f.cpu >= 1])
    error_message = "A function serves one request at a time, or several without the CPU that takes."
  }
  assert {
    condition     = alltrue([for name, f in output.functions : f.url == "https://${name}-123456789012.europe-west1.run.app"])
    error_message = "An address is not the deterministic one."
  }
  assert {
    condition     = output.functions["publish"].environment.PUBLISH_AUDIENCE == output.publish_url && output.functions["console"].environment.CONSOLE_AUDIENCE == output.console_url
    error_message = "An audience is not the function's address."
  }
  assert {
    condition     = alltrue([for name in ["publish", "console"] : output.functions[name].environment.PUBSUB_TOPIC == "inbox"])
    error_message = "A function publishes to another topic."
  }
  assert {
    condition     = !contains(keys(output.functions["console"].environment), "IAP_AUDIENCE")
    error_message = "An empty variable is set."
  }
  assert {
    condition     = output.deployment.runtime == "go126" && output.deployment.region == "europe-west1" && output.deployment.project == "demo-project" && output.deployment.invoker_check_off == false
    error_message = "What scripts/deploy is told is not what was asked for."
  }
  assert {
    condition     = length(google_cloud_scheduler_job.calendar) == 0 && !contains(keys(google_project_service.api), "cloudscheduler.googleapis.com")
    error_message = "The calendar's jobs are on."
  }
  assert {
    condition = { for k, p in google_monitoring_alert_policy.inbox : k => regex("metric.type = \"([^\"]+)\"", p.conditions[0].condition_threshold[0].filter)[0] } == {
      oldest           = "pubsub.googleapis.com/subscription/oldest_unacked_message_age"
      dead_letters     = "pubsub.googleapis.com/subscription/dead_letter_message_count"
      push_failures    = "pubsub.googleapis.com/subscription/push_request_count"
      refused          = "run.googleapis.com/request_count"
      console_failures = "run.googleapis.com/request_count"
      publish_failures = "run.googleapis.com/request_count"
    }
    error_message = "An alert is missing or reads another metric."
  }
  assert {
    condition     = alltrue([for k in ["oldest", "dead_letters", "push_failures"] : strcontains(google_monitoring_alert_policy.inbox[k].conditions[0].condition_threshold[0].filter, "subscription_id = one_of(\"inbox-push\")")])
    error_message = "An alert is on another subscription."
  }
  assert {
    condition     = alltrue([for k, codes in { console = "response_code_class = \"5xx\"", publish = "response_code = monitoring.regex.full_match(\"404|5[0-9][0-9]\")" } : endswith(google_monitoring_alert_policy.inbox["${k}_failures"].conditions[0].condition_threshold[0].filter, "service_name = one_of(\"${k}\") AND metric.type = \"run.googleapis.com/request_count\" AND metric.labels.${codes}")])
    error_message = "A function that answers 5xx, or a topic that was deleted, raises no alert."
  }
  assert {
    condition     = strcontains(google_monitoring_alert_policy.memory.conditions[0].condition_matched_log[0].filter, "(\"console\" OR \"publish\" OR \"receive\")") && strcontains(google_monitoring_alert_policy.memory.conditions[0].condition_matched_log[0].filter, "Memory limit of")
    error_message = "An instance that is ended for its memory raises no alert."
  }
  assert {
    condition     = alltrue([for k, p in google_monitoring_alert_policy.inbox : fileexists("${path.module}/../docs/alerts/${replace(k, "_", "-")}.md") && strcontains(p.documentation[0].content, "docs/alerts/${replace(k, "_", "-")}.md")]) && fileexists("${path.module}/../docs/alerts/memory.md")
    error_message = "An alert has no page, or does not name it."
  }
  assert {
    condition     = alltrue([for f in fileset("${path.module}/../docs/alerts", "*.md") : can(regex("^# [^\n]+\n\n```sh\ngo run ./scripts/pushinbox doctor --terraform terraform\n```\n", file("${path.module}/../docs/alerts/${f}")))])
    error_message = "The page of an alert does not begin with the doctor's command."
  }
  assert {
    condition     = output.functions["receive"].ingress == "internal-only" && output.functions["publish"].ingress == "all" && output.functions["console"].ingress == "all"
    error_message = "receive is open to the internet, or another function is not."
  }
  assert {
    condition     = output.api_url == output.console_url && length(output.functions["console"].iap_members) == 0 && output.functions["console"].source == "console"
    error_message = "The console is behind a proxy that was not asked for."
  }
  assert {
    condition     = output.deployment.labels == { managed-by = "push-inbox" }
    error_message = "What is deployed cannot be told from what others deployed."
  }
  assert {
    condition     = !strcontains(google_monitoring_dashboard.inbox.dashboard_json, "Pos\":0") && !strcontains(google_monitoring_dashboard.inbox.dashboard_json, "[]")
    error_message = "The dashboard has zeros or empty lists, which the API leaves out, so that every plan differs."
  }
  assert {
    condition     = strcontains(google_monitoring_alert_policy.inbox["push_failures"].conditions[0].condition_threshold[0].filter, "response_class != \"ack\"") && google_monitoring_alert_policy.inbox["push_failures"].conditions[0].condition_threshold[0].denominator_filter != null
    error_message = "The alert on failing pushes is not a share of all pushes."
  }
  assert {
    condition     = google_monitoring_alert_policy.inbox["dead_letters"].conditions[0].condition_threshold[0].threshold_value == 0
    error_message = "A single dead letter raises no alert."
  }
  assert {
    condition     = length(jsondecode(google_monitoring_dashboard.inbox.dashboard_json).mosaicLayout.tiles) == 8
    error_message = "The dashboard lacks charts."
  }
}

run "options" {
  command = plan
  variables {
    calendar          = {}
    iap_audience      = "/projects/123456789012/global/backendServices/1"
    invoker_check_off = true
    receive_ingress   = "all"
    alert_docs_url    = "https://example.com/alerts/"
    # The others are at limits of Google's.
    sizes = {
      receive  = { memory = "2Gi", max_instances = 100 }
      calendar = { cpu = 8, memory = "32Gi", concurrency = 1000 }
      console  = { cpu = 0.5, memory = "1Gi", concurrency = 1, min_instances = 1, max_instances = 1 }
      publish  = { cpu = 0.08, concurrency = 1 }
    }
    topic        = "events"
    subscription = "events-push"
    region       = "us-central1"
    notification_channels = [
      "projects/demo-project/notificationChannels/1",
    ]
  }

  assert {
    condition     = output.functions["receive"].memory == "2Gi" && output.functions["receive"].environment.GOMEMLIMIT == "1792MiB" && output.functions["publish"].environment.GOMEMLIMIT == "448MiB" && output.functions["receive"].max_instances == 100 && output.functions["receive"].concurrency == 80 && output.functions["publish"].memory == "512Mi"
    error_message = "Sizes are not what was asked for."
  }
  assert {
    condition     = output.functions["console"].environment.IAP_AUDIENCE == "/projects/123456789012/global/backendServices/1"
    error_message = "console does not know IAP's audience."
  }
  assert {
    condition     = output.deployment.invoker_check_off
    error_message = "scripts/deploy would grant allUsers."
  }
  assert {
    condition     = output.functions["receive"].ingress == "all" && strcontains(google_monitoring_alert_policy.inbox["oldest"].documentation[0].content, "https://example.com/alerts/oldest.md")
    error_message = "The ingress or the address of the alerts' pages is not what was asked for."
  }
  assert {
    condition     = output.functions["publish"].environment.PUBSUB_TOPIC == "events" && google_pubsub_topic.dead_letter.name == "events-dead-letter" && google_pubsub_subscription.push["main"].name == "events-push"
    error_message = "Names are not what was asked for."
  }
  assert {
    condition     = google_pubsub_subscription.push["main"].push_config[0].oidc_token[0].audience == "https://receive-123456789012.us-central1.run.app"
    error_message = "The audience does not follow the region."
  }
  assert {
    condition     = { for k, j in google_cloud_scheduler_job.calendar : k => j.http_target[0].uri } == { renew = "https://calendar-123456789012.us-central1.run.app/renew", sync = "https://calendar-123456789012.us-central1.run.app/sync" }
    error_message = "The calendar's jobs do not call its function."
  }
  assert {
    condition     = alltrue([for j in google_cloud_scheduler_job.calendar : j.http_target[0].oidc_token[0].audience == "https://calendar-123456789012.us-central1.run.app"])
    error_message = "The calendar's jobs are not signed for its function."
  }
  assert {
    condition     = alltrue([for p in google_monitoring_alert_policy.inbox : p.notification_channels == tolist(["projects/demo-project/notificationChannels/1"])])
    error_message = "Alerts reach nobody."
  }
}

# People come through Identity-Aware Proxy, programs to the same function without it.
run "console_iap" {
  command = plan
  variables {
    console_iap        = ["user:you@example.com", "group:team@example.com"]
    console_publishers = ["you@example.com"]
    console_readers    = ["support@example.com"]
    testers            = []
    publish_callers    = ["orders@example.com"]
  }

  assert {
    condition     = join(" ", output.functions["console"].iap_members) == "user:you@example.com group:team@example.com" && output.functions["console"].environment.IAP_AUDIENCE == "/projects/123456789012/locations/europe-west1/services/console"
    error_message = "The console is not behind the proxy, or does not know its audience."
  }
  assert {
    condition     = !contains(keys(output.functions["console"].environment), "CONSOLE_AUDIENCE") && !contains(keys(output.functions["console"].environment), "CONSOLE_READERS")
    error_message = "The console behind the proxy lets in tokens that the proxy never lets through."
  }
  assert {
    condition     = output.functions["api"].source == "console" && length(output.functions["api"].iap_members) == 0 && output.functions["api"].environment.CONSOLE_READERS == "support@example.com" && output.functions["api"].environment.CONSOLE_AUDIENCE == output.api_url && !contains(keys(output.functions["api"].environment), "IAP_AUDIENCE")
    error_message = "Programs cannot read."
  }
  assert {
    condition     = output.api_url == "https://api-123456789012.europe-west1.run.app" && output.console_url == "https://console-123456789012.europe-west1.run.app"
    error_message = "The addresses for people and for programs are not their own."
  }
  assert {
    condition     = alltrue([for name in ["api", "console"] : output.functions[name].environment.CONSOLE_PUBLISHERS == "you@example.com"])
    error_message = "Others than those named may publish."
  }
  assert {
    condition     = contains(keys(google_project_service.api), "iap.googleapis.com")
    error_message = "Identity-Aware Proxy is not enabled."
  }
  assert {
    condition     = strcontains(google_monitoring_alert_policy.inbox["console_failures"].conditions[0].condition_threshold[0].filter, "one_of(\"api\", \"console\")")
    error_message = "The same function without the proxy raises no alert."
  }
}

run "console_iap_alone" {
  command = plan
  variables {
    console_iap     = ["user:you@example.com"]
    testers         = []
    publish_callers = ["orders@example.com"]
  }

  assert {
    condition     = output.api_url == null && !contains(keys(output.functions), "api")
    error_message = "A function is deployed that nobody could call."
  }
  assert {
    condition     = !contains(keys(output.functions["console"].environment), "CONSOLE_PUBLISHERS")
    error_message = "Somebody may publish who was not named."
  }
}
