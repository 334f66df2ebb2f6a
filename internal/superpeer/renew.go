package superpeer

import (
	"crypto/ed25519"
	"crypto/sha256"
	"fmt"
	"net/netip"
	"time"

	"icvpn/abe"
	"icvpn/admission"
	"icvpn/internal/discovery"
	"icvpn/internal/id"
	"icvpn/internal/ledger"
	"icvpn/internal/provision"
	"icvpn/internal/service"
	"icvpn/internal/wire"
)

// memo is what a super peer wants to be reminded of when the machine comes back
// with its ticket, maybe to another super peer: to whom the ticket was given,
// and what the grant was made of. What is made of the same is not sent again.
type memo struct {
	_        struct{} `cbor:",toarray"`
	Instance service.Instance
	Issued   int64  // of the credential, Unix seconds
	Slot     []byte // of the attribute key, which the credential names
	Cohort   bool   // the slot is shared with others: a key of its own is to follow
	Epoch    mark
	Key      mark
	Policy   mark
	Sealing  mark
}

// mark is the beginning of a SHA-256: equal marks, equal parts.
type mark [16]byte

func markOf(domain string, v any) mark {
	h := sha256.New()
	h.Write(wire.Label(domain))
	h.Write(wire.Marshal(v))
	return mark(h.Sum(nil))
}

const maxMemo = 256

// memoOf describes a grant with these labels as it is now.
func (a *authority) memoOf(labels map[string]string, now time.Time) memo {
	attrs := discovery.Attributes(a.rules(), labels)
	d := a.trust().Descriptor
	group, _ := a.groupKeys(now)
	return memo{
		Epoch:   markOf("epoch", []any{group.epoch, group.seq, group.next}),
		Key:     markOf("key", []any{d.ABEHash, d.Generation, attrs}),
		Policy:  markOf("policy", a.policy().Body),
		Sealing: markOf("sealing", []any{group.epoch, group.next, d.Generation, a.readers(labels), a.opened(attrs)}),
	}
}

// readers is the policy of those who may find a machine with these labels.
func (a *authority) readers(labels map[string]string) string {
	p, ok := discovery.PolicyOf(a.rules(), labels)
	if !ok {
		return ""
	}
	return p.String()
}

// opened are the policies whose envelopes a machine gets.
func (a *authority) opened(attrs map[string]string) []string {
	var out []string
	for _, t := range a.targets.all() {
		if t.target.Matches(abe.Attributes{Service: a.trust().Service, Generation: t.target.Generation, Labels: attrs}) {
			out = append(out, t.target.Policy.String())
		}
	}
	return out
}

// holds returns the parts of a grant made of m that one made of old has as well. Who
// has a cohort's slot is to have its own, unless there is none.
func (m memo) holds(old memo, onlyCohort bool) (p provision.Parts) {
	if m.Key == old.Key && len(old.Slot) == abe.SlotSize && (!old.Cohort || onlyCohort) {
		p |= provision.PartKey
	}
	if m.Policy == old.Policy {
		p |= provision.PartPolicy
	}
	if m.Epoch == old.Epoch {
		p |= provision.PartEpoch
	}
	if m.Sealing == old.Sealing {
		p |= provision.PartSealing
	}
	return p
}

// of completes m for a credential.
func (m memo) of(c *service.Credential, cohort bool) []byte {
	m.Instance, m.Issued, m.Slot, m.Cohort = c.Instance, c.NotBefore, c.Slot, cohort
	return wire.Marshal(m)
}

// renewal is a machine with a ticket, and what it asks for.
type renewal struct {
	who    admission.Authenticated
	ticket *admission.Ticket
	before memo // that came with the ticket
	req    provision.Request
	holds  provision.Parts
}

// renew makes a machine with a ticket a member for another life.
func (a *authority) renew(who admission.Authenticated, t *admission.Ticket, request []byte, observed netip.Addr, now time.Time) (admission.Granted, error) {
	r := renewal{who: who, ticket: t}
	if err := wire.Unmarshal(t.Memo, &r.before, maxMemo); err != nil {
		return admission.Granted{}, fmt.Errorf("superpeer: memo: %w", err)
	}
	read := r.readWhole
	if who.ByDatagram {
		read = func(b []byte) error { return r.readBrief(b, a.trust(), now) }
	}
	if err := read(request); err != nil {
		return admission.Granted{}, err
	}
	return a.extend(r, observed, now)
}

// readWhole reads a request that came over TLS.
func (r *renewal) readWhole(request []byte) error {
	asked, req, err := provision.ParseRenewal(request)
	r.req, r.holds = req, asked.Holds
	return r.check(err)
}

// check says what is wrong with the request, which was read with err.
func (r *renewal) check(err error) error {
	switch {
	case err != nil:
		return &admission.Refusal{Code: admission.CodeRequest, Detail: err.Error()}
	case r.req.PID != r.who.PID:
		return &admission.Refusal{Code: admission.CodeRequest, Detail: "it names another peer"}
	}
	return nil
}

// extend renews. Whether the secret still admits, and to which labels, is decided
// anew; what the machine has from before is not made anew.
func (a *authority) extend(r renewal, observed netip.Addr, now time.Time) (admission.Granted, error) {
	labels, err := a.labels(r.who, r.req, now)
	if err != nil {
		return admission.Granted{}, err
	}
	if err := a.mayIssue(r.ticket.Issuer, labels); err != nil {
		return admission.Granted{}, err
	}
	m := a.memoOf(labels, now)
	attrs := discovery.Attributes(a.rules(), labels)
	onlyCohort := r.before.Cohort && (r.who.ByDatagram || a.slots.OnlyCohort(attrs)) // for datagrams see below
	kept := m.holds(r.before, onlyCohort) & r.holds
	former, listed := a.entryOf(r.who.PID, now)
	if r.who.ByDatagram {
		if err := a.brief(r, labels, kept); err != nil {
			return admission.Granted{}, err
		}
	}
	if err := a.claimed(r.who, r.req, now); err != nil {
		return admission.Granted{}, err
	}
	if r.who.ByDatagram && r.before.Cohort && a.slots.Invite(attrs, now) {
		return admission.Granted{}, errNotBrief // it takes a key of its own over TLS
	}
	if err := a.useTicket(r.ticket, r.before, r.req.Instance, former, listed, now); err != nil {
		return admission.Granted{}, err
	}
	if kept&provision.PartSealing == 0 {
		if err := a.wantReaders(labels, now); err != nil {
			return admission.Granted{}, err
		}
	}
	slot := prepared{Slot: &abe.Slot{}}
	if kept&provision.PartKey != 0 {
		slot.ID, slot.cohort = abe.SlotID(r.before.Slot), r.before.Cohort
		if onlyCohort {
			a.slots.Missed(attrs, now)
		}
	} else if slot, err = a.slot(labels, now); err != nil {
		return admission.Granted{}, err
	}
	spent := &ledger.Ticket{ID: r.ticket.ID, PID: r.ticket.PID, Instance: r.req.Instance, Expires: r.ticket.Expires.Unix()}
	c, signed, err := a.admit(r.who, r.req, membership{labels: labels, slot: slot, ticket: spent}, now)
	if err != nil {
		if kept&provision.PartKey == 0 {
			a.giveBack(slot) // nobody has seen it
		}
		return admission.Granted{}, err
	}
	g, err := a.renewed(c, signed, slot.Slot, kept, observed, now)
	if err != nil {
		return admission.Granted{}, err
	}
	if !r.who.ByDatagram { // a member that runs knows more of them than we
		g.Entries = a.entries()
	}
	a.tellOfFormer(former, listed, r.req)
	a.log.Info("renewed", "peer", c.Name, "pid", c.PID().Short(), "addr", c.Addr4(), "labels", service.LabelText(labels), "secret", r.who.SecretID, "from", observed)
	return admission.Granted{Bytes: provision.Renewed{Kept: kept, Grant: g}.Encode(), Expires: now.Add(sessionLife), Memo: m.of(c, slot.cohort)}, nil
}

// ticketIssuer returns the key of a super peer that may admit now.
func (a *authority) ticketIssuer(pid id.ID, now time.Time) (ed25519.PublicKey, bool) {
	sp, ok := a.trust().Descriptor.SuperPeer(pid)
	if !ok || !sp.Has(service.RoleAdmit) || now.Unix() >= sp.Expires {
		return nil, false
	}
	return sp.Key, true
}

// mayIssue says whether a ticket of issuer may stand in for the secret of these
// labels: a super peer of narrow scope must not admit to more by way of others.
func (a *authority) mayIssue(issuer id.ID, labels map[string]string) error {
	sp, ok := a.trust().Descriptor.SuperPeer(issuer)
	if !ok {
		return admission.ErrTicketIssuer
	}
	for k, v := range labels {
		if !sp.MayGrant(k, v) {
			return fmt.Errorf("%w: label %s=%s", admission.ErrTicketIssuer, k, v)
		}
	}
	return nil
}

// useTicket decides who may use a ticket. The process that it was given to may
// until another one has come back with this identity: then two have it, and the
// later one is the member (docs/adr/0019). Another process is that machine,
// started again, if it is the first to show the ticket and nobody was admitted
// with this identity since; otherwise it has to show the secret. So an old copy of
// a state directory evicts no running machine at a super peer that has not seen
// its ticket. m is its entry, if it is listed.
func (a *authority) useTicket(t *admission.Ticket, before memo, by service.Instance, m service.Member, listed bool, now time.Time) error {
	if by == before.Instance && listed && laterThan(m, before) {
		return clone(m)
	}
	use := ledger.Ticket{ID: t.ID, PID: t.PID, Instance: by, Expires: t.Expires.Unix()}
	since := by != before.Instance && listed && m.Issued > before.Issued
	if since { // spent, but not by this process: asking again changes nothing
		use.Instance = before.Instance
	}
	earlier, first := a.ledger.UseTicket(use, now)
	switch {
	case first && since:
		return admission.ErrTicketUsed
	case first, earlier.Instance == by: // again: its answer was lost
		return nil
	case by == before.Instance:
		return &admission.Refusal{Code: admission.CodeClone, Detail: "its ticket was used by another process"}
	}
	return admission.ErrTicketUsed
}

// laterThan says whether m was admitted after the grant of a memo, as another
// process.
func laterThan(m service.Member, before memo) bool {
	if m.Instance == before.Instance {
		return false
	}
	return m.Issued > before.Issued || m.Issued == before.Issued && string(m.Instance[:]) > string(before.Instance[:])
}

// clone tells the earlier of two machines about the later.
func clone(m service.Member) error {
	return &admission.Refusal{Code: admission.CodeClone, Detail: fmt.Sprintf("%s on %s, since %s", m.Name, m.VM, time.Unix(m.Issued, 0).UTC().Format(time.RFC3339))}
}

// entryOf returns the latest entry of a PID that we list, or another super peer
// with the machine's own word: anybody who may admit can list any key.
func (a *authority) entryOf(pid id.ID, now time.Time) (latest service.Member, ok bool) {
	if e := a.ledger.Member(pid); e != nil && now.Unix() < e.Member.NotAfter {
		latest, ok = e.Member, true
	}
	for _, e := range a.others.Entries(pid, now) {
		if m := e.Member(); m.Claimed(a.trust().Service, e.Issuer()) && (!ok || m.Issued > latest.Issued) {
			latest, ok = m, true
		}
	}
	return latest, ok
}

// tellOfFormer writes down that another process of a machine is a member no
// longer: on the same machine it has started anew, as far as anybody can tell; on
// another one, the identity was copied. old is what entryOf said before.
func (a *authority) tellOfFormer(old service.Member, listed bool, req provision.Request) {
	pid := req.PID
	switch {
	case !listed || old.Instance == req.Instance:
	case old.VM == req.VM:
		a.log.Info("another process of this machine takes over", "peer", req.Name, "pid", pid.Short())
	default:
		a.log.Warn("a machine with the identity of another takes over; if nobody moved it, its state directory was copied", "peer", req.Name, "pid", pid.Short(), "from", old.VM, "detail", req.VM)
	}
}

// renewed gathers what has changed.
func (a *authority) renewed(c *service.Credential, signed []byte, slot *abe.Slot, kept provision.Parts, observed netip.Addr, now time.Time) (provision.Grant, error) {
	if kept == provision.AllParts {
		return provision.Grant{
			Credential: signed, Epoch: c.Epoch, Observed: observed, SessionExpires: now.Add(sessionLife).Unix(),
		}, nil
	}
	g, err := a.assemble(c, signed, slot, observed, now)
	if err != nil {
		return g, err
	}
	return g.Without(kept), nil
}
