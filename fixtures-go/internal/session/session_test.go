package session

import (
	"reflect"
	"runtime"
	"strings"
	"testing"
	"time"
)

var start = time.Unix(1_700_000_000, 0)

const ttl = 2 * time.Second

func TestSessionIsActiveUntilItExpires(t *testing.T) {
	store := NewStore(ttl, 1)
	session := store.Create(start, false)
	if store.Lookup(session.ID, start) != session || store.Lookup(session.ID, start.Add(ttl-1)) != session {
		t.Error("the session must be active until its time is over")
	}
	if store.Lookup(session.ID, start.Add(ttl)) != nil {
		t.Error("the session must have expired")
	}
}

func TestRevokeIsIdempotentAndLeavesOthersAlone(t *testing.T) {
	store := NewStore(ttl, 1)
	revoked, other := store.Create(start, false), store.Create(start, true)
	for i := 0; i < 2; i++ {
		store.Revoke(revoked.ID)
		store.Revoke("no such session")
	}
	if store.Lookup(revoked.ID, start) != nil {
		t.Error("the revoked session must not be active")
	}
	if store.Lookup(other.ID, start) != other {
		t.Error("the other session must still be active")
	}
	if store.Len() != 2 {
		t.Errorf("the store holds %d sessions, want 2: the expiry loop removes revoked ones, not Revoke", store.Len())
	}
}

func TestExpireRemovesWhatHasExpiredOnly(t *testing.T) {
	store := NewStore(ttl, 1)
	for i := 0; i < 100; i++ {
		store.Create(start, i%10 == 0)
	}
	young := store.Create(start.Add(time.Second), false)
	if removed := store.Expire(start.Add(ttl - 1)); removed != 0 {
		t.Errorf("removed %d sessions before their time", removed)
	}
	if removed := store.Expire(start.Add(ttl)); removed != 100 {
		t.Errorf("removed %d sessions, want 100", removed)
	}
	if store.Len() != 1 || store.Lookup(young.ID, start.Add(ttl)) != young {
		t.Error("the younger session must remain")
	}
}

func TestExpireSkipsAShardUnderAudit(t *testing.T) {
	store := NewStore(ttl, 1)
	store.Create(start, false)
	store.Create(start, true)
	removed := 0
	store.Audit(func(*Session) { removed = store.Expire(start.Add(ttl)) })
	if removed != 1 || store.Len() != 1 {
		t.Errorf("removed %d, %d left, want 1 and 1", removed, store.Len())
	}
	if store.Expire(start.Add(ttl)) != 1 {
		t.Error("the audited session must go once the audit has ended")
	}
}

func TestLookupOfForeignIDs(t *testing.T) {
	store := NewStore(ttl, 1)
	for _, id := range []string{"", "0", "00", "00-", "zz-00", "ff-00", "10x00", "00-00000000000000000000000000000000"} {
		if store.Lookup(id, start) != nil {
			t.Errorf("%q must not be found", id)
		}
	}
}

func TestCookieIsOpenedOnlyIfSigned(t *testing.T) {
	signer := newSigner(1)
	cookie := signer.Cookie("00-abc")
	if id, ok := signer.Open(cookie); !ok || id != "00-abc" {
		t.Errorf("the signed cookie opens as %q, %v", id, ok)
	}
	for _, forged := range []string{"", "00-abc", "00-abc.", "00-abd" + cookie[6:], newSigner(2).Cookie("00-abc")} {
		if _, ok := signer.Open(forged); ok {
			t.Errorf("%q must not open", forged)
		}
	}
}

func TestSameSeedSameSessions(t *testing.T) {
	for i, stores := 0, [2]*Store{NewStore(ttl, 7), NewStore(ttl, 7)}; i < 50; i++ {
		a, b := stores[0].Create(start, i%3 == 0), stores[1].Create(start, i%3 == 0)
		if a.ID != b.ID || !reflect.DeepEqual(a.Claims, b.Claims) || string(a.Document) != string(b.Document) {
			t.Fatalf("login %d differs", i)
		}
	}
	if NewStore(ttl, 7).Create(start, false).ID == NewStore(ttl, 8).Create(start, false).ID {
		t.Error("another seed must give other sessions")
	}
}

func TestIDsAreUnique(t *testing.T) {
	store := NewStore(ttl, 1)
	for i := 0; i < 5000; i++ {
		store.Create(start, false)
	}
	if store.Len() != 5000 {
		t.Errorf("5000 logins made %d sessions", store.Len())
	}
}

func TestDocumentFitsItsBuffer(t *testing.T) {
	store := NewStore(ttl, 1)
	for i := 0; i < 1000; i++ {
		session := store.Create(start, false)
		if cap(session.Document) != 1024 || !strings.HasSuffix(string(session.Document), `"}`) {
			t.Fatalf("a document of %d bytes has outgrown its buffer", len(session.Document))
		}
	}
}

func TestSessionTakesAboutTwoKiB(t *testing.T) {
	store := NewStore(ttl, 1)
	const logins = 4000
	before := liveHeap()
	for i := 0; i < logins; i++ {
		store.Create(start, false)
	}
	each := float64(liveHeap()-before) / logins
	runtime.KeepAlive(store)
	t.Logf("a session takes %.0f bytes of live heap", each)
	if each < 1900 || each > 2600 {
		t.Errorf("a session takes %.0f bytes of live heap, want about 2 KiB", each)
	}
}

func liveHeap() uint64 {
	runtime.GC()
	runtime.GC()
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	return stats.HeapAlloc
}
