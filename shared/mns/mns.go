// Package mns verifies and decodes pushes of Alibaba Cloud's MNS, now called SMQ:
// who sent this push (Verifier, Endpoint and Policy), and what did it push
// (Decode).
//
// # What a good signature proves
//
// That MNS sent the request, and little more. Anyone with an Alibaba Cloud
// account can subscribe this endpoint to a topic of theirs, and MNS signs that
// just as well, so a Policy must name the owners whose topics are taken. The one
// certificate that is known has an RSA key of 512 bits, which a patient attacker
// can factor, and the body is covered by its MD5 only. Therefore give the endpoint
// a secret (see Endpoint), which is also what keeps strangers from having
// certificates fetched.
package mns

import "net/http"

// MaxBodySize is the largest body a push can have, in bytes: 64 KiB of message,
// every byte of it escaped in six, and as much again to spare.
const MaxBodySize = 1 << 20

// APIVersion is the version of MNS's API in the x-mns-version header of calls and
// pushes.
const APIVersion = "2015-06-06"

// Error is a reason to refuse a request, with the HTTP status its sender should
// see. Tell them apart with errors.Is.
type Error struct {
	status int
	detail string
}

// Error returns the fixed description. It holds nothing of the request.
func (e *Error) Error() string { return "mns: " + e.detail }

// HTTPStatus returns the status for the sender and a detail that is safe to show.
func (e *Error) HTTPStatus() (status int, detail string) { return e.status, e.detail }

// The reasons to refuse a push. MNS expects 403 for everything that is wrong with
// a signature.
var (
	// ErrHeaders: a header that a push has once is missing or there twice, or
	// cannot be one of MNS.
	ErrHeaders error = &Error{http.StatusForbidden, "the request does not have the headers of a signed MNS push, each of them once"}
	// ErrDate: the signed Date is more than MaxAge away from now.
	ErrDate error = &Error{http.StatusForbidden, "the request's Date is more than 15 minutes from now"}
	// ErrDigest: Content-MD5 is not the MD5 of the body.
	ErrDigest error = &Error{http.StatusForbidden, "the request's Content-MD5 is not the MD5 of its body"}
	// ErrCertificateURL: the certificate is not at one of MNS's addresses.
	ErrCertificateURL error = &Error{http.StatusForbidden, "the signing certificate's address is not one of MNS"}
	// ErrCertificate: there is no certificate at the address, none with a usable
	// RSA key, or none of those that are pinned.
	ErrCertificate error = &Error{http.StatusForbidden, "there is no usable signing certificate at the address that the request names"}
	// ErrSignature: the signature is not one of the certificate's key over this
	// request.
	ErrSignature error = &Error{http.StatusForbidden, "the request's signature is not valid"}
	// ErrSecret: the request's address does not hold the endpoint's secret.
	ErrSecret error = &Error{http.StatusForbidden, "the endpoint's secret is missing or wrong; it is the last segment of the path, or ?token= once"}
	// ErrForeign: MNS sent it, for a topic or subscription that is not one of ours.
	ErrForeign error = &Error{http.StatusForbidden, "this topic or subscription may not push here"}
	// ErrMalformed: MNS sent it, and it cannot be read.
	ErrMalformed error = &Error{http.StatusBadRequest, "the body is not an MNS notification in XML, JSON or SIMPLIFIED form, with the MD5 it says"}
	// ErrUnavailable: the certificate cannot be fetched at the moment. The push
	// may be fine; it should be sent again.
	ErrUnavailable error = &Error{http.StatusServiceUnavailable, "the signing certificate cannot be fetched at the moment; try again"}
	// ErrPolicy: the caller of this package named no owner.
	ErrPolicy error = &Error{http.StatusInternalServerError, "the service does not say whose topics may push here, so it refuses all; its operator has to configure it"}
)
