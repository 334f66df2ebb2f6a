package main

import "regexp"

// packagePrefix is what an error says of where it comes from: for the log and
// for developers, but a stutter before people, who get "icvpn: " already. It
// stands at the beginning of a sentence or of a part of it.
var packagePrefix = regexp.MustCompile(`(^|: |; |\()((?:abe|admission|control|datapath|directory|discovery|esp|filter|id|keyex|keypool|lab|ledger|manual|metrics|netcfg|node|offload|overlay|owner|port|provision|relay|seal|service|sim|state|superpeer|tun|underlay|wire): )+(?:refused: )?`)

// sentence makes one printable line of an error, without the names of packages.
func sentence(err error) string { return plain(oneLine(err.Error())) }

// plain takes the names of packages out of a sentence.
func plain(s string) string { return packagePrefix.ReplaceAllString(s, "$1") }
