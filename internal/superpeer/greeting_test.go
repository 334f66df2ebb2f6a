package superpeer

import (
	"crypto/ed25519"
	"crypto/tls"
	"errors"
	"net"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"icvpn/admission"
	"icvpn/internal/keypool"
)

// written counts what the other side has taken of a pipe.
type written struct {
	net.Conn
	n *int
}

func (w written) Write(b []byte) (int, error) {
	n, err := w.Conn.Write(b)
	*w.n += n
	return n, err
}

// TestLongHandshakesAreCutOff: neither certificates nor a ClientHello of a stranger
// are read beyond maxHandshake, and nobody waits for the rest; those of super peers
// and machines are far from it.
func TestLongHandshakesAreCutOff(t *testing.T) {
	withoutMaster(t, 2, func(t *testing.T, k *keyless) {
		meet := func(config *tls.Config) (n int, err error) {
			t.Helper()
			began := time.Now()
			c := tls.Client(written{k.maker.dial(newcomerAt), &n}, config)
			defer c.NetConn().Close()
			if err = c.Handshake(); err == nil && len(config.Certificates) > 0 { // whom the server refuses hears of it after its own Finished
				_ = c.SetReadDeadline(time.Now().Add(time.Millisecond))
				_, err = c.Read(make([]byte, 1))
			}
			if time.Since(began) > time.Second {
				t.Errorf("the place was held for %v", time.Since(began))
			}
			return n, err
		}
		giving := func(own *tls.Config) *tls.Config {
			return admission.MutualTLS(own.Certificates[0], keypool.ALPN, func(ed25519.PublicKey) error { return nil })
		}
		long := k.cert.config(time.Now()).Certificates[0]
		long.Certificate = slices.Repeat(long.Certificate, 512)
		chain := giving(&tls.Config{Certificates: []tls.Certificate{long}})
		hello := admission.ClientTLS(nil)
		hello.NextProtos = append(slices.Repeat([]string{strings.Repeat("x", 255)}, 200), admission.ALPN)
		both := giving(k.cert.config(time.Now()))
		both.NextProtos = append(slices.Repeat([]string{strings.Repeat("x", 255)}, 200), keypool.ALPN)
		for what, config := range map[string]*tls.Config{"certificates": chain, "a machine's ClientHello": hello, "a super peer's ClientHello": both} {
			if n, err := meet(config); err == nil || n > maxHandshake {
				t.Errorf("%s: %d bytes are read, %v", what, n, err)
			}
		}
		for what, config := range map[string]*tls.Config{"a super peer": giving(k.cert.config(time.Now())), "a machine": admission.ClientTLS(nil), "a member": admission.TicketTLS(nil)} {
			n, err := meet(config)
			if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) || n > maxHandshake/4 {
				t.Errorf("%s: a handshake of %d bytes, %v", what, n, err)
			}
		}
	})
}

// TestWhoMakesNoKeysDoesNotAskForCertificates: it speaks admission only.
func TestWhoMakesNoKeysDoesNotAskForCertificates(t *testing.T) {
	withoutMaster(t, 2, func(t *testing.T, k *keyless) {
		g := &gate{SuperPeer: k.SuperPeer, pipes: newPipes(), svc: k.svc}
		defer g.open(t)()
		asked := false
		config := admission.MutualTLS(k.maker.cert.config(time.Now()).Certificates[0], keypool.ALPN, func(ed25519.PublicKey) error { return nil })
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			asked = true
			return &k.maker.cert.config(time.Now()).Certificates[0], nil
		}
		c := tls.Client(g.dial(newcomerAt), config)
		defer c.NetConn().Close()
		if err := c.Handshake(); err == nil || !strings.Contains(err.Error(), "no application protocol") || asked {
			t.Errorf("asked for a certificate: %v, %v", asked, err)
		}
	})
}
