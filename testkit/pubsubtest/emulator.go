package pubsubtest

// Emulator is where Google's emulator 0.8.20 differs: what the suite observes of
// it, by the row's name.
var Emulator = map[string]string{}
