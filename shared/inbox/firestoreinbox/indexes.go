package firestoreinbox

import _ "embed"

// Indexes is firestore.indexes.json: which indexes the queries need, which fields need
// none and which expire, in the form of Firebase's tools and for the default collections.
//
//go:embed firestore.indexes.json
var Indexes []byte
