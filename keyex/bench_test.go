package keyex

import (
	"testing"
	"time"
)

// One whole exchange, both ends.
func BenchmarkExchange(b *testing.B) {
	for _, g := range []Group{GroupHybrid, GroupX25519, GroupMODP3072, GroupMODP2048} {
		b.Run("group="+g.String(), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				w, x, y := twoNodes(b, withGroups(g))
				w.initiate(x, y)
				w.run(time.Second)
				x.only(b)
			}
		})
	}
}

// What one datagram of a hello flood costs.
func BenchmarkAnswerHello(b *testing.B) {
	w, x, y := twoNodes(b)
	w.initiate(x, y)
	m1 := w.messages(msgHelloA)[0]
	b.ReportAllocs()
	for b.Loop() {
		y.Receive(w.now, Input{From: x.addr, Epoch: 7, Plain: HelloPlain, Payload: m1.Payload})
	}
}

// What one M3 fragment with a bad cookie costs.
func BenchmarkBadCookie(b *testing.B) {
	w, x, y := twoNodes(b)
	w.initiate(x, y)
	w.run(time.Second)
	m3 := w.messages(msgShareA)[0]
	m3.Payload = flip(m3.Payload, 40)
	b.ReportAllocs()
	for b.Loop() {
		y.Receive(w.now, Input{From: x.addr, Epoch: 7, Payload: m3.Payload})
	}
}
