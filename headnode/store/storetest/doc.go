// Package storetest is the suite that every backend of package store passes, and
// Twice, a store that runs each Update function twice, for the tests of what is
// built on a store.
package storetest
