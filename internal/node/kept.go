package node

import (
	"bytes"
	"errors"
	"fmt"
	"time"

	"icvpn/abe"
	"icvpn/admission"
	"icvpn/internal/id"
	"icvpn/internal/provision"
	"icvpn/internal/service"
)

// Kept is what a machine has of a membership before, for key continuity: it
// comes back with a ticket, in one round trip less than with its secret times
// three, and is given only what has changed.
type Kept struct {
	Session  admission.Session
	Grant    provision.Grant
	Key      *abe.Key // of Grant; nil: read when it turns out to be of use
	SecretID string   // that it was first admitted with
	Issuer   id.ID    // of this process's credential; zero in another process
	Newest   uint32   // epoch that the owners have spoken of; 0 if that is not known
}

// Kept returns what m leaves for the next admission.
func (m *Membership) Kept() *Kept {
	return &Kept{Session: m.Session, Grant: m.Grant, Key: m.Key, SecretID: m.Credential.SecretID, Issuer: m.Credential.Issuer, Newest: m.Epochs.Last()}
}

// keepEpochs goes on with a document that was kept if a super peer knows only an
// older one.
func (m *Membership) keepEpochs(k *Kept) {
	if k == nil || len(k.Grant.Epochs.Body) == 0 {
		return
	}
	if e, err := m.Trust.OpenEpochs(k.Grant.Epochs); err == nil && e.Newer(m.Epochs) {
		m.Epochs, m.Grant.Epochs = e, k.Grant.Epochs
	}
}

// serves says whether the ticket can stand in for the token's secret. A token
// with another secret is there to get what that one grants.
func (k *Kept) serves(token service.Token, now time.Time) bool {
	return k != nil && len(k.Session.Ticket) > 0 && !k.Session.Expired(now) && k.SecretID == token.SecretID
}

// errKept is wrapped by what goes wrong with a kept grant: the secret gets a
// whole one.
var errKept = errors.New("node: what was kept of the membership before serves no more")

// needsSecret says whether an admission that failed with a ticket is to be tried
// with the secret, at the same super peer. Who is refused for another reason
// would be refused again.
func needsSecret(err error) bool {
	var r *RefusedError
	if errors.As(err, &r) {
		switch r.Refusal.Code {
		case admission.CodeTicket, admission.CodeRequest, admission.CodeInternal:
			return true
		}
		return false
	}
	return errors.Is(err, errKept)
}

// keptMargin is how long statements and envelopes that are kept must hold on:
// two lives of a credential, the next one and a late renewal.
const keptMargin = 48 * time.Hour

// renewal makes the request that goes with our ticket.
func (a *admittance) renewal() ([]byte, error) {
	if err := a.learnClock(a.client.ServerTime()); err != nil {
		return nil, err
	}
	return provision.Renewal{Request: a.request().Encode(), Holds: a.holds()}.Encode(), nil
}

// holds are the parts of the kept grant that can be used on. A super peer that
// has lost its authority since has signed nothing that can.
func (a *admittance) holds() (p provision.Parts) {
	g := a.cfg.Kept.Grant
	if len(g.AttributeKey) > 0 {
		p |= provision.PartKey
	}
	if len(g.Policy.Body) > 0 {
		p |= provision.PartPolicy
	}
	if len(g.EpochKey) > 0 && (a.cfg.Kept.Newest == 0 || g.Key(a.cfg.Kept.Newest) != nil) {
		p |= provision.PartEpoch
	}
	until := a.now().Add(keptMargin)
	if g.Publish != nil {
		if _, err := abe.VerifyStatement(g.Publish, a.cfg.Token.Service, a.verifyKeyAt(until), until); err != nil {
			return p
		}
	}
	for _, e := range g.Envelopes {
		if _, err := abe.VerifyEnvelope(e, a.cfg.Token.Service, a.verifyKeyAt(until), until); err != nil {
			return p
		}
	}
	return p | provision.PartSealing
}

// onRenewed puts what was granted over what we have.
func (a *admittance) onRenewed(data []byte, session admission.Session) error {
	a.step(stepSecret, "ticket of the session before, secret "+a.cfg.Token.SecretID)
	r, err := provision.ParseRenewed(data)
	if err != nil {
		return err
	}
	old := a.cfg.Kept
	g, err := r.Over(old.Grant)
	if err != nil {
		return fmt.Errorf("%w: %w", errKept, err)
	}
	if len(g.Entries) == 0 {
		g.Entries = old.Grant.Entries
	}
	if err := a.take(g); err != nil {
		return fmt.Errorf("%w: %w", errKept, err)
	}
	if a.m.Key = old.Key; a.m.Key == nil || !bytes.Equal(g.AttributeKey, old.Grant.AttributeKey) {
		if a.m.Key, err = abe.ParseKey(g.AttributeKey); err != nil {
			return fmt.Errorf("%w: %w", errKept, err)
		}
	}
	a.m.Session = session
	return nil
}
