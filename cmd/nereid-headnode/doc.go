// Command nereid-headnode is the head node: it keeps the inventory, decides what
// servers boot, boots them, and tells their agents what is wanted.
//
//	nereid-headnode init [--answers FILE] --data-dir DIR
//	nereid-headnode run --data-dir DIR
//	nereid-headnode unit
//	nereid-headnode version
package main
