//go:build !race

package boltinbox

// raceEnabled says that the race detector runs, which needs memory of its own.
const raceEnabled = false
