package overlay

import "net/netip"

// Datagram is a datagram to be sent. Pkt is to be padded to PaddedLen; it is
// borrowed from the machine until the function that Flush calls returns.
type Datagram struct {
	Pkt []byte
	To  netip.AddrPort
	// Via is what came with the query that this answers, nil if it is a query of
	// ours.
	Via Transport
}

// outbox holds what a step has to send, one datagram behind the other in one
// buffer.
type outbox struct {
	buf   []byte
	sends []send
}

type send struct {
	end    int // in buf; it begins where the one before ends
	to     netip.AddrPort
	via    Transport
	answer bool
}

// keptOutbox is what an idle machine keeps of its buffer: the largest answer, so
// that answering allocates nothing.
const keptOutbox = 1280

// post puts a message into the outbox.
func (m *Machine) post(msg *message, to netip.AddrPort, via Transport) {
	o := &m.out
	from := len(o.buf)
	o.buf = msg.append(o.buf)
	o.sends = append(o.sends, send{len(o.buf), to, via, msg.kind != query})
	m.stats.sent(msg, len(o.buf)-from)
}

// Flush hands over what is to be sent, in order. An error of send counts as a lost
// datagram.
func (m *Machine) Flush(send func(Datagram) error) {
	o := &m.out
	from := 0
	for _, s := range o.sends {
		err := send(Datagram{o.buf[from:s.end:s.end], s.to, s.via})
		from = s.end
		switch {
		case !s.answer:
		case err != nil:
			m.stats.drop(DropSend)
		default:
			m.stats.Answered.Add(1)
		}
	}
	if cap(o.buf) > keptOutbox {
		o.buf = nil
	}
	if cap(o.sends) > 1 {
		o.sends = nil
	}
	clear(o.sends)
	o.buf, o.sends = o.buf[:0], o.sends[:0]
}
