package abe

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"unicode/utf8"

	"github.com/cloudflare/circl/abe/cpabe/tkn20"

	"icvpn/internal/id"
	"icvpn/internal/wire"
)

// SlotSize is the length of a SlotID.
const SlotSize = 16

// SlotID is the random per-peer attribute of a key that was made before its
// peer was known; the credential ties it to the PID. The zero value is no slot.
type SlotID [SlotSize]byte

// Attributes is everything one key says about its holder. Service and
// Generation are always there; the others may be zero, which issues the label
// with `none`, a value no condition can ask for.
type Attributes struct {
	Service    id.ID
	Generation uint32
	SuperPeer  id.ID  // PID, for super peers' keys
	Slot       SlotID // for peers' keys
	VM         string // VMID, at most 63 bytes; unknown when keys come from a pool

	// Labels holds one value for each label of the service, "" where the
	// machine has none. Issue every label: see WithLabels.
	Labels map[string]string
}

// WithLabels returns a with a value for every label in schema, "" for those
// that labels does not have. A label outside the schema is an error: no policy
// of the service could ask for it.
func (a Attributes) WithLabels(schema []string, labels map[string]string) (Attributes, error) {
	all := make(map[string]string, len(schema))
	for _, k := range schema {
		all[k] = labels[k]
	}
	for k := range labels {
		if _, ok := all[k]; !ok {
			return Attributes{}, fmt.Errorf("abe: label %q is not one of the service's", k)
		}
	}
	a.Labels = all
	return a, a.validate()
}

func (a Attributes) validate() error {
	if a.Service.IsZero() {
		return errors.New("abe: attributes without a service")
	}
	if len(a.Labels) > maxLabels {
		return fmt.Errorf("abe: %d labels, the limit is %d", len(a.Labels), maxLabels)
	}
	if a.VM != "" {
		if err := checkToken("vm", a.VM); err != nil {
			return err
		}
	}
	for k, v := range a.Labels {
		if err := checkToken("label key", k); err != nil {
			return err
		}
		if v == "" {
			continue
		}
		if err := checkToken("label value", v); err != nil {
			return err
		}
	}
	return nil
}

func checkToken(what, s string) error {
	if s == "" || len(s) > maxToken || !utf8.ValidString(s) {
		return fmt.Errorf("abe: %s %q: want 1 to %d bytes of UTF-8", what, s, maxToken)
	}
	return nil
}

func (a Attributes) clone() Attributes {
	a.Labels = maps.Clone(a.Labels)
	return a
}

// labelSet names a set of labels, for pools. CBOR of a map is sorted.
func labelSet(labels map[string]string) string {
	if len(labels) == 0 {
		return ""
	}
	return string(wire.Marshal(labels))
}

// tkn20 reads nothing but [A-Za-z0-9_] in a policy, so everything else is
// encoded: system attributes "s_name", label keys "l_" + hex, values "v_" + hex.
// "none" has no "v_", so no value encodes to it.
const (
	tknService    = "s_service"
	tknGeneration = "s_generation"
	tknSuperPeer  = "s_superpeer"
	tknSlot       = "s_slot"
	tknVM         = "s_vm"
	tknNone       = "none"
)

func tknLabel(key string) string { return "l_" + hex.EncodeToString([]byte(key)) }

func tknValue(v []byte) string { return "v_" + hex.EncodeToString(v) }

func tknGenerationValue(g uint32) string {
	return tknValue(binary.BigEndian.AppendUint32(nil, g))
}

// tknMap is what circl's key generator is given.
func (a Attributes) tknMap() map[string]string {
	m := map[string]string{
		tknService:    tknValue(a.Service[:]),
		tknGeneration: tknGenerationValue(a.Generation),
		tknSuperPeer:  tknNone,
		tknSlot:       tknNone,
		tknVM:         tknNone,
	}
	if !a.SuperPeer.IsZero() {
		m[tknSuperPeer] = tknValue(a.SuperPeer[:])
	}
	if a.Slot != (SlotID{}) {
		m[tknSlot] = tknValue(a.Slot[:])
	}
	if a.VM != "" {
		m[tknVM] = tknValue([]byte(a.VM))
	}
	for k, v := range a.Labels {
		m[tknLabel(k)] = tknNone
		if v != "" {
			m[tknLabel(k)] = tknValue([]byte(v))
		}
	}
	return m
}

func (a Attributes) tkn() (t tkn20.Attributes) {
	t.FromMap(a.tknMap())
	return t
}
