# Values that cannot be right are refused before anything is made.

mock_provider "google" {
  source = "./tests/mocks"
}

variables {
  project_id = "demo-project"
  testers    = ["user:you@example.com"]
}

# A plan takes half a second and names every variable that is wrong: each of these runs has
# one wrong value of each of many variables. A variable that is checked against another one
# is not checked while that is wrong, so that the two are not in one run.

run "wrong_1" {
  command = plan
  variables {
    # project number
    project_id = "123456789012"
    # ack deadline short
    ack_deadline_seconds = 9
    # calendar operator with prefix
    calendar = { operators = ["user:you@example.com,b"] }
    # reader with prefix
    console_readers = ["user:you @example.com"]
    # delivery operator without kind
    delivery_operators = ["oncall@example.com"]
    # deployer without kind
    deployers = ["you@example.com"]
    # filter too long
    filter = join("", [for i in range(257) : "x"])
    # database name
    firestore_database = "Inbox"
    # collection with slash
    inbox_collection = "a/b"
    # shards none
    inbox_shards = 0
    # ttl without unit
    inbox_ttl = "30"
    # attempts few
    max_delivery_attempts = 4
    # retention short
    message_retention = "599s"
    # mns without owner
    mns = { topic_owners = [] }
    # mns secret short
    mns_secret = "0123456789abcde"
    # channel id only
    notification_channels = ["123"]
    # caller with spaces
    publish_callers = ["a@example.com, b@example.com"]
    # zone
    region = "europe-west1-b"
    # backoff upside down
    retry_backoff_seconds = { minimum = 60, maximum = 10 }
    # subscription reserved
    subscription = "google-push"
    # token short
    verification_token = "0123456789abcdef"
    # publisher with kind
    console_publishers = ["user:a@example.com"]
    # another ingress
    receive_ingress = "internal"
    # secret version zero
    mns_secret_version = 0
    # token version half
    verification_token_version = 1.5
    # search attribute with a comma
    search_attributes = ["a,b"]
    # no bucket
    pipeline = { state_bucket = "" }
    # multi region of another service
    firestore_location = "EU"
  }

  expect_failures = [
    var.project_id,
    var.ack_deadline_seconds,
    var.calendar,
    var.console_readers,
    var.delivery_operators,
    var.deployers,
    var.filter,
    var.firestore_database,
    var.inbox_collection,
    var.inbox_shards,
    var.inbox_ttl,
    var.max_delivery_attempts,
    var.message_retention,
    var.mns,
    var.mns_secret,
    var.notification_channels,
    var.publish_callers,
    var.region,
    var.retry_backoff_seconds,
    var.subscription,
    var.verification_token,
    var.console_publishers,
    var.receive_ingress,
    var.mns_secret_version,
    var.verification_token_version,
    var.search_attributes,
    var.pipeline,
    var.firestore_location,
  ]
}

run "wrong_2" {
  command = plan
  variables {
    # ack deadline long
    ack_deadline_seconds = 601
    # calendar subject without domain
    calendar = { subject = "rooms" }
    # reader without domain
    console_readers = ["you"]
    # shards too many
    inbox_shards = 31
    # ttl in days
    inbox_ttl = "30d"
    # attempts many
    max_delivery_attempts = 101
    # retention long
    message_retention = "2678401s"
    # mns owner is no number
    mns = { topic_owners = ["me@example.com"] }
    # mns secret needs escape
    mns_secret = "0123456789abcdef/"
    # multi region
    region = "eu"
    # backoff too long
    retry_backoff_seconds = { minimum = 10, maximum = 601 }
    # subscription full name
    subscription = "projects/p/subscriptions/s"
    # token needs escape
    verification_token = "0123456789abcdef0123456789abcde&"
    # caller with kind
    publish_callers = ["serviceAccount:a@example.com"]
    # existing topic short name
    existing_topic = "events"
    # search attribute twice
    search_attributes = ["a", "a"]
    # marker collection path
    marker_collections = ["orders/1/done"]
    # bucket as an address
    pipeline = { state_bucket = "gs://x" }
    # two operators in one
    delivery_operators = ["user:a@example.com, user:b@example.com"]
    # deployer with a space
    deployers = ["user:a b"]
    # channel with a space
    notification_channels = ["projects/demo-project/notificationChannels/ 1"]
  }

  expect_failures = [
    var.ack_deadline_seconds,
    var.calendar,
    var.console_readers,
    var.inbox_shards,
    var.inbox_ttl,
    var.max_delivery_attempts,
    var.message_retention,
    var.mns,
    var.mns_secret,
    var.region,
    var.retry_backoff_seconds,
    var.subscription,
    var.verification_token,
    var.publish_callers,
    var.existing_topic,
    var.search_attributes,
    var.marker_collections,
    var.pipeline,
    var.delivery_operators,
    var.deployers,
    var.notification_channels,
  ]
}

run "wrong_3" {
  command = plan
  variables {
    # calendar site verification is content
    calendar = { site_verification = "google-site-verification: google0123.html" }
    # iap audience
    iap_audience = "projects/1/apps/x"
    # shards broken
    inbox_shards = 1.5
    # retention without unit
    message_retention = "86400"
    # mns topic with slash
    mns = { topic_owners = ["1"], topics = ["a/b"] }
    # tester without kind
    testers = ["you@example.com"]
    # topic full name
    topic = "projects/p/topics/t"
    # marker collection of the inbox
    marker_collections = ["messages-done"]
    # ack deadline broken
    ack_deadline_seconds = 10.5
    # attempts broken
    max_delivery_attempts = 5.5
    # ttl longer than Go counts
    inbox_ttl = "2562048h"
    # backoff of nothing
    retry_backoff_seconds = { minimum = null, maximum = 600 }
    # bucket of nothing
    pipeline = { state_bucket = null }
    # deployer without a pool
    deployers = ["principal:you@example.com"]
  }

  expect_failures = [
    var.calendar,
    var.iap_audience,
    var.inbox_shards,
    var.message_retention,
    var.mns,
    var.testers,
    var.topic,
    var.marker_collections,
    var.ack_deadline_seconds,
    var.max_delivery_attempts,
    var.inbox_ttl,
    var.retry_backoff_seconds,
    var.pipeline,
    var.deployers,
  ]
}

run "wrong_4" {
  command = plan
  variables {
    # mns topic with underscore
    mns = { topic_owners = ["1"], topics = ["a_b"] }
    # topic reserved
    topic = "google"
    # iap without kind
    console_iap = ["a@example.com"]
    # caller with capitals
    publish_callers = ["Ada@example.com"]
    # operator with kind
    calendar = { operators = ["user:a@example.com"] }
    # marker collection of calendars
    marker_collections = ["calendars"]
    # retention with an exponent
    message_retention = "1e3s"
  }

  expect_failures = [
    var.mns,
    var.topic,
    var.console_iap,
    var.publish_callers,
    var.calendar,
    var.marker_collections,
    var.message_retention,
  ]
}

run "wrong_5" {
  command = plan
  variables {
    # mns subscription with underscore
    mns = { topic_owners = ["1"], subscriptions = ["a_b"] }
    # reader in quotes
    console_readers = ["\"a@example.com\""]
    # another form
    more_subscriptions = { orders = { form = "json" } }
    # dead letters in a circle
    existing_topic = "projects/demo-project/topics/inbox-dead-letter"
    # multi region
    calendar = { scheduler_region = "eu" }
    # marker collection of nothing
    marker_collections = [null]
  }

  expect_failures = [
    var.mns,
    var.console_readers,
    var.more_subscriptions,
    var.existing_topic,
    var.calendar,
    var.marker_collections,
  ]
}

run "wrong_6" {
  command = plan
  variables {
    # mns subscription with comma
    mns = { topic_owners = ["1"], subscriptions = ["a,b"] }
    # subscription twice
    more_subscriptions = { inbox-push = {} }
    # iap for a domain
    console_iap = ["domain:example.com"]
    # tester with a space
    testers = ["user: you@example.com"]
  }

  expect_failures = [
    var.mns,
    var.more_subscriptions,
    var.console_iap,
    var.testers,
  ]
}

run "wrong_7" {
  command = plan
  variables {
    # mns pin of sha1
    mns = { topic_owners = ["1"], certificate_pins = ["0123456789abcdef0123456789abcdef01234567"] }
    # subscription of short topic
    more_subscriptions = { orders = { topic = "orders" } }
    # iap two in one
    console_iap = ["user:a@example.com,user:b@example.com"]
    # tester with a space in the domain
    testers = ["user:you@example .com"]
  }

  expect_failures = [
    var.mns,
    var.more_subscriptions,
    var.console_iap,
    var.testers,
  ]
}

run "wrong_8" {
  command = plan
  variables {
    # mns body in hex
    mns = { topic_owners = ["1"], body = "hex" }
    # subscription deadline broken
    more_subscriptions = { orders = { ack_deadline_seconds = 10.5 } }
    # iap with a tab
    console_iap = ["user:a@example.com\t"]
  }

  expect_failures = [
    var.mns,
    var.more_subscriptions,
    var.console_iap,
  ]
}

# Of these there is nothing left to share a run with, or a value is wrong for another.

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
    # owners of nothing
    mns = { topic_owners = null }
    # iap audience with a space
    iap_audience = "/projects/1/apps/x "
  }

  expect_failures = [
    var.subscription,
    var.mns,
    var.iap_audience,
  ]
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
    functions = { orders = { ack_deadline_seconds = 10.5 } }
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

run "function_environment_of_nothing" {
  command = plan
  variables {
    functions = { orders = { environment = { A = null } } }
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

run "function_size" {
  command = plan
  variables {
    functions = { orders = { size = { max_instances = 0 } } }
  }

  expect_failures = [var.sizes]
}

run "nobody_reads" {
  command = plan
  variables {
    testers         = []
    publish_callers = ["a@example.com"]
  }

  expect_failures = [var.console_readers]
}

run "paused_by_name" {
  command = plan
  variables {
    paused = ["inbox-push"]
  }

  expect_failures = [var.paused]
}

run "nobody_publishes" {
  command = plan
  variables {
    testers         = []
    console_readers = ["a@example.com"]
  }

  expect_failures = [var.publish_callers]
}

run "size_min_instances_below_zero" {
  command = plan
  variables {
    sizes = { receive = { min_instances = -1 } }
  }

  expect_failures = [var.sizes]
}

run "size_max_instances_broken" {
  command = plan
  variables {
    sizes = { receive = { max_instances = 2.5 } }
  }

  expect_failures = [var.sizes]
}

run "size_min_above_max_instances" {
  command = plan
  variables {
    sizes = { receive = { min_instances = 30 } }
  }

  expect_failures = [var.sizes]
}

run "size_concurrency_zero" {
  command = plan
  variables {
    sizes = { receive = { concurrency = 0 } }
  }

  expect_failures = [var.sizes]
}

run "size_concurrency_high" {
  command = plan
  variables {
    sizes = { receive = { concurrency = 1001 } }
  }

  expect_failures = [var.sizes]
}

run "size_cpu_between" {
  command = plan
  variables {
    sizes = { receive = { cpu = 3 } }
  }

  expect_failures = [var.sizes]
}

run "size_cpu_small" {
  command = plan
  variables {
    sizes = { receive = { cpu = 0.07, concurrency = 1 } }
  }

  expect_failures = [var.sizes]
}

run "size_concurrency_without_cpu" {
  command = plan
  variables {
    sizes = { receive = { cpu = 0.5 } }
  }

  expect_failures = [var.sizes]
}

run "size_memory_without_unit" {
  command = plan
  variables {
    sizes = { receive = { memory = "512" } }
  }

  expect_failures = [var.sizes]
}

run "size_memory_small" {
  command = plan
  variables {
    sizes = { receive = { memory = "127Mi" } }
  }

  expect_failures = [var.sizes]
}

run "size_memory_without_cpus" {
  command = plan
  variables {
    sizes = { receive = { memory = "5Gi" } }
  }

  expect_failures = [var.sizes]
}

run "size_cpus_without_memory" {
  command = plan
  variables {
    sizes = { receive = { cpu = 4 } }
  }

  expect_failures = [var.sizes]
}

run "size_memory_of_a_part_of_a_cpu" {
  command = plan
  variables {
    sizes = { receive = { cpu = 0.4, concurrency = 1, memory = "1Gi" } }
  }

  expect_failures = [var.sizes]
}

run "size_of_nothing" {
  command = plan
  variables {
    sizes = { recieve = {} }
  }

  expect_failures = [var.sizes]
}

run "iap_twice" {
  command = plan
  variables {
    console_iap  = ["user:a@example.com"]
    iap_audience = "/projects/1/global/backendServices/1"
  }
  expect_failures = [var.console_iap]
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

run "null_is_the_default" {
  command = plan
  variables {
    ack_deadline_seconds       = null
    alert_docs_url             = null
    console_delivery           = null
    console_iap                = null
    console_publishers         = null
    console_readers            = null
    create_database            = null
    database_delete_protection = null
    delivery_operators         = null
    deployers                  = null
    enable_message_ordering    = null
    firestore_database         = null
    functions                  = null
    iap_audience               = null
    inbox_collection           = null
    inbox_shards               = null
    inbox_ttl                  = null
    invoker_check_off          = null
    marker_collections         = null
    max_delivery_attempts      = null
    message_retention          = null
    mns_secret_version         = null
    more_subscriptions         = null
    notification_channels      = null
    paused                     = null
    publish_callers            = null
    receive_ingress            = null
    region                     = null
    retry_backoff_seconds      = null
    search_attributes          = null
    sizes                      = null
    subscription               = null
    topic                      = null
    unwrapped                  = null
    verification_token_version = null
  }

  assert {
    condition     = output.functions["receive"].max_instances == 20 && output.functions["receive"].timeout_seconds == 60 && output.functions["receive"].ingress == "internal-only"
    error_message = "A variable that is null is not its default."
  }
}
