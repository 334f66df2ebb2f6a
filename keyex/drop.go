package keyex

import "sync/atomic"

// Drop says why a datagram had no effect. The peer never learns it.
type Drop uint8

// The reasons of a Drop, cheapest check first.
const (
	DropNone          Drop = iota
	DropHeader             // KE header, fragmentation or path impossible
	DropPadding            // a hello that is not padded to HelloPlain
	DropEpoch              // no such epoch, or not the exchange's
	DropUnknown            // belongs to no exchange under way
	DropPath               // not from where we sent to
	DropCookie             // cookie missing, forged, too old or of another path
	DropDuplicate          // half of a message we hold already
	DropFragmentQuota      // too many incomplete messages of this source or in all
	DropMalformed          // body is not the message it should be
	DropTranscript         // running hash differs
	DropNotMine            // for another PID
	DropNoCommon           // no group or suite that both allow
	DropSourceQuota        // too many M3s from this source
	DropCredential         // VerifyCred refused, or it is another's credential
	DropSignature
	DropShare        // unusable key share
	DropConfirmation // good signature, wrong MAC: epoch key or rekey secret differ
	DropHeld         // kept unanswered until our own exchange ends, or made needless by it
	DropRefused      // answered with a signed refusal
	DropLocal        // we cannot answer: no credential or no SPI of our own
	dropCount
)

var dropNames = [dropCount]string{
	"none", "header", "padding", "epoch", "unknown", "path", "cookie", "duplicate", "fragment_quota",
	"malformed", "transcript", "not_mine", "no_common", "source_quota", "credential", "signature",
	"share", "confirmation", "held", "refused", "local",
}

// String returns the label the reason has in metrics.
func (d Drop) String() string {
	if int(d) < len(dropNames) {
		return dropNames[d]
	}
	return "unknown drop"
}

// Stats are counters that any goroutine may read.
type Stats struct {
	Started   atomic.Uint64 // exchanges begun
	Completed atomic.Uint64 // initiator's Results
	Answered  atomic.Uint64 // responder's Results
	Failed    atomic.Uint64 // Failures
	Repeated  atomic.Uint64 // M4s sent again for a repeated M3
	drops     [dropCount]atomic.Uint64
}

// Drops returns how many datagrams were dropped for reason d.
func (s *Stats) Drops(d Drop) uint64 {
	if d >= dropCount {
		return 0
	}
	return s.drops[d].Load()
}

// DropReasons lists every reason but DropNone, for a metrics renderer.
func DropReasons() []Drop {
	all := make([]Drop, 0, dropCount-1)
	for d := DropNone + 1; d < dropCount; d++ {
		all = append(all, d)
	}
	return all
}
