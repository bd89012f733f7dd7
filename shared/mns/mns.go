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

import (
	"net/http"

	"example.com/pushinbox/shared/problem"
)

// MaxBodySize is the largest body a push can have, in bytes: 64 KiB of message,
// every byte of it escaped in six, and as much again to spare.
const MaxBodySize = 1 << 20

// APIVersion is the version of MNS's API in the x-mns-version header of calls and
// pushes.
const APIVersion = "2015-06-06"

// Reasons to refuse a push; tell them apart with errors.Is. MNS documents 403 for
// everything that is wrong with a signature.
var (
	// ErrHeaders means that a header that a push has once is missing, repeated or
	// not a valid one of MNS.
	ErrHeaders error = problem.New(http.StatusForbidden, "the request does not have the headers of a signed MNS push, each of them once")
	// ErrDate means that the signed Date is more than MaxAge away from now.
	ErrDate error = problem.New(http.StatusForbidden, "the request's Date is more than 15 minutes from now")
	// ErrDigest means that Content-MD5 is not the MD5 of the body.
	ErrDigest error = problem.New(http.StatusForbidden, "the request's Content-MD5 is not the MD5 of its body")
	// ErrCertificateURL means that the certificate's address is not one of MNS's.
	ErrCertificateURL error = problem.New(http.StatusForbidden, "the signing certificate's address is not one of MNS")
	// ErrCertificate means that the address has no certificate with a usable RSA
	// key, or that the certificate is not pinned.
	ErrCertificate error = problem.New(http.StatusForbidden, "there is no usable signing certificate at the address that the request names")
	// ErrSignature means that the certificate's key did not sign this request.
	ErrSignature error = problem.New(http.StatusForbidden, "the request's signature is not valid")
	// ErrSecret means that the request's address does not have the endpoint's
	// secret.
	ErrSecret error = problem.New(http.StatusForbidden, "the endpoint's secret is missing or wrong; it is the last segment of the path, or ?token= once")
	// ErrForeign means that MNS sent the push for a topic or subscription that is
	// not allowed.
	ErrForeign error = problem.New(http.StatusForbidden, "this topic or subscription may not push here")
	// ErrMalformed means that MNS sent the push and its body cannot be decoded.
	ErrMalformed error = problem.New(http.StatusBadRequest, "the body is not an MNS notification in XML, JSON or SIMPLIFIED form, with the MD5 it says")
	// ErrUnavailable means that the certificate cannot be fetched at the moment.
	// The push may be good; MNS sends it again.
	ErrUnavailable error = problem.New(http.StatusServiceUnavailable, "the signing certificate cannot be fetched at the moment; try again")
	// ErrPolicy means that the Policy names no owner.
	ErrPolicy error = problem.New(http.StatusInternalServerError, "the service does not say whose topics may push here, so it refuses all; its operator has to configure it")
)
