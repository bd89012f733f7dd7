// Package pushfake is a Pub/Sub that really pushes, signed, for local runs and
// tests only. Neither Google's pstest, which never pushes, nor Google's
// emulator, which pushes without a token, can try a push endpoint with its
// token check on.
//
// It has two parts. An Issuer signs tokens as Google does and serves the keys
// to them at Google's addresses, so that only a transport has to be swapped in
// the code under test. A Dispatcher delivers the messages of a subscription as
// Pub/Sub documents it for push: Dispatchers take those of a
// pubsubserver.Server, in this process, and New pulls from any other Pub/Sub, such
// as Google's emulator. Start puts Issuer and Dispatchers together with a Pub/Sub
// inside the process.
//
// # What it does as documented
//
// Wrapped and unwrapped requests; an OIDC token that is sent again until it is
// about to expire; acknowledgement by 102, 200, 201, 202 or 204 inside the ack
// deadline, which is the time-out of the request too; redirects not followed;
// slow start; push backoff of 100 ms to 60 s for the whole subscription; the
// retry policy of each message, the longer of both delays counting; dead
// letters after the last attempt, as a new message with the
// CloudPubSubDeadLetterSource attributes; one outstanding message for each
// ordering key, in the order of publishing, a refused one blocking its key.
//
// # What is decided here, the documentation being silent
//
//   - The window starts at 4 requests. Each acknowledgement adds one to it,
//     which doubles it with each round; each failure halves it, to no less
//     than 1, or 3,000 for a window that is past that.
//   - A failure stops delivery for 100 ms, doubled by every further failure up
//     to 60 s. Failures of requests that were under way when delivery stopped
//     count as one. An acknowledgement takes one doubling back.
//   - Failures that go on, at least a tenth of all results, pace delivery too:
//     requests are 100 ms apart, doubled by each stop of the last seconds.
//   - Retry delays double from the minimum to the maximum, without jitter.
//   - A 102 counts when no final status follows it.
//   - Unwrapped requests have no Content-Type but that of an attribute of the
//     name. Attributes that HTTP cannot carry or that would change the framing
//     are left out, and Pub/Sub's own headers win over attributes.
//   - A dead letter keeps the data, attributes and ordering key.
//
// # Limits
//
// A message is acknowledged to its Pub/Sub after the endpoint acknowledged it
// and is otherwise handed back, so none is lost; as with Pub/Sub, one can
// arrive twice. A Dispatcher that pulls counts attempts itself, holding the
// message between them: they start over, but for what the backend counted, when
// it is started again, and it reads the subscription's settings once. The old
// body that the push attribute x-goog-version can ask for is not made.
package pushfake
