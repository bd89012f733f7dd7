# Values that cannot be right are refused before anything is made.

mock_provider "google" {
  source = "./tests/mocks"
}

variables {
  project_id = "demo-project"
  testers    = ["user:you@example.com"]
}

run "project_number" {
  command = plan
  variables {
    project_id = "123456789012"
  }

  expect_failures = [var.project_id]
}

run "ack_deadline_short" {
  command = plan
  variables {
    ack_deadline_seconds = 9
  }

  expect_failures = [var.ack_deadline_seconds]
}

run "ack_deadline_long" {
  command = plan
  variables {
    ack_deadline_seconds = 601
  }

  expect_failures = [var.ack_deadline_seconds]
}

run "calendar_operator_with_prefix" {
  command = plan
  variables {
    calendar = { operators = ["user:you@example.com,b"] }
  }

  expect_failures = [var.calendar]
}

run "calendar_subject_without_domain" {
  command = plan
  variables {
    calendar = { subject = "rooms" }
  }

  expect_failures = [var.calendar]
}

run "calendar_site_verification_is_content" {
  command = plan
  variables {
    calendar = { site_verification = "google-site-verification: google0123.html" }
  }

  expect_failures = [var.calendar]
}

run "reader_with_prefix" {
  command = plan
  variables {
    console_readers = ["user:you @example.com"]
  }

  expect_failures = [var.console_readers]
}

run "reader_without_domain" {
  command = plan
  variables {
    console_readers = ["you"]
  }

  expect_failures = [var.console_readers]
}

run "nobody_reads" {
  command = plan
  variables {
    testers         = []
    publish_callers = ["a@example.com"]
  }

  expect_failures = [var.console_readers]
}

run "delivery_operator_without_kind" {
  command = plan
  variables {
    delivery_operators = ["oncall@example.com"]
  }

  expect_failures = [var.delivery_operators]
}

run "deployer_without_kind" {
  command = plan
  variables {
    deployers = ["you@example.com"]
  }

  expect_failures = [var.deployers]
}

run "paused_by_name" {
  command = plan
  variables {
    paused = ["inbox-push"]
  }

  expect_failures = [var.paused]
}

run "filter_too_long" {
  command = plan
  variables {
    filter = join("", [for i in range(257) : "x"])
  }

  expect_failures = [var.filter]
}

run "database_name" {
  command = plan
  variables {
    firestore_database = "Inbox"
  }

  expect_failures = [var.firestore_database]
}

run "iap_audience" {
  command = plan
  variables {
    iap_audience = "projects/1/apps/x"
  }

  expect_failures = [var.iap_audience]
}

run "collection_with_slash" {
  command = plan
  variables {
    inbox_collection = "a/b"
  }

  expect_failures = [var.inbox_collection]
}

run "shards_none" {
  command = plan
  variables {
    inbox_shards = 0
  }

  expect_failures = [var.inbox_shards]
}

run "shards_too_many" {
  command = plan
  variables {
    inbox_shards = 31
  }

  expect_failures = [var.inbox_shards]
}

run "shards_broken" {
  command = plan
  variables {
    inbox_shards = 1.5
  }

  expect_failures = [var.inbox_shards]
}

run "ttl_without_unit" {
  command = plan
  variables {
    inbox_ttl = "30"
  }

  expect_failures = [var.inbox_ttl]
}

run "ttl_in_days" {
  command = plan
  variables {
    inbox_ttl = "30d"
  }

  expect_failures = [var.inbox_ttl]
}

run "attempts_few" {
  command = plan
  variables {
    max_delivery_attempts = 4
  }

  expect_failures = [var.max_delivery_attempts]
}

run "attempts_many" {
  command = plan
  variables {
    max_delivery_attempts = 101
  }

  expect_failures = [var.max_delivery_attempts]
}

run "retention_short" {
  command = plan
  variables {
    message_retention = "599s"
  }

  expect_failures = [var.message_retention]
}

run "retention_long" {
  command = plan
  variables {
    message_retention = "2678401s"
  }

  expect_failures = [var.message_retention]
}

run "retention_without_unit" {
  command = plan
  variables {
    message_retention = "86400"
  }

  expect_failures = [var.message_retention]
}

run "mns_without_owner" {
  command = plan
  variables {
    mns = { topic_owners = [] }
  }

  expect_failures = [var.mns]
}

run "mns_owner_is_no_number" {
  command = plan
  variables {
    mns = { topic_owners = ["me@example.com"] }
  }

  expect_failures = [var.mns]
}

run "mns_topic_with_slash" {
  command = plan
  variables {
    mns = { topic_owners = ["1"], topics = ["a/b"] }
  }

  expect_failures = [var.mns]
}

run "mns_topic_with_underscore" {
  command = plan
  variables {
    mns = { topic_owners = ["1"], topics = ["a_b"] }
  }

  expect_failures = [var.mns]
}

run "mns_subscription_with_underscore" {
  command = plan
  variables {
    mns = { topic_owners = ["1"], subscriptions = ["a_b"] }
  }

  expect_failures = [var.mns]
}

run "mns_subscription_with_comma" {
  command = plan
  variables {
    mns = { topic_owners = ["1"], subscriptions = ["a,b"] }
  }

  expect_failures = [var.mns]
}

run "mns_pin_of_sha1" {
  command = plan
  variables {
    mns = { topic_owners = ["1"], certificate_pins = ["0123456789abcdef0123456789abcdef01234567"] }
  }

  expect_failures = [var.mns]
}

run "mns_body_in_hex" {
  command = plan
  variables {
    mns = { topic_owners = ["1"], body = "hex" }
  }

  expect_failures = [var.mns]
}

run "mns_secret_short" {
  command = plan
  variables {
    mns_secret = "0123456789abcde"
  }

  expect_failures = [var.mns_secret]
}

run "mns_secret_needs_escape" {
  command = plan
  variables {
    mns_secret = "0123456789abcdef/"
  }

  expect_failures = [var.mns_secret]
}

run "channel_id_only" {
  command = plan
  variables {
    notification_channels = ["123"]
  }

  expect_failures = [var.notification_channels]
}

run "caller_with_spaces" {
  command = plan
  variables {
    publish_callers = ["a@example.com, b@example.com"]
  }

  expect_failures = [var.publish_callers]
}

run "nobody_publishes" {
  command = plan
  variables {
    testers         = []
    console_readers = ["a@example.com"]
  }

  expect_failures = [var.publish_callers]
}

run "zone" {
  command = plan
  variables {
    region = "europe-west1-b"
  }

  expect_failures = [var.region]
}

run "multi_region" {
  command = plan
  variables {
    region = "eu"
  }

  expect_failures = [var.region]
}

run "backoff_upside_down" {
  command = plan
  variables {
    retry_backoff_seconds = { minimum = 60, maximum = 10 }
  }

  expect_failures = [var.retry_backoff_seconds]
}

run "backoff_too_long" {
  command = plan
  variables {
    retry_backoff_seconds = { minimum = 10, maximum = 601 }
  }

  expect_failures = [var.retry_backoff_seconds]
}

run "size_of_nothing" {
  command = plan
  variables {
    sizes = { recieve = {} }
  }

  expect_failures = [var.sizes]
}

run "concurrency_without_cpu" {
  command = plan
  variables {
    sizes = { receive = { cpu = 0.5 } }
  }

  expect_failures = [var.sizes]
}

run "memory_without_unit" {
  command = plan
  variables {
    sizes = { receive = { memory = "512" } }
  }

  expect_failures = [var.sizes]
}

run "more_than_the_most" {
  command = plan
  variables {
    sizes = { receive = { min_instances = 30 } }
  }

  expect_failures = [var.sizes]
}

run "subscription_reserved" {
  command = plan
  variables {
    subscription = "google-push"
  }

  expect_failures = [var.subscription]
}

run "subscription_full_name" {
  command = plan
  variables {
    subscription = "projects/p/subscriptions/s"
  }

  expect_failures = [var.subscription]
}

run "tester_without_kind" {
  command = plan
  variables {
    testers = ["you@example.com"]
  }

  expect_failures = [var.testers]
}

run "topic_full_name" {
  command = plan
  variables {
    topic = "projects/p/topics/t"
  }

  expect_failures = [var.topic]
}

run "topic_reserved" {
  command = plan
  variables {
    topic = "google"
  }

  expect_failures = [var.topic]
}

run "token_short" {
  command = plan
  variables {
    verification_token = "0123456789abcdef"
  }

  expect_failures = [var.verification_token]
}

run "token_needs_escape" {
  command = plan
  variables {
    verification_token = "0123456789abcdef0123456789abcde&"
  }

  expect_failures = [var.verification_token]
}

run "iap_twice" {
  command = plan
  variables {
    console_iap  = ["user:a@example.com"]
    iap_audience = "/projects/1/global/backendServices/1"
  }
  expect_failures = [var.console_iap]
}

run "iap_without_kind" {
  command = plan
  variables {
    console_iap = ["a@example.com"]
  }
  expect_failures = [var.console_iap]
}

run "caller_with_kind" {
  command = plan
  variables {
    publish_callers = ["serviceAccount:a@example.com"]
  }
  expect_failures = [var.publish_callers]
}

run "caller_with_capitals" {
  command = plan
  variables {
    publish_callers = ["Ada@example.com"]
  }
  expect_failures = [var.publish_callers]
}

run "reader_in_quotes" {
  command = plan
  variables {
    console_readers = ["\"a@example.com\""]
  }
  expect_failures = [var.console_readers]
}

run "operator_with_kind" {
  command = plan
  variables {
    calendar = { operators = ["user:a@example.com"] }
  }
  expect_failures = [var.calendar]
}

run "publisher_with_kind" {
  command = plan
  variables {
    console_publishers = ["user:a@example.com"]
  }
  expect_failures = [var.console_publishers]
}

run "existing_topic_short_name" {
  command = plan
  variables {
    existing_topic = "events"
  }
  expect_failures = [var.existing_topic]
}

run "another_form" {
  command = plan
  variables {
    more_subscriptions = { orders = { form = "json" } }
  }
  expect_failures = [var.more_subscriptions]
}

run "subscription_twice" {
  command = plan
  variables {
    more_subscriptions = { inbox-push = {} }
  }
  expect_failures = [var.more_subscriptions]
}

run "subscription_of_short_topic" {
  command = plan
  variables {
    more_subscriptions = { orders = { topic = "orders" } }
  }
  expect_failures = [var.more_subscriptions]
}

run "subscription_too_patient" {
  command = plan
  variables {
    more_subscriptions = { orders = { ack_deadline_seconds = 601 } }
  }
  expect_failures = [var.more_subscriptions]
}

run "another_ingress" {
  command = plan
  variables {
    receive_ingress = "internal"
  }
  expect_failures = [var.receive_ingress]
}

run "secret_version_zero" {
  command = plan
  variables {
    mns_secret_version = 0
  }
  expect_failures = [var.mns_secret_version]
}

run "token_version_half" {
  command = plan
  variables {
    verification_token_version = 1.5
  }
  expect_failures = [var.verification_token_version]
}

run "iap_for_a_domain" {
  command = plan
  variables {
    console_iap = ["domain:example.com"]
  }
  expect_failures = [var.console_iap]
}

run "iap_two_in_one" {
  command = plan
  variables {
    console_iap = ["user:a@example.com,user:b@example.com"]
  }
  expect_failures = [var.console_iap]
}

run "dead_letters_in_a_circle" {
  command = plan
  variables {
    existing_topic = "projects/demo-project/topics/inbox-dead-letter"
  }
  expect_failures = [var.existing_topic]
}

run "dead_letters_in_a_further_circle" {
  command = plan
  variables {
    more_subscriptions = { orders = { topic = "projects/demo-project/topics/inbox-dead-letter" } }
  }
  expect_failures = [var.more_subscriptions]
}

run "subscription_of_dead_letters" {
  command = plan
  variables {
    subscription = "inbox-dead-letter"
  }
  expect_failures = [var.subscription]
}

run "search_attribute_with_a_comma" {
  command = plan
  variables {
    search_attributes = ["a,b"]
  }

  expect_failures = [var.search_attributes]
}

run "search_attribute_twice" {
  command = plan
  variables {
    search_attributes = ["a", "a"]
  }

  expect_failures = [var.search_attributes]
}

run "function_name_upper" {
  command = plan
  variables {
    functions = { Orders = {} }
  }

  expect_failures = [var.functions]
}

run "function_name_long" {
  command = plan
  variables {
    functions = { abcdefghijklmnopqrstuvwxy = {} }
  }

  expect_failures = [var.functions]
}

run "function_name_of_this_module" {
  command = plan
  variables {
    functions = { receive = {} }
  }

  expect_failures = [var.functions]
}

run "function_name_of_a_function_that_is_off" {
  command = plan
  variables {
    functions = { calendar = {} }
  }

  expect_failures = [var.functions]
}

run "function_name_of_an_account" {
  command = plan
  variables {
    functions = { push = {} }
  }

  expect_failures = [var.functions]
}

run "function_with_the_dead_letters_subscription" {
  command = plan
  variables {
    functions = { dead-letter = {} }
  }

  expect_failures = [var.functions]
}

run "function_form" {
  command = plan
  variables {
    functions = { orders = { form = "json" } }
  }

  expect_failures = [var.functions]
}

run "function_deadline" {
  command = plan
  variables {
    functions = { orders = { ack_deadline_seconds = 601 } }
  }

  expect_failures = [var.functions]
}

run "function_topic" {
  command = plan
  variables {
    functions = { orders = { topic = "orders" } }
  }

  expect_failures = [var.functions]
}

run "function_of_dead_letters" {
  command = plan
  variables {
    functions = { orders = { topic = "projects/demo-project/topics/inbox-dead-letter" } }
  }

  expect_failures = [var.functions]
}

run "function_environment_of_this_module" {
  command = plan
  variables {
    functions = { orders = { environment = { PUSH_AUDIENCE = "https://example.com" } } }
  }

  expect_failures = [var.functions]
}

run "function_secret_of_this_module" {
  command = plan
  variables {
    functions = { orders = { secrets = { PUBSUB_VERIFICATION_TOKEN = { secret = "token" } } } }
  }

  expect_failures = [var.functions]
}

run "function_environment_name" {
  command = plan
  variables {
    functions = { orders = { environment = { "A-B" = "1" } } }
  }

  expect_failures = [var.functions]
}

run "function_variable_twice" {
  command = plan
  variables {
    functions = { orders = { environment = { A = "1" }, secrets = { A = { secret = "a" } } } }
  }

  expect_failures = [var.functions]
}

run "function_secret_version" {
  command = plan
  variables {
    functions = { orders = { secrets = { A = { secret = "a", version = "0" } } } }
  }

  expect_failures = [var.functions]
}

run "function_cpu" {
  command = plan
  variables {
    functions = { orders = { size = { cpu = 0.5 } } }
  }

  expect_failures = [var.functions]
}

run "function_memory" {
  command = plan
  variables {
    functions = { orders = { size = { memory = "512" } } }
  }

  expect_failures = [var.functions]
}

run "function_instances" {
  command = plan
  variables {
    functions = { orders = { size = { min_instances = 30 } } }
  }

  expect_failures = [var.functions]
}

run "function_with_the_subscription_of_another" {
  command = plan
  variables {
    functions          = { orders = {} }
    more_subscriptions = { inbox-orders = {} }
  }

  expect_failures = [var.functions]
}

run "function_with_the_key_of_another" {
  command = plan
  variables {
    functions          = { orders = {} }
    more_subscriptions = { orders = {} }
  }

  expect_failures = [var.functions]
}

run "function_with_the_first_subscription" {
  command = plan
  variables {
    functions    = { orders = {} }
    subscription = "inbox-orders"
  }

  expect_failures = [var.functions]
}

run "size_of_a_function_of_ones_own" {
  command = plan
  variables {
    functions = { orders = {} }
    sizes     = { orders = { memory = "1Gi" } }
  }

  expect_failures = [var.sizes]
}

run "marker_collection_path" {
  command = plan
  variables {
    marker_collections = ["orders/1/done"]
  }

  expect_failures = [var.marker_collections]
}

run "marker_collection_of_the_inbox" {
  command = plan
  variables {
    marker_collections = ["messages-done"]
  }

  expect_failures = [var.marker_collections]
}

run "marker_collection_of_calendars" {
  command = plan
  variables {
    marker_collections = ["calendars"]
  }

  expect_failures = [var.marker_collections]
}
