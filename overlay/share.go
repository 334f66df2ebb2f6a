package overlay

// SetStore changes StoreItems and StoreBytes. What is beyond the new bounds stays
// until it expires, and nothing is taken in its place.
func (m *Machine) SetStore(items, bytes int) {
	m.cfg.StoreItems, m.cfg.StoreBytes = max(1, items), max(1, bytes)
	m.store.books.limits = m.cfg.limits()
}

// SetStore changes StoreItems and StoreBytes of a running node, soon.
func (o *Overlay) SetStore(items, bytes int) {
	o.tell(func(m *Machine) { m.SetStore(items, bytes) })
}
