package provision

import (
	"github.com/fxamacker/cbor/v2"

	"icvpn/internal/wire"
)

// rawList is List with members that were encoded before.
type rawList struct {
	_       struct{} `cbor:",toarray"`
	Version uint8
	Members []cbor.RawMessage
}

// EncodeList returns the bytes to seal of a List whose members are encoded
// already, as far as they fit.
func EncodeList(members [][]byte) []byte {
	l := rawList{Version: version, Members: make([]cbor.RawMessage, 0, len(members))}
	room := MaxList - listOverhead
	for _, m := range members {
		if room -= len(m); room < 0 {
			break
		}
		l.Members = append(l.Members, m)
	}
	return wire.Marshal(l)
}

// listOverhead is what a list has beside its members.
const listOverhead = 16
