variable "ack_deadline_seconds" {
  description = "How long Pub/Sub waits for an answer to a push, and how long a request to `receive` may take."
  type        = number
  default     = 60
  nullable    = false

  validation {
    condition     = contains(range(10, 601), var.ack_deadline_seconds)
    error_message = "ack_deadline_seconds must be a whole number from 10 to 600, Pub/Sub's limits."
  }
}

variable "alert_docs_url" {
  description = "Where the pages on alerts are for who gets one: a URL, such as \"https://github.com/you/pushinbox/blob/main/docs/alerts\", or the folder in this repository."
  type        = string
  default     = "docs/alerts"
  nullable    = false
}

variable "calendar" {
  description = "Creates what the `calendar` function needs, so that it can be deployed; null creates none of it. operators are the e-mail addresses of accounts that may watch and stop calendars. subject is the user whose calendars are read by domain-wide delegation; without one the calendars must be shared with the function's account. site_verification is the name of Google's verification file, google....html. renew_schedule and sync_schedule say when channels are renewed and the safety sync runs, as cron expressions in UTC. scheduler_region is for regions that have no Cloud Scheduler."
  type = object({
    operators         = optional(list(string), [])
    renew_schedule    = optional(string, "17 */6 * * *")
    scheduler_region  = optional(string)
    site_verification = optional(string, "")
    subject           = optional(string, "")
    sync_schedule     = optional(string, "*/30 * * * *")
  })
  default = null

  validation {
    condition     = alltrue([for e in concat(try(var.calendar.operators, []), compact([try(var.calendar.subject, "")])) : can(regex(local.email_pattern, e))])
    error_message = "calendar.operators and calendar.subject must be e-mail addresses in lower case without a prefix such as \"user:\"."
  }
  validation {
    condition     = can(regex(local.region_pattern, coalesce(try(var.calendar.scheduler_region, null), "europe-west1")))
    error_message = "calendar.scheduler_region must be a region such as \"europe-west1\", not a zone or a multi-region."
  }
  validation {
    condition     = try(var.calendar.site_verification, "") == "" || can(regex("^google[0-9a-f]{1,64}\\.html$", var.calendar.site_verification))
    error_message = "calendar.site_verification must be the name of Google's file, such as \"google0123456789abcdef.html\"."
  }
}

variable "console_delivery" {
  description = "Whether the console shows how the delivery goes and what `receive` refused. For that its account may read the settings of the subscriptions, a log of refusals that is kept for it, and, since there is nothing narrower, all numbers of the project in Cloud Monitoring. false takes all of that away."
  type        = bool
  default     = true
  nullable    = false
}

variable "console_iap" {
  description = "Who opens the console in a browser, such as \"user:you@example.com\" or \"group:team@example.com\", by Identity-Aware Proxy directly on its service. The proxy stops programs, so console_readers and testers then get the same function at api_url. Publishing under the proxy takes an address in console_publishers."
  type        = list(string)
  default     = []
  nullable    = false

  validation {
    condition     = alltrue([for m in var.console_iap : can(regex(local.member_pattern, m)) && can(regex("^(user|group):", m))])
    error_message = "console_iap must be people and groups, whom scripts/deploy can let in and keep out again, such as \"user:a@example.com\" or \"group:b@example.com\", each an item of its own without spaces."
  }
  validation {
    condition     = length(var.console_iap) == 0 || var.iap_audience == ""
    error_message = "console_iap puts Identity-Aware Proxy on the service itself and knows its audience; iap_audience is for a proxy on a load balancer. Set one of them."
  }
}

variable "console_publishers" {
  description = "E-mail addresses of accounts that may publish and replay through the console. Empty means the readers with an ID token, and nobody who comes through Identity-Aware Proxy."
  type        = list(string)
  default     = []
  nullable    = false

  validation {
    condition     = alltrue([for e in var.console_publishers : can(regex(local.email_pattern, e))])
    error_message = "console_publishers must be e-mail addresses in lower case without a prefix such as \"user:\"."
  }
}

variable "console_readers" {
  description = "E-mail addresses of accounts that may read through `console` with a Google ID token, and publish where console_publishers is empty. Not needed where Identity-Aware Proxy stands in front, see console_iap."
  type        = list(string)
  default     = []
  nullable    = false

  validation {
    condition     = alltrue([for e in var.console_readers : can(regex(local.email_pattern, e))])
    error_message = "console_readers must be e-mail addresses in lower case without a prefix such as \"user:\"."
  }
  validation {
    condition     = length(var.console_readers) + length(var.testers) + length(var.console_iap) > 0 || var.iap_audience != ""
    error_message = "Nobody could read the inbox, and `console` refuses to start like that: set console_readers, testers, console_iap or iap_audience."
  }
}

variable "create_database" {
  description = "Whether to create the Firestore database; false uses the one that firestore_database names."
  type        = bool
  default     = true
  nullable    = false
}

variable "database_delete_protection" {
  description = "Whether Firestore refuses to delete the database that is created here."
  type        = bool
  default     = true
  nullable    = false
}

variable "delivery_operators" {
  description = "Who may run `pushinbox delivery pause | resume` and `pushinbox dead-letters` without owning the project, such as \"group:oncall@example.com\". They may change the subscriptions made here and read what waits in them, act as the push account, read verification_token, and, since Firestore has nothing narrower, change what is in the inbox's database."
  type        = set(string)
  default     = []
  nullable    = false

  validation {
    condition     = alltrue([for m in var.delivery_operators : can(regex(local.member_pattern, m))])
    error_message = "delivery_operators must be principals, each an item of its own: user:, group: or serviceAccount: with an address, principal:// or principalSet://."
  }
}

variable "deployers" {
  description = "Who may apply this and run scripts/deploy without owning the project, such as \"group:team@example.com\": they get to act as the accounts created here."
  type        = set(string)
  default     = []
  nullable    = false

  validation {
    condition     = alltrue([for m in var.deployers : can(regex(local.member_pattern, m))])
    error_message = "deployers must be principals, each an item of its own: user:, group: or serviceAccount: with an address, principal:// or principalSet://."
  }
}

variable "enable_message_ordering" {
  description = "Whether messages of one ordering key are pushed one at a time and in order. Changing it replaces the subscription, which loses its backlog."
  type        = bool
  default     = false
  nullable    = false
}

variable "existing_topic" {
  description = "Full name of a topic of somebody else, perhaps of another project, to be used in place of one created here: projects/PROJECT/topics/TOPIC. Who applies needs pubsub.topics.attachSubscription on it. Subscriptions and dead letters stay in this project. What `publish` and `console` may publish there its owner grants to their accounts."
  type        = string
  default     = null

  validation {
    condition     = var.existing_topic == null || can(regex(local.topic_pattern, var.existing_topic))
    error_message = "existing_topic must be a full name, projects/PROJECT/topics/TOPIC."
  }
  validation {
    condition     = var.existing_topic != "projects/${var.project_id}/topics/${var.topic}-dead-letter"
    error_message = "existing_topic is the dead-letter topic of this module: a message that is refused would go round for ever."
  }
}

variable "filter" {
  description = "Which messages are pushed, by their attributes, in Pub/Sub's filter syntax; the others are lost to this subscription. Changing it replaces the subscription, which loses its backlog."
  type        = string
  default     = null

  validation {
    condition     = length(coalesce(var.filter, "-")) <= 256
    error_message = "filter must be at most 256 bytes, Pub/Sub's limit."
  }
}

variable "firestore_database" {
  description = "Name of the Firestore database. Only the default one has a free quota."
  type        = string
  default     = "(default)"
  nullable    = false

  validation {
    condition     = var.firestore_database == "(default)" || can(regex("^[a-z][a-z0-9-]{2,61}[a-z0-9]$", var.firestore_database))
    error_message = "firestore_database must be \"(default)\", or 4 to 63 lower-case letters, digits and hyphens that begin with a letter and end with a letter or digit."
  }
}

variable "firestore_location" {
  description = "Where the database is, such as \"nam5\", \"eur3\" or a region; null means region. It cannot be changed later."
  type        = string
  default     = null

  validation {
    condition     = can(regex("^[a-z]+(-[a-z]+)?[0-9]+$", coalesce(var.firestore_location, "eur3")))
    error_message = "firestore_location must be a location of Firestore, such as \"eur3\", \"nam5\" or \"europe-west1\"."
  }
}

variable "functions" {
  description = "Functions of your own, made with shared/process, by their name: a message is pushed to them by a subscription of their own, named \"inbox-NAME\", and they store it together with what it causes. topic is a topic's full name and by default the inbox's own; filter, form, enable_message_ordering and ack_deadline_seconds are as in more_subscriptions. environment are variables besides those that `receive` has; secrets are variables that come from a secret of yours in Secret Manager; size is as in sizes. Deploy each with scripts/deploy --function DIR NAME."
  type = map(object({
    ack_deadline_seconds    = optional(number)
    enable_message_ordering = optional(bool, false)
    environment             = optional(map(string), {})
    filter                  = optional(string)
    form                    = optional(string, "wrapped")
    secrets = optional(map(object({
      secret  = string
      version = optional(string, "latest")
    })), {})
    size = optional(object({
      memory        = optional(string)
      cpu           = optional(number)
      concurrency   = optional(number)
      min_instances = optional(number)
      max_instances = optional(number)
    }))
    topic = optional(string)
  }))
  default  = {}
  nullable = false

  validation {
    condition     = alltrue([for name in keys(var.functions) : can(regex("^[a-z][a-z0-9-]{0,22}[a-z0-9]$", name))])
    error_message = "The keys of functions are names of functions: 2 to 24 lower-case letters, digits and hyphens that begin with a letter and end with a letter or digit, so that \"inbox-NAME\" can be an account's."
  }
  validation {
    condition     = length(setintersection(keys(var.functions), local.taken_names)) == 0
    error_message = "functions has a name that belongs to this module: ${join(", ", local.taken_names)}."
  }
  validation {
    condition = length(setintersection(
      flatten([for name in keys(var.functions) : [name, "inbox-${name}"]]),
      concat(keys(var.more_subscriptions), [var.subscription, "${var.topic}-dead-letter"]),
    )) == 0
    error_message = "A function's subscription, \"inbox-NAME\", or its key must not be that of another subscription here."
  }
  validation {
    condition     = alltrue([for f in values(var.functions) : contains(["wrapped", "unwrapped", "bare"], f.form)])
    error_message = "form must be \"wrapped\", \"unwrapped\" or \"bare\"."
  }
  validation {
    condition     = alltrue([for f in values(var.functions) : contains(range(10, 601), coalesce(f.ack_deadline_seconds, 10))])
    error_message = "ack_deadline_seconds must be a whole number from 10 to 600, Pub/Sub's limits."
  }
  validation {
    condition     = alltrue([for f in values(var.functions) : length(coalesce(f.filter, "-")) <= 256])
    error_message = "filter must be at most 256 bytes, Pub/Sub's limit."
  }
  validation {
    condition     = alltrue([for f in values(var.functions) : f.topic == null || can(regex(local.topic_pattern, f.topic))])
    error_message = "topic must be a full name, projects/PROJECT/topics/TOPIC."
  }
  validation {
    condition     = alltrue([for f in values(var.functions) : f.topic != "projects/${var.project_id}/topics/${var.topic}-dead-letter"])
    error_message = "topic is the dead-letter topic of this module: a message that is refused would go round for ever."
  }
  validation {
    condition     = alltrue([for k in flatten([for f in values(var.functions) : concat(keys(f.environment), keys(f.secrets))]) : can(regex("^[A-Za-z_][A-Za-z0-9_]*$", k))])
    error_message = "The keys of environment and secrets are names of variables: letters, digits and underscores that do not begin with a digit."
  }
  validation {
    condition     = alltrue([for k in flatten([for f in values(var.functions) : concat(keys(f.environment), keys(f.secrets))]) : !can(regex("^(FIRESTORE_.*|FUNCTION_.*|GOMEMLIMIT|GOOGLE_CLOUD_PROJECT|INBOX_.*|K_.*|PORT|PUBSUB_.*|PUSH_.*|X_GOOGLE_.*)$", k))])
    error_message = "environment and secrets must not have a variable that this module or Google sets: FIRESTORE_*, FUNCTION_*, GOMEMLIMIT, GOOGLE_CLOUD_PROJECT, INBOX_*, K_*, PORT, PUBSUB_*, PUSH_*, X_GOOGLE_*."
  }
  validation {
    condition     = alltrue([for v in flatten([for f in values(var.functions) : values(f.environment)]) : v != null])
    error_message = "environment must have a text for each variable: leave out what has none."
  }
  validation {
    condition     = alltrue([for f in values(var.functions) : length(setintersection(keys(f.environment), keys(f.secrets))) == 0])
    error_message = "A variable is in environment and in secrets."
  }
  validation {
    condition     = alltrue([for s in flatten([for f in values(var.functions) : values(f.secrets)]) : can(regex("^[A-Za-z0-9_-]{1,255}$", s.secret)) && can(regex("^([1-9][0-9]*|latest)$", s.version))])
    error_message = "secret must be the ID of a secret of this project, and version its number or \"latest\"."
  }
}

variable "iap_audience" {
  description = "Audience of Identity-Aware Proxy's assertions, such as \"/projects/NUMBER/global/backendServices/ID\", when it stands in front of `console`."
  type        = string
  default     = ""
  nullable    = false

  validation {
    condition     = var.iap_audience == "" || can(regex("^/projects/[^,\\s\"]+$", var.iap_audience))
    error_message = "iap_audience must begin with \"/projects/\" and have no spaces."
  }
}

variable "inbox_collection" {
  description = "Firestore collection of the messages; its parts of large messages are in a second one with \"-chunks\" after the name."
  type        = string
  default     = "messages"
  nullable    = false

  validation {
    condition     = can(regex("^[A-Za-z][A-Za-z0-9_-]{0,62}$", var.inbox_collection))
    error_message = "inbox_collection must be 1 to 63 letters, digits, hyphens and underscores that begin with a letter."
  }
}

variable "inbox_shards" {
  description = "Over how many index ranges lists are spread, about 500 messages a second each. Raise it later if need be, never lower it: lists would not show all messages."
  type        = number
  default     = 16
  nullable    = false

  validation {
    condition     = contains(range(1, 31), var.inbox_shards)
    error_message = "inbox_shards must be a whole number from 1 to 30, the most that one Firestore query can read."
  }
}

variable "inbox_ttl" {
  description = "How long messages are kept, as Go writes durations."
  type        = string
  default     = "720h"
  nullable    = false

  validation {
    condition     = try([for t in [regex("^([1-9][0-9]*)(h|m|s)$", var.inbox_ttl)] : t[0] * { h = 3600, m = 60, s = 1 }[t[1]] <= 9223372036][0], false)
    error_message = "inbox_ttl must be a whole number of hours, minutes or seconds, such as \"720h\", and at most \"2562047h\", the longest duration in Go."
  }
}

variable "invoker_check_off" {
  description = "Let anyone invoke the functions by switching Cloud Run's own check off rather than by granting allUsers: scripts/deploy does that by itself where a policy forbids the grant. The functions verify every request themselves either way."
  type        = bool
  default     = false
  nullable    = false
}

variable "marker_collections" {
  description = "Firestore collections in which functions of your own keep the markers of process.Once, such as \"orders-done\": Firestore deletes each marker after its 32 days, and indexes none of its times. A policy is for all collections of a name."
  type        = set(string)
  default     = []
  nullable    = false

  validation {
    condition     = alltrue([for name in var.marker_collections : try(can(regex("^[A-Za-z][A-Za-z0-9_-]{0,127}$", name)) && !startswith(name, "messages"), false)])
    error_message = "marker_collections must be names of collections, not paths: 1 to 128 letters, digits, hyphens and underscores that begin with a letter, and not with \"messages\"."
  }
  validation {
    condition     = length([for name in var.marker_collections : name if try(name == var.inbox_collection || startswith(name, "${var.inbox_collection}-") || startswith(name, "calendars"), false)]) == 0
    error_message = "marker_collections must not be collections of the inbox, nor those of calendars."
  }
}

variable "max_delivery_attempts" {
  # The waits between pushes of one message grow from 10 s to 600 s. With 20
  # attempts they are over after about 2 h 20 min, so that a longer outage of
  # Firestore would turn the whole backlog into dead letters. 100 attempts, the most
  # that Pub/Sub allows, last about 15 h. What cannot be stored for its form does
  # not wait for that: it is refused, and the alerts tell within minutes.
  description = "After how many failed pushes a message goes to the dead-letter topic. 100 attempts take about 15 hours with the default backoff, the outage that a message then survives; 20 take about 2 h 20 min."
  type        = number
  default     = 100
  nullable    = false

  validation {
    condition     = contains(range(5, 101), var.max_delivery_attempts)
    error_message = "max_delivery_attempts must be a whole number from 5 to 100, Pub/Sub's limits."
  }
}

variable "message_retention" {
  description = "How long Pub/Sub keeps a message that is not yet pushed, and how far back the subscription can be moved, in seconds."
  type        = string
  default     = "604800s"
  nullable    = false

  validation {
    condition     = can(regex("^[0-9]+([.][0-9]{1,9})?s$", var.message_retention)) && try(tonumber(trimsuffix(var.message_retention, "s")) >= 600 && tonumber(trimsuffix(var.message_retention, "s")) <= 2678400, false)
    error_message = "message_retention must be \"600s\" to \"2678400s\" (31 days), Pub/Sub's limits."
  }
}

variable "mns" {
  description = "Creates what the `mns` function needs, so that it can be deployed; null creates none of it. topic_owners are the IDs of the Alibaba Cloud accounts whose topics may push, topics and subscriptions the names that may; none means all. certificate_pins are SHA-256 digests of the signing certificates that are trusted; none means any at MNS's addresses. body is \"base64\" where publishers encode the bodies, and can name topics and subscriptions: \"raw,TOPIC=base64,TOPIC/SUBSCRIPTION=raw\". MNS waits 5 seconds for an answer: sizes = { mns = { min_instances = 1 } } keeps it from waiting for a start."
  type = object({
    body             = optional(string, "raw")
    certificate_pins = optional(list(string), [])
    subscriptions    = optional(list(string), [])
    topic_owners     = list(string)
    topics           = optional(list(string), [])
  })
  default = null

  validation {
    condition     = var.mns == null || try(length(var.mns.topic_owners) > 0 && alltrue([for o in var.mns.topic_owners : can(regex("^[0-9]+$", o))]), false)
    error_message = "mns.topic_owners must be IDs of Alibaba Cloud accounts, which are numbers, at least one."
  }
  validation {
    condition     = alltrue([for n in concat(try(var.mns.topics, []), try(var.mns.subscriptions, [])) : can(regex("^[A-Za-z0-9-]{1,256}$", n))])
    error_message = "mns.topics and mns.subscriptions must be names of 1 to 256 letters, digits and hyphens."
  }
  validation {
    condition     = alltrue([for p in try(var.mns.certificate_pins, []) : can(regex("^[0-9A-Fa-f]{64}$", p))])
    error_message = "mns.certificate_pins must be SHA-256 digests of 64 hex digits."
  }
  validation {
    condition     = can(regex("^((|[A-Za-z0-9_-]+(/[A-Za-z0-9_-]+)?=)(raw|base64)(,|$))+$", try(var.mns.body, "raw"))) && !endswith(try(var.mns.body, "raw"), ",")
    error_message = "mns.body must be \"raw\" or \"base64\", for a topic \"TOPIC=base64\", for a subscription \"TOPIC/SUBSCRIPTION=base64\", or several of these with commas alone between them."
  }
}

variable "mns_secret" {
  description = "A shared secret that `mns` then wants as the last segment of the endpoint's path, or as ?token=. Set one: the key that MNS signs with has only 512 bits. It ends up in the subscription at Alibaba, and not in Terraform's state; raise mns_secret_version when it changes."
  type        = string
  default     = null
  sensitive   = true

  validation {
    condition     = var.mns_secret == null || can(regex("^[A-Za-z0-9._~-]{16,128}$", var.mns_secret))
    error_message = "mns_secret must be 16 to 128 letters, digits and -._~, so that it needs no escape in a URL; make one with: openssl rand -hex 32"
  }
}

variable "mns_secret_version" {
  description = "Raise it by one with each change of mns_secret: the secret itself is not in Terraform's state, so nothing else shows that it changed."
  type        = number
  default     = 1
  nullable    = false

  validation {
    condition     = var.mns_secret_version >= 1 && floor(var.mns_secret_version) == var.mns_secret_version
    error_message = "mns_secret_version must be a whole number from 1."
  }
}

variable "more_subscriptions" {
  description = "Further push subscriptions into the same inbox, by their name. topic is a topic's full name and by default the inbox's own. form says what is pushed: \"wrapped\" (Pub/Sub's JSON), \"unwrapped\" (the data, metadata as headers) or \"bare\" (the data alone; its SHA-256 stands in for the message ID). Changing topic, filter or ordering replaces the subscription, which loses its backlog."
  type = map(object({
    ack_deadline_seconds    = optional(number)
    enable_message_ordering = optional(bool, false)
    filter                  = optional(string)
    form                    = optional(string, "wrapped")
    topic                   = optional(string)
  }))
  default  = {}
  nullable = false

  validation {
    condition     = alltrue([for name in keys(var.more_subscriptions) : can(regex("^[A-Za-z][A-Za-z0-9._~+%-]{2,254}$", name)) && !startswith(name, "goog")])
    error_message = "The keys of more_subscriptions are names of subscriptions: 3 to 255 letters, digits and -._~+% that begin with a letter and not with \"goog\"."
  }
  validation {
    condition     = !contains(keys(var.more_subscriptions), var.subscription) && !contains(keys(var.more_subscriptions), "main") && !contains(keys(var.more_subscriptions), "${var.topic}-dead-letter")
    error_message = "more_subscriptions must not have the name of another subscription here, nor \"main\"."
  }
  validation {
    condition     = alltrue([for s in values(var.more_subscriptions) : contains(["wrapped", "unwrapped", "bare"], s.form)])
    error_message = "form must be \"wrapped\", \"unwrapped\" or \"bare\"."
  }
  validation {
    condition     = alltrue([for s in values(var.more_subscriptions) : contains(range(10, 601), coalesce(s.ack_deadline_seconds, 10))])
    error_message = "ack_deadline_seconds must be a whole number from 10 to 600, Pub/Sub's limits."
  }
  validation {
    condition     = alltrue([for s in values(var.more_subscriptions) : length(coalesce(s.filter, "-")) <= 256])
    error_message = "filter must be at most 256 bytes, Pub/Sub's limit."
  }
  validation {
    condition     = alltrue([for s in values(var.more_subscriptions) : s.topic == null || can(regex(local.topic_pattern, s.topic))])
    error_message = "topic must be a full name, projects/PROJECT/topics/TOPIC."
  }
  validation {
    condition     = alltrue([for s in values(var.more_subscriptions) : s.topic != "projects/${var.project_id}/topics/${var.topic}-dead-letter"])
    error_message = "topic is the dead-letter topic of this module: a message that is refused would go round for ever."
  }
}

variable "notification_channels" {
  description = "Full names of the Cloud Monitoring channels that alerts go to. Without one, alerts are only shown in Cloud Monitoring."
  type        = list(string)
  default     = []
  nullable    = false

  validation {
    condition     = alltrue([for c in var.notification_channels : can(regex("^projects/[^/,\\s]+/notificationChannels/[^/,\\s]+$", c))])
    error_message = "notification_channels must be full names, projects/PROJECT/notificationChannels/ID."
  }
}

variable "paused" {
  description = "Which push subscriptions have no push endpoint, so that their messages wait: \"main\" for the first, the others by their key in more_subscriptions or functions. What waits for longer than message_retention is lost. Set it after `pushinbox delivery pause`, so that the next apply does not resume the delivery unasked, and take it out again with `pushinbox delivery resume`."
  type        = set(string)
  default     = []
  nullable    = false

  validation {
    condition     = length(setsubtract(var.paused, keys(local.subscriptions))) == 0
    error_message = "paused must be keys of push subscriptions: \"main\", or those of more_subscriptions and functions."
  }
}

variable "pipeline" {
  description = "Creates an account that cloudbuild.yaml deploys with, which may read Terraform's state in this bucket: no secret is in it but verification_token. null creates none."
  type        = object({ state_bucket = string })
  default     = null

  validation {
    condition     = var.pipeline == null || can(regex("^[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]$", var.pipeline.state_bucket))
    error_message = "pipeline.state_bucket must be the name of a bucket, such as \"demo-project-state\", without \"gs://\" and a path."
  }
}

variable "project_id" {
  description = "The Google Cloud project, by its ID."
  type        = string
  nullable    = false

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{4,28}[a-z0-9]$", var.project_id))
    error_message = "project_id must be a project's ID (6 to 30 lower-case letters, digits and hyphens), not its number or display name."
  }
}

variable "publish_callers" {
  description = "E-mail addresses of the accounts that may publish through `publish`."
  type        = list(string)
  default     = []
  nullable    = false

  validation {
    condition     = alltrue([for e in var.publish_callers : can(regex(local.email_pattern, e))])
    error_message = "publish_callers must be e-mail addresses in lower case without a prefix such as \"serviceAccount:\"."
  }
  validation {
    condition     = length(var.publish_callers) + length(var.testers) > 0
    error_message = "Nobody could publish, and `publish` refuses to start like that: set publish_callers or testers."
  }
}

variable "receive_ingress" {
  description = "Who reaches `receive`: \"internal-only\" lets in Google's products of the same project, Pub/Sub among them, and answers strangers with Google's 404; \"all\" is for subscriptions of other projects."
  type        = string
  default     = "internal-only"
  nullable    = false

  validation {
    condition     = contains(["internal-only", "all"], var.receive_ingress)
    error_message = "receive_ingress must be \"internal-only\" or \"all\"."
  }
}

variable "region" {
  description = "Region of the functions."
  type        = string
  default     = "europe-west1"
  nullable    = false

  validation {
    condition     = can(regex(local.region_pattern, var.region))
    error_message = "region must be a region such as \"europe-west1\", not a zone or a multi-region."
  }
}

variable "retry_backoff_seconds" {
  description = "How long after a failed push the message is pushed again: at first, and at most."
  type        = object({ minimum = number, maximum = number })
  default     = { minimum = 10, maximum = 600 }
  nullable    = false

  validation {
    condition     = try(0 <= var.retry_backoff_seconds.minimum && var.retry_backoff_seconds.minimum <= var.retry_backoff_seconds.maximum && var.retry_backoff_seconds.maximum <= 600, false)
    error_message = "retry_backoff_seconds must be 0 to 600, Pub/Sub's limits, and its minimum not above its maximum."
  }
}

variable "search_attributes" {
  description = "Names of attributes that messages are looked up by: each gets two indexes in Firestore, also of the messages that are there. Others are found by reading up to 5,000 messages at a time."
  type        = list(string)
  default     = []
  nullable    = false

  validation {
    condition     = length(var.search_attributes) <= 20 && length(distinct(var.search_attributes)) == length(var.search_attributes)
    error_message = "search_attributes must be at most 20 names, each once: every one is two of the indexes that a database may have."
  }
  validation {
    condition     = alltrue([for name in var.search_attributes : can(regex("^[^,`\\\"'[:cntrl:][:space:]]{1,256}$", name)) && !can(regex("^__.*__$", name))])
    error_message = "search_attributes must be names of 1 to 256 characters without spaces, commas, quotes, backticks and backslashes that do not begin and end with __, such as \"tenant\"."
  }
}

variable "sizes" {
  description = "What the instances of a function get, by the function's name, where it is not the default: 512Mi of memory, 1 CPU, 80 requests at a time, 0 to 20 instances. Many messages of several megabytes at a time need more memory."
  type = map(object({
    memory        = optional(string)
    cpu           = optional(number)
    concurrency   = optional(number)
    min_instances = optional(number)
    max_instances = optional(number)
  }))
  default  = {}
  nullable = false

  validation {
    condition     = length(setsubtract(keys(var.sizes), setsubtract(keys(local.functions), keys(var.functions)))) == 0
    error_message = "sizes has an entry for something that is not a function of this module: its keys are names such as \"receive\". The size of one of your own is in functions."
  }
  # The rest is also of the sizes in functions, so that Google's limits are here once.
  validation {
    condition = alltrue([
      for s in [for s in concat(values(var.sizes), values(var.functions)[*].size) : merge(local.size, { for k, v in s : k => v if v != null }) if s != null] :
      contains(range(1, 1001), s.concurrency)
    ])
    error_message = "concurrency, in sizes or in a size of functions, must be a whole number from 1 to 1000, Cloud Run's limits."
  }
  validation {
    condition = alltrue([
      for s in [for s in concat(values(var.sizes), values(var.functions)[*].size) : merge(local.size, { for k, v in s : k => v if v != null }) if s != null] :
      contains([1, 2, 4, 6, 8], s.cpu) || 0.08 <= s.cpu && s.cpu < 1 && s.concurrency == 1
    ])
    error_message = "cpu, in sizes or in a size of functions, must be 1, 2, 4, 6 or 8, or with concurrency = 1 from 0.08 to below 1: a function that serves more than one request at a time needs at least 1 CPU."
  }
  validation {
    condition = alltrue([
      for s in [for s in concat(values(var.sizes), values(var.functions)[*].size) : merge(local.size, { for k, v in s : k => v if v != null }) if s != null] :
      try([for m in [regex("^([1-9][0-9]*)(Mi|Gi)$", s.memory)] : [
        for limits in [lookup(local.memory_limits, s.cpu < 0.5 ? "0.08" : s.cpu < 1 ? "0.5" : tostring(s.cpu), [0, 32768])] :
        limits[0] <= m[0] * local.mebibytes[m[1]] && m[0] * local.mebibytes[m[1]] <= limits[1]
      ][0]][0], false)
    ])
    error_message = "memory, in sizes or in a size of functions, must be such as \"512Mi\" or \"2Gi\", at least 128Mi, and what Cloud Run allows with cpu: up to 512Mi below 0.5, up to 1Gi below 1, up to 4Gi with 1 (the default), up to 8Gi with 2, 2Gi to 16Gi with 4, 4Gi to 24Gi with 6, 4Gi to 32Gi with 8."
  }
  validation {
    condition = alltrue([
      for s in [for s in concat(values(var.sizes), values(var.functions)[*].size) : merge(local.size, { for k, v in s : k => v if v != null }) if s != null] :
      can(regex("^[0-9]+ [1-9][0-9]*$", "${s.min_instances} ${s.max_instances}")) && s.min_instances <= s.max_instances
    ])
    error_message = "In sizes and in a size of functions, min_instances must be a whole number from 0, and max_instances one from 1 that is not below it. Their defaults are 0 and 20."
  }
}

variable "subscription" {
  description = "Name of the push subscription."
  type        = string
  default     = "inbox-push"
  nullable    = false

  validation {
    condition     = can(regex("^[A-Za-z][A-Za-z0-9._~+%-]{2,254}$", var.subscription)) && !startswith(var.subscription, "goog")
    error_message = "subscription must be 3 to 255 letters, digits and -._~+% that begin with a letter and not with \"goog\"."
  }
  validation {
    condition     = var.subscription != "${var.topic}-dead-letter"
    error_message = "subscription must not have the name of the dead-letter subscription, the topic's with \"-dead-letter\" after it."
  }
}

variable "testers" {
  description = "Who may call `publish` and `console` by hand, such as \"user:you@example.com\": they can get ID tokens of an account created for that."
  type        = set(string)
  default     = []
  nullable    = false

  validation {
    condition     = alltrue([for m in var.testers : can(regex(local.member_pattern, m))])
    error_message = "testers must be principals, each an item of its own: user:, group: or serviceAccount: with an address, principal:// or principalSet://."
  }
}

variable "topic" {
  description = "Name of the topic that is created here. The dead-letter topic's is the same with \"-dead-letter\" after it."
  type        = string
  default     = "inbox"
  nullable    = false

  validation {
    condition     = can(regex("^[A-Za-z][A-Za-z0-9._~+%-]{2,242}$", var.topic)) && !startswith(var.topic, "goog")
    error_message = "topic must be 3 to 243 letters, digits and -._~+% that begin with a letter and not with \"goog\"."
  }
}

variable "unwrapped" {
  description = "Whether pushes carry the message's data as their body and the rest as headers, instead of Pub/Sub's JSON."
  type        = bool
  default     = false
  nullable    = false
}

variable "verification_token" {
  description = "A shared secret that `receive` then wants as ?token= in addition to the signed token. It is part of the push endpoint and so ends up in the subscription, in Terraform's state and in every log of addresses; raise verification_token_version when it changes. Not needed: the signed token of each push proves more."
  type        = string
  default     = null
  sensitive   = true

  validation {
    condition     = var.verification_token == null || can(regex("^[A-Za-z0-9_-]{32,256}$", var.verification_token))
    error_message = "verification_token must be 32 to 256 letters, digits, hyphens and underscores, so that it needs no escape in a URL."
  }
}

variable "verification_token_version" {
  description = "Raise it by one with each change of verification_token: what `receive` reads is not in Terraform's state, so nothing else shows that it changed."
  type        = number
  default     = 1
  nullable    = false

  validation {
    condition     = var.verification_token_version >= 1 && floor(var.verification_token_version) == var.verification_token_version
    error_message = "verification_token_version must be a whole number from 1."
  }
}
