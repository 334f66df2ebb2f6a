package admission

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"time"
)

// ServerTLS returns the configuration of a super peer: TLS 1.3 only, a
// self-signed certificate around key made in memory, no session tickets, so no
// resumption and no 0-RTT. One value serves all connections until
// CertificateLife after now; make the next one well before. It takes key, which
// must be complete.
//
// The certificate carries the key, which descriptor, token and proofs name, and
// nothing else that anybody trusts: a new one around the same key changes
// nothing for a peer. Its dates are whole days, so that they do not tell when
// the process began.
func ServerTLS(key ed25519.PrivateKey, now time.Time) *tls.Config {
	return &tls.Config{
		Certificates:           []tls.Certificate{Certificate(key, now)},
		MinVersion:             tls.VersionTLS13,
		NextProtos:             []string{ALPN},
		SessionTicketsDisabled: true,
		CurvePreferences:       []tls.CurveID{tls.X25519MLKEM768, tls.X25519},
		VerifyConnection:       checkALPN,
	}
}

// Certificate returns the certificate that ServerTLS describes. It takes key.
func Certificate(key ed25519.PrivateKey, now time.Time) tls.Certificate {
	day := now.UTC().Truncate(24 * time.Hour)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		Subject:      pkix.Name{CommonName: "icvpn"},
		NotBefore:    day.Add(-24 * time.Hour),
		NotAfter:     day.Add(CertificateLife + 24*time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		panic("admission: internal error: " + err.Error())
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// MutualTLS returns the configuration of either end of a connection that is no
// admission: alpn says what. Both ends show their keys and sign the transcript (RFC
// 8446, Section 4.4.3), which nobody can replay or relay; check says whether the
// other one's key is good, before the handshake ends. crypto/tls asks it before the
// other end has shown that it holds the key, so its answer is anybody's to learn. The
// key exchange is X25519MLKEM768 and nothing else.
func MutualTLS(own tls.Certificate, alpn string, check func(ed25519.PublicKey) error) *tls.Config {
	return &tls.Config{
		Certificates: []tls.Certificate{own}, MinVersion: tls.VersionTLS13, NextProtos: []string{alpn},
		CurvePreferences: []tls.CurveID{tls.X25519MLKEM768}, SessionTicketsDisabled: true,
		ClientAuth: tls.RequireAnyClientCert,
		// There is no PKI: the key counts, which VerifyConnection checks, and nothing
		// else in a certificate.
		InsecureSkipVerify: true,
		VerifyConnection: func(cs tls.ConnectionState) error {
			if cs.NegotiatedProtocol != alpn {
				return fmt.Errorf("admission: the other side speaks %q in TLS, want %q", cs.NegotiatedProtocol, alpn)
			}
			key, err := PeerKey(cs)
			if err != nil {
				return err
			}
			return check(key)
		},
	}
}

// ClientTLS returns the configuration of a peer. It accepts any server that
// proves an Ed25519 key, one of pins when pins are given. Without pins the
// key is unproven until Client has checked the descriptor, which it does
// before it sends anything of its own.
//
// The key exchange is X25519MLKEM768 and nothing else.
func ClientTLS(pins []ed25519.PublicKey) *tls.Config {
	return clientTLS(pins, tls.X25519MLKEM768)
}

// TicketTLS is ClientTLS for a peer that comes with a ticket. The key exchange
// is X25519: what is handed out over it is sealed under a key that descends from
// an admission by secret (grantCipher).
func TicketTLS(pins []ed25519.PublicKey) *tls.Config { return clientTLS(pins, tls.X25519) }

func clientTLS(pins []ed25519.PublicKey, group tls.CurveID) *tls.Config {
	pins = slices.Clone(pins)
	return &tls.Config{
		CurvePreferences: []tls.CurveID{group},
		MinVersion:       tls.VersionTLS13,
		NextProtos:       []string{ALPN},
		// There is no PKI: names and dates in certificates mean nothing here.
		// TLS still checks that the server holds the leaf's key, and
		// VerifyConnection, which always runs, checks which key that is.
		InsecureSkipVerify:     true,
		SessionTicketsDisabled: true,
		VerifyConnection: func(cs tls.ConnectionState) error {
			key, err := PeerKey(cs)
			if err != nil {
				return err
			}
			if err := checkPins(key, pins); err != nil {
				return err
			}
			return checkALPN(cs)
		},
	}
}

func checkPins(key ed25519.PublicKey, pins []ed25519.PublicKey) error {
	if len(pins) == 0 || slices.ContainsFunc(pins, func(pin ed25519.PublicKey) bool { return equal(pin, key) }) {
		return nil
	}
	return &PinError{Shown: key, Pins: pins}
}

// PinError reports a super peer whose TLS key is none of those the token names.
type PinError struct {
	Shown ed25519.PublicKey
	Pins  []ed25519.PublicKey
}

// Error names the fingerprints of the key shown and of those expected.
func (e *PinError) Error() string {
	want := make([]string, len(e.Pins))
	for i, p := range e.Pins {
		want[i] = Fingerprint(p)
	}
	return fmt.Sprintf("admission: the super peer shows key %s, but the token expects %s: somebody may be in between, or the key was changed and the token is old",
		Fingerprint(e.Shown), strings.Join(want, " or "))
}

func checkALPN(cs tls.ConnectionState) error {
	if cs.NegotiatedProtocol != ALPN {
		return fmt.Errorf("admission: the other side speaks %q in TLS, want %q", cs.NegotiatedProtocol, ALPN)
	}
	return nil
}

// PeerKey returns the Ed25519 key of the other end's certificate. TLS has proved
// that it holds it; nothing has proved yet whose it is.
func PeerKey(cs tls.ConnectionState) (ed25519.PublicKey, error) {
	if len(cs.PeerCertificates) == 0 {
		return nil, errors.New("admission: the other side showed no certificate")
	}
	key, ok := cs.PeerCertificates[0].PublicKey.(ed25519.PublicKey)
	if !ok {
		return nil, fmt.Errorf("admission: the other side's TLS key is %v, want Ed25519", cs.PeerCertificates[0].PublicKeyAlgorithm)
	}
	return key, nil
}

// Fingerprint returns "SHA256:" and the unpadded base64 SHA-256 of key, the
// form people know from ssh.
func Fingerprint(key ed25519.PublicKey) string {
	sum := sha256.Sum256(key)
	return "SHA256:" + base64.RawStdEncoding.EncodeToString(sum[:])
}

// BindClient returns the binding of a finished handshake at the client.
func BindClient(cs tls.ConnectionState) (Binding, error) {
	key, err := PeerKey(cs)
	if err != nil {
		return Binding{}, err
	}
	return bind(cs, key)
}

// BindServer returns the binding at the server, whose own TLS key is key.
func BindServer(cs tls.ConnectionState, key ed25519.PublicKey) (Binding, error) {
	return bind(cs, key)
}

func bind(cs tls.ConnectionState, key ed25519.PublicKey) (Binding, error) {
	if !cs.HandshakeComplete || cs.Version != tls.VersionTLS13 || cs.DidResume {
		return Binding{}, errors.New("admission: need a complete, fresh TLS 1.3 handshake")
	}
	if err := checkALPN(cs); err != nil {
		return Binding{}, err
	}
	b := Binding{ServerKey: slices.Clone(key), Hybrid: cs.CurveID == tls.X25519MLKEM768}
	for _, e := range []struct {
		label string
		to    *[32]byte
	}{{exporterChannel, &b.Exporter}, {exporterContinuity, (*[32]byte)(&b.Ratchet)}} {
		out, err := cs.ExportKeyingMaterial(e.label, nil, len(e.to))
		if err != nil {
			return Binding{}, fmt.Errorf("admission: %w", err)
		}
		copy(e.to[:], out)
		clear(out)
	}
	return b, nil
}
