// Package firstday types what the README's "Day one" says, on a machine where
// Nereid was never before.
package firstday
