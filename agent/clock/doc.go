// Package clock gives a server the right time: from time servers by SNTP
// (RFC 4330, the client half of RFC 5905), or from any other sample the caller
// has, such as the Date of an HTTPS answer.
//
//   - A difference above Threshold (2 s) is stepped. A smaller one is slewed when
//     the sample is precise (SNTP) and ignored when it is not (Date has whole
//     seconds).
//   - Where the system clock cannot be set (a container, another OS), Clock keeps
//     the difference and its Now is right all the same.
//   - SNTP answers are judged: mode, stratum, leap indicator, and the echo of a
//     random 64-bit originate timestamp, so that a blind sender cannot answer.
package clock
