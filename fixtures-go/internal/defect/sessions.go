package defect

import (
	"time"

	"memgate.dev/fixtures/internal/session"
)

// auditInterval is the time between the audit's looks at the sessions under audit, until it gets stuck.
const auditInterval = 50 * time.Millisecond

// StarveExpiry starts an audit that never ends, and returns a channel that is closed when the audit is stuck.
//
// In the field: somebody adds an audit that walks the sessions of some tenants and reports each to a collector. It
// holds the lock of the walk, so that the expiry loop does not remove the sessions meanwhile. The collector is slow,
// then full, then gone, and the audit blocks with the lock held. The expiry loop does not wait (TryLock), so it skips
// that shard forever without a message. Logins do not need the lock, so they continue, and every session of those
// tenants stays. Profiles show that the login allocates, and nothing that blocks.
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
