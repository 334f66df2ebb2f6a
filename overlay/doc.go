// Package overlay is a node of the Kademlia overlay in which the members of a
// service find each other: signed items near an ID, on a few nodes each.
package overlay
