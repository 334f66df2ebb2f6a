package superpeer

import (
	"context"
	"crypto/ed25519"
	"errors"
	mrand "math/rand/v2"
	"slices"
	"sync"
	"time"

	"icvpn/internal/control"
	"icvpn/internal/discovery"
	"icvpn/internal/id"
	"icvpn/internal/service"
	"icvpn/internal/wire"
	"icvpn/overlay"
)

// A universal overlay of several operators is a service like others, whose
// members are super peers. Being one is not our affair: the process joins as
// every machine does, and hands us what the membership is good for.
//
//	our services ─> Advert, documents ─> overlay ─┬─> View of another super peer
//	                                              └─> ...
//
// A View reads and keeps all of it, within bounds, so that finding a service
// depends on no lookup. What an advert says is its publisher's word, each entry
// that of the key in it; a service is known by its documents, which its owners
// signed, and an entry counts as theirs only if the descriptor names its key.

// We chose:
const (
	// advertLife is how long an advert is believed; it is published anew at a
	// third of that.
	advertLife = 15 * time.Minute
	// universeRead is how often the adverts of all members are read.
	universeRead = 30 * time.Second
	// maxPublishers and maxKnownServices bound what is kept.
	maxPublishers    = 1024
	maxKnownServices = 4096
	readTimeout      = 10 * time.Second
)

// Membership is a membership in a universal overlay: node.Node.
type Membership interface {
	PID() id.ID
	Trust() *service.Trust
	Members() []service.Member
	PutObject(ctx context.Context, salt []byte, seq int64, data []byte) error
	GetObjectAfter(ctx context.Context, key ed25519.PublicKey, salt []byte, after int64) ([]byte, overlay.Item, error)
}

// View is what the super peers of a host know of one universal overlay.
type View struct {
	host     *Host
	universe id.ID
	name     string

	mu       sync.Mutex
	adverts  map[id.ID]heard // by publisher
	services map[id.ID]*service.Trust
}

// heard is an advert and when it came.
type heard struct {
	advert service.Advert
	at     time.Time
}

// AddView makes the host a part of a universal overlay, before Run.
func (h *Host) AddView(universe id.ID, name string) *View {
	v := &View{host: h, universe: universe, name: name, adverts: map[id.ID]heard{}, services: map[id.ID]*service.Trust{}}
	h.views = append(h.views, v)
	return v
}

// Run publishes and reads through a membership until ctx ends. What was read
// stays for the next membership, as long as it is valid.
func (v *View) Run(ctx context.Context, m Membership) {
	publish, read := time.NewTimer(0), time.NewTimer(0)
	defer publish.Stop()
	defer read.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-publish.C:
			wait := jitter(advertLife / 3)
			if err := v.publish(ctx, m, time.Now()); err != nil && ctx.Err() == nil {
				v.host.log.Debug("advert not published", "overlay", v.name, "err", err)
				wait = jitter(2 * putRetry)
			}
			publish.Reset(wait)
		case <-read.C:
			v.read(ctx, m)
			read.Reset(jitter(universeRead))
		}
	}
}

// publish puts our advert and the documents in it into the overlay.
func (v *View) publish(ctx context.Context, m Membership, now time.Time) error {
	a := service.NewAdvert(v.universe, m.PID(), now.UnixMilli(), now.Add(advertLife), v.host.record())
	var errs []error
	for _, s := range v.host.all {
		st := s.service.standing.Load()
		if !s.joins(v.universe) || !st.mayAdmit(now) {
			continue
		}
		d := st.trust.Descriptor
		a.Add(service.Advertised{Service: d.Service, Name: d.Name, Endpoints: st.self.Endpoints, Seq: d.Seq, Until: d.Expires}, s.authority.key)
		docs := wire.Marshal(st.docs)
		errs = append(errs, v.know(d.Service, docs, now), m.PutObject(ctx, discovery.SaltService(d.Service), int64(d.Seq), docs))
	}
	b, err := a.Encode()
	if err == nil {
		v.hear(a, now)
		err = m.PutObject(ctx, discovery.SaltAdvert, a.Seq, b)
	}
	return errors.Join(append(errs, err)...)
}

// read takes in what other members published since. Whom it begins with is left
// to chance, so that nobody is always last.
func (v *View) read(ctx context.Context, m Membership) {
	members := m.Members()
	mrand.Shuffle(len(members), func(i, j int) { members[i], members[j] = members[j], members[i] })
	for _, member := range members[:min(len(members), maxPublishers)] {
		if ctx.Err() != nil {
			return
		}
		rctx, cancel := context.WithTimeout(ctx, readTimeout)
		err := v.readOne(rctx, m, member)
		cancel()
		if err != nil && !errors.Is(err, overlay.ErrUnchanged) && ctx.Err() == nil {
			v.host.log.Debug("advert not read", "overlay", v.name, "pid", member.PID().Short(), "err", err)
		}
	}
	v.forget(time.Now())
}

func (v *View) readOne(ctx context.Context, m Membership, member service.Member) error {
	pid, key := member.PID(), ed25519.PublicKey(member.Key)
	b, it, err := m.GetObjectAfter(ctx, key, discovery.SaltAdvert, v.lastOf(pid))
	if err != nil {
		return err
	}
	a, err := service.OpenAdvert(b, v.universe, pid, it.Seq, time.Now())
	if err != nil {
		return err
	}
	v.hear(a, time.Now())
	for _, s := range a.Services {
		if t := v.trustOf(s.Service); t != nil && t.Descriptor.Seq >= s.Seq {
			continue
		}
		b, _, err := m.GetObjectAfter(ctx, key, discovery.SaltService(s.Service), -1)
		if err != nil {
			return err
		}
		if err := v.know(s.Service, b, time.Now()); err != nil {
			return err
		}
	}
	return nil
}

func (v *View) lastOf(pid id.ID) int64 {
	v.mu.Lock()
	defer v.mu.Unlock()
	if h, ok := v.adverts[pid]; ok {
		return h.advert.Seq
	}
	return -1
}

func (v *View) trustOf(sid id.ID) *service.Trust {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.services[sid]
}

func (v *View) hear(a service.Advert, now time.Time) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if _, known := v.adverts[a.Publisher]; known || len(v.adverts) < maxPublishers {
		v.adverts[a.Publisher] = heard{a, now}
	}
}

// know takes in the documents of a service.
func (v *View) know(sid id.ID, b []byte, now time.Time) error {
	var docs service.Documents
	if err := wire.Unmarshal(b, &docs, maxDocuments); err != nil {
		return err
	}
	trust, err := service.Open(docs, sid, 0, now)
	if err != nil {
		return err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	old, known := v.services[sid]
	if known && trust.Descriptor.Seq <= old.Descriptor.Seq || !known && len(v.services) >= maxKnownServices {
		return nil
	}
	v.services[sid] = trust
	return nil
}

// forget drops adverts that ended, and services that nobody advertises.
func (v *View) forget(now time.Time) {
	v.mu.Lock()
	defer v.mu.Unlock()
	named := map[id.ID]bool{}
	for pid, h := range v.adverts {
		if now.Unix() >= h.advert.Expires {
			delete(v.adverts, pid)
			continue
		}
		for _, s := range h.advert.Services {
			named[s.Service] = true
		}
	}
	for sid := range v.services {
		if !named[sid] {
			delete(v.services, sid)
		}
	}
}

// list returns what is advertised: services whose owners' documents are known,
// with the super peers that those name.
func (v *View) list(now time.Time) map[id.ID]*control.Service {
	v.mu.Lock()
	defer v.mu.Unlock()
	out := map[id.ID]*control.Service{}
	for _, h := range v.adverts {
		if now.Unix() >= h.advert.Expires {
			continue
		}
		for _, e := range h.advert.Services {
			t := v.services[e.Service]
			if t == nil {
				continue
			}
			sp, ok := t.Descriptor.SuperPeer(id.FromKey(e.Key))
			if !ok {
				continue
			}
			if out[e.Service] == nil {
				out[e.Service] = describe(t)
				out[e.Service].Universe = v.name
			}
			seen(out[e.Service], sp.PID(), h.at, h.advert.Record)
		}
	}
	return out
}

// record is what a host says of itself.
func (h *Host) record() service.SuperPeerRecord {
	roles := []string{service.RoleStore}
	for _, s := range h.all {
		for _, role := range s.authority.self().Roles {
			if !slices.Contains(roles, role) {
				roles = append(roles, role)
			}
		}
	}
	slices.Sort(roles)
	binary := h.all[0].cfg.Binary
	return service.SuperPeerRecord{
		Labels: h.all[0].cfg.Labels, Roles: roles[:min(len(roles), 8)], Binary: binary[:min(len(binary), 64)],
		Load: uint8(min(100, 100*h.door.running()/maxConnections)),
	}
}

// joins says whether a service's owner has its super peers join a universe.
func (s *SuperPeer) joins(universe id.ID) bool {
	t, err := service.ParseToken(s.cfg.HandOver.Join)
	return err == nil && t.Service == universe
}
