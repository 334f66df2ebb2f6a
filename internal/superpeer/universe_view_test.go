package superpeer

import (
	"context"
	"crypto/ed25519"
	"errors"
	"testing"
	"time"

	"icvpn/internal/discovery"
	"icvpn/internal/id"
	"icvpn/internal/service"
	"icvpn/overlay"
)

// board is a universal overlay in memory: what members put is there for all.
type board struct {
	members []service.Member
	items   map[string]boardItem
}

type boardItem struct {
	seq  int64
	data []byte
}

// seat is one member's part in it.
type seat struct {
	*board
	key ed25519.PrivateKey
}

var _ Membership = seat{}

func (s seat) public() ed25519.PublicKey { return s.key.Public().(ed25519.PublicKey) }
func (s seat) PID() id.ID                { return id.FromKey(s.public()) }
func (s seat) Trust() *service.Trust     { return nil }
func (s seat) Members() []service.Member { return s.members }

func (s seat) PutObject(_ context.Context, salt []byte, seq int64, data []byte) error {
	s.items[string(s.public())+string(salt)] = boardItem{seq, data}
	return nil
}

func (s seat) GetObjectAfter(_ context.Context, key ed25519.PublicKey, salt []byte, after int64) ([]byte, overlay.Item, error) {
	it, ok := s.items[string(key)+string(salt)]
	switch {
	case !ok:
		return nil, overlay.Item{}, overlay.ErrNotFound
	case it.seq <= after:
		return nil, overlay.Item{}, overlay.ErrUnchanged
	}
	return it.data, overlay.Item{Seq: it.seq}, nil
}

// join gives a host a view of the board, by a member of its own.
func (b *board) join(t *testing.T, h *Host, universe id.ID, seed byte) (*View, seat) {
	t.Helper()
	key := ed25519.NewKeyFromSeed(append(make([]byte, 31), seed))
	s := seat{b, key}
	b.members = append(b.members, service.Member{Key: s.public(), Name: "super"})
	return h.AddView(universe, "uni"), s
}

// joining makes the services of a host ones whose owners joined a universe.
func joining(gates []*gate, universe id.ID) {
	tok := gates[0].svc.Tokens[0].Token
	tok.Service = universe
	for _, g := range gates {
		g.cfg.HandOver.Join = []byte(tok.Text())
	}
}

func TestViewShowsWhatOtherHostsServe(t *testing.T) {
	universe, now := id.ID{7}, time.Now()
	b := &board{items: map[string]boardItem{}}
	one, gates := newTestHost(t, listenLocal(t), "shop", "wiki")
	two, others := newTestHost(t, listenLocal(t), "shop") // names are not unique
	joining(gates, universe)
	joining(others, universe)
	v1, m1 := b.join(t, one, universe, 1)
	v2, m2 := b.join(t, two, universe, 2)
	for v, m := range map[*View]seat{v1: m1, v2: m2} {
		if err := v.publish(t.Context(), m, now); err != nil {
			t.Fatal(err)
		}
	}
	v2.read(t.Context(), m2)
	all, err := two.Services(t.Context())
	if err != nil || len(all) != 3 || all[0].Name != "shop" || all[1].Name != "shop" || all[2].Name != "wiki" {
		t.Fatalf("%+v, %v", all, err)
	}
	for _, s := range all {
		own := s.ID == others[0].svc.ID.String()
		if s.Own != own || s.Universe != "uni" || s.SuperPeers[0].Seen.IsZero() || (len(s.Rules) > 0) != own {
			t.Errorf("%s: %+v", s.Name, s)
		}
	}
	// Without any answer what was read stays until it ends.
	clear(b.items)
	v2.read(t.Context(), m2)
	if all, _ := two.Services(t.Context()); len(all) != 3 {
		t.Errorf("%d services known when nobody answers", len(all))
	}
	v2.forget(now.Add(advertLife))
	if all, _ := two.Services(t.Context()); len(all) != 1 || !all[0].Own {
		t.Errorf("%d services known when adverts have ended", len(all))
	}
}

// TestAdvertOfAKeyThatTheOwnerDoesNotNameIsNotShown: somebody puts a service's
// real documents beside an endpoint of his own.
func TestAdvertOfAKeyThatTheOwnerDoesNotNameIsNotShown(t *testing.T) {
	universe, now := id.ID{7}, time.Now()
	b := &board{items: map[string]boardItem{}}
	victim, gates := newTestHost(t, listenLocal(t), "shop")
	joining(gates, universe)
	v1, m1 := b.join(t, victim, universe, 1)
	if err := v1.publish(t.Context(), m1, now); err != nil {
		t.Fatal(err)
	}
	reader, _ := newTestHost(t, listenLocal(t), "wiki")
	v2, m2 := b.join(t, reader, universe, 2)
	thief := ed25519.NewKeyFromSeed(make([]byte, 32))
	s := seat{b, thief}
	b.members = []service.Member{{Key: s.public(), Name: "thief"}} // the honest one is not heard
	a := service.NewAdvert(universe, s.PID(), 1, now.Add(time.Minute), service.SuperPeerRecord{})
	a.Add(service.Advertised{Service: gates[0].svc.ID, Name: "shop", Endpoints: []string{"203.0.113.66:4500"}, Seq: 1, Until: now.Unix() + 60}, thief)
	data, err := a.Encode()
	if err != nil {
		t.Fatal(err)
	}
	docs := b.items[string(m1.public())+string(discovery.SaltService(gates[0].svc.ID))].data
	if err := errors.Join(s.PutObject(t.Context(), discovery.SaltAdvert, 1, data), s.PutObject(t.Context(), discovery.SaltService(gates[0].svc.ID), 1, docs)); err != nil {
		t.Fatal(err)
	}
	v2.read(t.Context(), m2)
	if got := v2.list(now); len(got) != 0 {
		t.Errorf("shown: %+v", got)
	}
}

func TestViewIsBounded(t *testing.T) {
	h, _ := newTestHost(t, listenLocal(t), "shop")
	v := h.AddView(id.ID{7}, "uni")
	for i := range 2 * maxPublishers {
		v.hear(service.Advert{Publisher: id.ID{byte(i), byte(i >> 8)}, Expires: 1}, time.Now())
	}
	if len(v.adverts) != maxPublishers {
		t.Errorf("%d adverts kept", len(v.adverts))
	}
	v.forget(time.Now())
	if len(v.adverts) != 0 {
		t.Errorf("%d adverts kept after their end", len(v.adverts))
	}
}
