// Package images keeps the manifests of the images that instances are cloned from.
//
// An image is made while its file is still on the way (creating), checked when all of it
// is there (unactivated), and then offered (active) or withdrawn (disabled). One that may
// not be used, or whose bytes were damaged, is failed. The package knows nothing of the
// bytes: who calls it says what they were found to be.
//
// An image without an owner is the operators' own; such a one belongs to NoOwner, as in
// IMGAPI. An account may use an image that is its own, that is public, or whose ACL names
// it.
//
// Keys (all below "images/"):
//
//   - image/<uuid>: the api.Image
//   - name/<digest of the name>/<uuid>, owner/<owner>/<uuid>, state/<state>/<uuid>,
//     origin/<origin>/<uuid>: indexes; their values are empty
package images
