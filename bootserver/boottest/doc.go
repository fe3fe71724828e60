// Package boottest has an in-memory Booter with its files, for tests: it keeps
// what it was told and prints itself.
package boottest
