package session

import (
	"context"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// shards is the number of shards for logins. One more, AuditShard, contains the sessions under audit.
const shards = 16

// AuditShard is the shard of the sessions under audit.
const AuditShard = shards

// Store keeps sessions in shards. Logins, look-ups and revocations never wait for a lock. A walk over a whole shard, by
// the expiry loop or an audit, holds the lock of that shard's walk.
type Store struct {
	// Signer signs the cookies of this store's sessions.
	Signer Signer
	// Anonymous is the user of requests without an active session.
	Anonymous Claims

	ttl    time.Duration
	seed   uint64
	logins atomic.Uint64
	shards [shards + 1]shard
}

type shard struct {
	walk     sync.Mutex
	sessions sync.Map // Session ID → *Session.
}

// NewStore returns an empty store whose sessions live for ttl. The seed determines the users and the IDs.
func NewStore(ttl time.Duration, seed uint64) *Store {
	return &Store{Signer: newSigner(seed), Anonymous: anonymous(seed), ttl: ttl, seed: seed}
}

// Create logs a user in at the time now. A session under audit goes to AuditShard.
func (s *Store) Create(now time.Time, audited bool) *Session {
	r := random(s.seed + s.logins.Add(1)<<20)
	index := r.below(shards)
	if audited {
		index = AuditShard
	}
	session := s.newSession(&r, index, now)
	s.shards[index].sessions.Store(session.ID, session)
	return session
}

// newSession is the call site of a session's memory.
//
//go:noinline
func (s *Store) newSession(r *random, index int, now time.Time) *Session {
	session := &Session{
		ID:        shardPrefix(index) + r.hex(16),
		Claims:    newClaims(r, s.seed),
		IssuedAt:  now,
		ExpiresAt: now.Add(s.ttl),
	}
	session.Document = s.Signer.document(&session.Claims)
	return session
}

func shardPrefix(index int) string {
	const digits = "0123456789abcdef"
	return string([]byte{digits[index>>4], digits[index&15], '-'})
}

// shardOf returns the shard of a session, or nil if no session can have that ID.
func (s *Store) shardOf(id string) *shard {
	if len(id) < 3 || id[2] != '-' {
		return nil
	}
	index, err := strconv.ParseUint(id[:2], 16, 8)
	if err != nil || index >= uint64(len(s.shards)) {
		return nil
	}
	return &s.shards[index]
}

func (s *Store) find(id string) *Session {
	shard := s.shardOf(id)
	if shard == nil {
		return nil
	}
	found, _ := shard.sessions.Load(id)
	session, _ := found.(*Session)
	return session
}

// Lookup returns the session with this ID if it is active at the time now, otherwise nil.
func (s *Store) Lookup(id string, now time.Time) *Session {
	if session := s.find(id); session != nil && session.Active(now) {
		return session
	}
	return nil
}

// Revoke ends the session with this ID, if there is one. Until the expiry loop removes the session, the store remembers
// that it was revoked.
func (s *Store) Revoke(id string) {
	if session := s.find(id); session != nil {
		session.revoked.Store(true)
	}
}

// Expire removes the sessions that have expired at the time now and returns their number. It skips a shard that
// somebody else walks; the next round removes its sessions. (It never does if that walk never ends: see
// defect.StarveExpiry.)
func (s *Store) Expire(now time.Time) int {
	removed := 0
	for i := range s.shards {
		removed += s.shards[i].expire(now)
	}
	return removed
}

func (s *shard) expire(now time.Time) int {
	if !s.walk.TryLock() {
		return 0
	}
	defer s.walk.Unlock()
	removed := 0
	s.sessions.Range(func(id, value any) bool {
		if session, ok := value.(*Session); ok && !now.Before(session.ExpiresAt) {
			s.sessions.Delete(id)
			removed++
		}
		return true
	})
	return removed
}

// ExpireEvery removes expired sessions at every interval until the context ends.
func (s *Store) ExpireEvery(ctx context.Context, interval time.Duration) {
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-ticker.C:
			s.Expire(now)
		}
	}
}

// Audit shows every session under audit to visit, and holds the lock of the shard's walk meanwhile.
func (s *Store) Audit(visit func(*Session)) {
	shard := &s.shards[AuditShard]
	shard.walk.Lock()
	defer shard.walk.Unlock()
	shard.sessions.Range(func(_, value any) bool {
		if session, ok := value.(*Session); ok {
			visit(session)
		}
		return true
	})
}

// Len returns the number of sessions in the store, including expired ones.
func (s *Store) Len() int {
	count := 0
	for i := range s.shards {
		s.shards[i].sessions.Range(func(any, any) bool {
			count++
			return true
		})
	}
	return count
}
