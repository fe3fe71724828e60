// Package trust is who may do what: the head node's CA, the certificates it
// signs, the one-boot tokens of servers and the tokens of operators.
//
//   - The CA (ECDSA P-256, 10 years) is one file, 0600, made at the first start.
//   - The HTTPS certificate is made in memory for the admin address and renewed
//     by itself; the CA's certificate travels with it, so that who pins the CA's
//     digest finds it in the chain.
//   - A client certificate (24 h, CN = UUID) is made from a CSR whose requested
//     extensions are ignored.
//   - Of a token only its SHA-256 is stored, and it is compared in constant time.
//     A one-boot token belongs to a boot, a MAC and the UUID the firmware claimed,
//     and from its first use on to the public key that used it.
//
// Keys: token/boot/BOOT, token/operator/ID and token/platform-key/NAME (whose
// signature on a platform is accepted). One-boot tokens are found by their end under
// token/expiry/TIME/BOOT and token/used/MAC/TIME/BOOT, so that a boot's token costs the
// same beside any number of others; token/indexed says that all tokens are.
package trust
