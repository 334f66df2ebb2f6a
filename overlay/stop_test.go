package overlay

import (
	"net/netip"
	"testing"
	"testing/synctest"

	"icvpn/internal/id"
)

type nowhere struct{}

func (nowhere) WriteTo([]byte, netip.AddrPort) error { return nil }

// The library leaves its read loop without another read if it is closed while it
// looks at an answer; that the reader is gone must be noticed all the same.
func TestStopWithAnswersUnderWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for range 300 {
			o, err := New(Config{Self: id.ID{1}, Transport: nowhere{}})
			if err != nil {
				t.Fatal(err)
			}
			if err := o.start(t.Context()); err != nil {
				t.Fatal(err)
			}
			for range cap(o.conn.in) {
				o.conn.in <- datagram{pkt: []byte("d1:rd2:id20:aaaaaaaaaaaaaaaaaaaae1:t2:aa1:y1:re"), from: netip.MustParseAddrPort("192.0.2.1:4500")}
			}
			o.stopLibrary()
		}
	})
}
