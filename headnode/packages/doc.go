// Package packages keeps the sizes that instances are made in.
//
// It is a subject: functions over a store.Tx. A function that returns an error may
// have written before; the transaction is then to be given up. Refusals are
// *api.Problem.
//
// Keys, all below "packages/":
//
//   - package/UUID: the package, as api.Package
//   - name/NAME: UUID of the active package of that name
package packages
