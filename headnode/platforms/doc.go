// Package platforms keeps the registered platform images, the default, and which
// of them each server boots: head-counted A/B.
//
// A platform that a server has not booted to a first sync is on trial there. A boot
// counts when its script with the platform was handed out; after MaxAttempts of
// them, or TrialTime after the first, the server boots its previous platform again
// and says why, until an operator assigns anew. Choose is that rule, as a pure
// function.
//
// Keys (all below "platform/"): stamp/<stamp> holds the Record, complete/<stamp>
// whether all its files are there, file/<digest>/<stamp> its files, default the
// default, server/<UUID, or MAC of a machine not enrolled> the State.
package platforms
