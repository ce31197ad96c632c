// Package session keeps the sessions of an identity service in memory until they expire.
package session

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// Session is a user's login. It takes about 2 KiB of live heap.
type Session struct {
	// ID is the number of the session's shard in two hexadecimal digits, a dash, and 32 random digits.
	ID string
	// Claims is what the service knows about the user.
	Claims Claims
	// Document is the signed rendering of the claims, made once at login.
	Document []byte
	// IssuedAt is the time of the login.
	IssuedAt time.Time
	// ExpiresAt is when the session stops being active and the expiry loop may remove it.
	ExpiresAt time.Time

	revoked atomic.Bool
}

// Active reports whether the session is neither expired nor revoked.
func (s *Session) Active(now time.Time) bool {
	return !s.revoked.Load() && now.Before(s.ExpiresAt)
}

// Signer signs cookies and documents with a secret.
type Signer struct {
	secret []byte
}

// newSigner derives the secret from the seed, so that runs are reproducible. This is suitable for a fixture only.
func newSigner(seed uint64) Signer {
	sum := sha256.Sum256(strconv.AppendUint([]byte("memgate fixture "), seed, 10))
	return Signer{secret: sum[:]}
}

func (s Signer) sum(message []byte) []byte {
	mac := hmac.New(sha256.New, s.secret)
	mac.Write(message)
	return mac.Sum(nil)
}

// Cookie returns the value of the session cookie: the session's ID and a signature.
func (s Signer) Cookie(id string) string {
	return id + "." + hex.EncodeToString(s.sum([]byte(id))[:16])
}

// Open returns the ID in the value of a session cookie; false means that the service did not sign it.
func (s Signer) Open(cookie string) (string, bool) {
	id, signature, found := strings.Cut(cookie, ".")
	if !found {
		return "", false
	}
	want := hex.EncodeToString(s.sum([]byte(id))[:16])
	return id, hmac.Equal([]byte(signature), []byte(want))
}

// document renders claims as a signed document, similar to a JWT's payload.
func (s Signer) document(claims *Claims) []byte {
	text := make([]byte, 0, 1024)
	text = append(text, `{"sub":"`...)
	text = append(text, claims.Subject...)
	text = append(text, `","tenant":"`...)
	text = append(text, claims.Tenant...)
	text = append(text, `","device":"`...)
	text = append(text, claims.Device.ID...)
	text = append(text, `","profile":{`...)
	for i := range claims.Profile {
		if i > 0 {
			text = append(text, ',')
		}
		text = strconv.AppendQuote(text, claims.Profile[i].Name)
		text = append(text, ':')
		text = strconv.AppendQuote(text, claims.Profile[i].Value)
	}
	text = append(text, `},"signature":"`...)
	signature := s.sum(text)
	text = append(text, base64.RawURLEncoding.EncodeToString(signature)...)
	return append(text, `"}`...)
}
