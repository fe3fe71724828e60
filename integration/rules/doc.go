// Package rules holds the project's rules that a machine can check: import
// direction, package comments, formatting, and that the agent builds for illumos.
package rules
