// Package images keeps and moves immutable bytes by their SHA-256: a store, a
// resuming HTTP fetch, and signed platform manifests.
//
// A Store is a directory; files/DIGEST is complete and was hashed before it got
// that name, partial/DIGEST is an upload that can be continued, also after the
// daemon was restarted. Nothing but 64 lower-case hexadecimal digits ever
// becomes part of a path.
//
// Fetcher streams a file of known size and digest over HTTP, goes on with Range
// after a cut, and hashes while it writes, so that nothing is read twice.
//
// A manifest is signed as the exact bytes it was written in (ed25519); the
// signature is checked before the bytes are parsed.
package images
