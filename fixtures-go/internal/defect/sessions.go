package defect

import (
	"time"

	"memgate.dev/fixtures/internal/session"
)

// auditInterval is how often the audit looks at the sessions under audit until it gets stuck.
const auditInterval = 50 * time.Millisecond

// StarveExpiry starts an audit that never ends, and returns a channel that is closed once it is stuck.
//
// In the field: somebody adds an audit that walks the sessions of some tenants and reports each to a collector, and holds
// the lock of the walk so that the expiry loop does not remove what it looks at. The collector is slow, then full, then
// gone; the audit blocks with the lock held. The expiry loop was told not to wait (TryLock), so it skips that shard, for
// ever and in silence. Logins do not need the lock: they go on, and every session of those tenants stays. Profiles show
// the login as what allocates, and nothing that blocks it.
func StarveExpiry(store *session.Store) (stuck <-chan struct{}) {
	reached := make(chan struct{})
	collector := make(chan string) // Nobody receives.
	go func() {
		for {
			store.Audit(func(s *session.Session) {
				close(reached)
				collector <- s.ID
			})
			time.Sleep(auditInterval)
		}
	}()
	return reached
}
