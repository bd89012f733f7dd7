package firestorestate

import _ "embed"

// Indexes is firestore.indexes.json: which fields need no index and which expire, in
// the form of Firebase's tools and for the default collections.
//
//go:embed firestore.indexes.json
var Indexes []byte
