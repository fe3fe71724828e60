// Package images runs images and their instances in real pools.
package images
