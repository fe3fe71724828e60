// Package answers reads the file a head node is first set up from, or asks for
// the same answers on a terminal.
//
// The file is TOML. Unknown keys are errors, and everything wrong with it is
// reported at once, each fault with its line. Parse returns real types only:
// the rest of the program never sees a string that stands for an address or a
// duration. Sample is a complete, commented file.
package answers
