package doctor

// checks are all checks, in the order in which a message passes what they look at.
var checks = []check{
	{"project", checkProject},
	{"apis", checkAPIs},
	{"perimeter", checkPerimeter},
	{"clock", checkClock},

	{"subscription", checkSubscription},
	{"topic", checkTopic},
	{"detached", checkDetached},
	{"paused", checkPaused},
	{"filter", checkFilter},
	{"transforms", checkTransforms},
	{"expiry", checkExpiry},
	{"exactly-once", checkExactlyOnce},
	{"ack-deadline", checkAckDeadline},
	{"retry", checkRetry},

	{"endpoint", checkEndpoint},
	{"cloudfunctions", checkCloudFunctions},
	{"form", checkForm},
	{"token", checkToken},
	{"oidc", checkOIDC},
	{"account-project", checkAccountProject},
	{"account", checkAccount},
	{"audience", checkAudience},
	{"account-disabled", checkAccountDisabled},
	{"token-creator", checkTokenCreator},

	{"service", checkService},
	{"ready", checkReady},
	{"traffic", checkTraffic},
	{"environment", checkEnvironment},
	{"ingress", checkIngress},
	{"invoker", checkInvoker},
	{"probe", checkProbe},
	{"organisation", checkOrganisation},
	{"keys", checkKeys},
	{"receive-clock", checkReceiveClock},
	{"secret", checkSecrets},

	{"database", checkDatabase},
	{"database-mode", checkDatabaseMode},
	{"writer", checkWriter},
	{"indexes", checkIndexes},
	{"exemptions", checkExemptions},
	{"ttl", checkTTL},

	{"dead-letter-policy", checkDeadLetterPolicy},
	{"dead-letter-topic", checkDeadLetterTopic},
	{"dead-letter-publisher", checkDeadLetterPublisher},
	{"dead-letter-subscriber", checkDeadLetterSubscriber},
	{"dead-letter-subscription", checkDeadLetterSubscription},
	{"redrive", checkRedrive},

	{"acknowledged", checkAcknowledged},
	{"latency", checkLatency},
	{"backlog", checkBacklog},
	{"dead-letters", checkDeadLetters},

	{"scheduler", checkScheduler},
	{"channels", checkChannels},
}

// Checks returns the names of all checks.
func Checks() []string {
	names := make([]string, len(checks))
	for i, c := range checks {
		names[i] = c.name
	}
	return names
}
