//go:build race

package receive

// raceEnabled says that the race detector, whose own memory is several times
// the program's, is on.
const raceEnabled = true
