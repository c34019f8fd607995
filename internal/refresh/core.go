package refresh

// core is what the parts of a Manager share.
type core struct {
	Config

	life    *lifecycle
	metrics *metrics
	health  *health
	cache   *cache
}

func newCore(c Config) *core {
	m := newMetrics(c.Registerer)
	return &core{
		Config: c, life: newLifecycle(), metrics: m,
		health: &health{gauge: m.unsaved}, cache: &cache{Config: c, storeErrors: m.storeErrors},
	}
}
