# For the function `mns`, all of it behind var.mns. The endpoint that a topic of
# Alibaba MNS is subscribed with is the function's address, with the secret as
# its last segment where there is one.
locals {
  mns_function = var.mns == null ? {} : {
    mns = {
      publishes = false
      inbox     = "write"
      # MNS does not wait longer than 5 seconds, and the function answers before
      # that; this leaves room for a start.
      timeout = 10
      environment = merge(local.inbox_environment, {
        MNS_TOPIC_OWNERS     = join(",", var.mns.topic_owners)
        MNS_TOPICS           = join(",", var.mns.topics)
        MNS_SUBSCRIPTIONS    = join(",", var.mns.subscriptions)
        MNS_CERTIFICATE_PINS = join(",", var.mns.certificate_pins)
        MNS_BODY             = var.mns.body
      })
      secrets = { for name in ["mns"] : "MNS_SECRET" => local.secret_versions[name] if local.mns_secret_wanted }
    }
  }
}
