package esp

import (
	"bytes"
	"sync"
	"sync/atomic"
	"testing"
)

// Many senders on one SA, every datagram delivered to many receivers: each
// number is used once and each packet is delivered once.
func TestConcurrentSealAndOpenDeliverEachPacketOnce(t *testing.T) {
	const senders, receivers, batches, size = 4, 4, 40, 8
	for _, s := range Suites() {
		out, in := newPair(t, testConfig(s))
		var mu sync.Mutex
		var datagrams [][]byte
		seqs := map[uint64]bool{}
		var wg sync.WaitGroup
		for range senders {
			wg.Go(func() {
				for range batches {
					batch := make([]Packet, size)
					for i := range batch {
						batch[i] = load(ipv4(100))
					}
					if n, _ := out.Seal(born, batch); n != size {
						t.Errorf("sealed %d", n)
					}
					mu.Lock()
					for i := range batch {
						if seqs[batch[i].Seq] {
							t.Errorf("number %d used twice", batch[i].Seq)
						}
						seqs[batch[i].Seq] = true
						datagrams = append(datagrams, bytes.Clone(batch[i].Bytes()))
					}
					mu.Unlock()
				}
			})
		}
		wg.Wait()

		var delivered, replays atomic.Int64
		for r := range receivers {
			wg.Go(func() {
				for i := 0; i < len(datagrams); i += size {
					// Each receiver starts elsewhere, so that they collide.
					at := (i + r*len(datagrams)/receivers) % len(datagrams)
					batch := make([]Packet, size)
					for j := range batch {
						batch[j] = receive(datagrams[at+j])
					}
					n, _ := in.Open(born, batch)
					delivered.Add(int64(n))
					for j := range batch {
						if batch[j].Drop == DropReplay {
							replays.Add(1)
						} else if batch[j].Drop != DropNone {
							t.Errorf("verdict %v", batch[j].Drop)
						}
					}
				}
			})
		}
		wg.Wait()
		const total = senders * batches * size
		if delivered.Load() != total || replays.Load() != total*(receivers-1) {
			t.Errorf("%v: %d delivered, %d replays of %d", s, delivered.Load(), replays.Load(), total)
		}
		if in.LastSeq() != total || out.LastSeq() != total {
			t.Errorf("%v: counters %d %d", s, out.LastSeq(), in.LastSeq())
		}
	}
}

func TestConcurrentSealStopsExactlyAtTheLimit(t *testing.T) {
	for _, limits := range []Limits{{Packets: 500}, {Bytes: 500 * 48}} {
		c := testConfig(AES128GCM)
		c.Limits = limits
		out, _ := newPair(t, c)
		var sealed atomic.Int64
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				for range 50 {
					n, _, _ := sealMany(t, out, born, 7)
					sealed.Add(int64(n))
				}
			})
		}
		wg.Wait()
		if sealed.Load() != 500 {
			t.Errorf("%+v: %d sealed", limits, sealed.Load())
		}
	}
}

func TestCloseDuringTraffic(t *testing.T) {
	out, in := newPair(t, testConfig(DefaultSuite))
	d := sealOne(t, out, ipv4(100))
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			for range 200 {
				sealMany(t, out, born, 3)
				openOne(in, d)
			}
		})
	}
	wg.Go(func() { out.Close(); in.Close() })
	wg.Wait()
}
