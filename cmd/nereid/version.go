package main

// version is set by the Makefile (-ldflags -X main.version=...). A platform that
// this program builds carries an agent of the same version.
var version = "devel"
