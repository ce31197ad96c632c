package main

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"memgate.dev/fixtures/internal/session"
)

// cookieName is the name of the session cookie.
const cookieName = "session"

// service is the identity service.
type service struct {
	options *options
	store   *session.Store
	defects *defects
	debug   *debug // Nil without -debug-memgate.
	ready   atomic.Bool
}

func newService(options *options) (*service, error) {
	store := session.NewStore(options.sessionTTL, options.seed)
	defects, err := newDefects(options, store)
	if err != nil {
		return nil, err
	}
	made := &service{options: options, store: store, defects: defects}
	if options.debug {
		made.debug = newDebug(os.Stderr)
	}
	return made, nil
}

// start starts what runs beside the requests, until the context ends. When it returns, the service is ready.
func (s *service) start(ctx context.Context) {
	go s.store.ExpireEvery(ctx, s.options.expiryInterval)
	s.defects.start(s.options, s.store)
	s.ready.Store(true)
}

func (s *service) routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/healthz", s.healthz)
	mux.HandleFunc("/login", s.endpoint(http.MethodPost, loginBytes, s.login))
	mux.HandleFunc("/verify", s.endpoint(http.MethodGet, verifyBytes, s.verify))
	mux.HandleFunc("/logout", s.endpoint(http.MethodPost, logoutBytes, s.logout))
	if s.debug != nil {
		s.debug.register(mux)
	}
	return mux
}

// endpoint accepts one method only and lets the planted defects, if any, act on the request.
func (s *service) endpoint(method string, healthyBytes uint64, handle http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if !allowed(w, r, method) {
			return
		}
		s.defects.onRequest(healthyBytes)
		handle(w, r)
	}
}

func allowed(w http.ResponseWriter, r *http.Request, method string) bool {
	if r.Method == method {
		return true
	}
	w.Header().Set("Allow", method)
	http.Error(w, "method not allowed", http.StatusMethodNotAllowed)
	return false
}

func (s *service) healthz(w http.ResponseWriter, _ *http.Request) {
	if !s.ready.Load() {
		http.Error(w, "not ready", http.StatusServiceUnavailable)
		return
	}
	fmt.Fprintln(w, "ok")
}

// grant is the answer to a login.
type grant struct {
	TokenType string `json:"token_type"`
	ExpiresIn int    `json:"expires_in"`
	Subject   string `json:"sub"`
	Scope     string `json:"scope"`
	Policy    string `json:"policy"`
}

// login makes a session for the next user and sets its cookie.
func (s *service) login(w http.ResponseWriter, _ *http.Request) {
	hashPassword(s.options.hashRounds)
	created := s.store.Create(time.Now(), s.defects.auditNext())
	http.SetCookie(w, &http.Cookie{
		Name:     cookieName,
		Value:    s.store.Signer.Cookie(created.ID),
		Path:     "/",
		HttpOnly: true,
		SameSite: http.SameSiteStrictMode,
	})
	reply(w, grant{
		TokenType: "session",
		ExpiresIn: int(s.options.sessionTTL.Seconds()),
		Subject:   created.Claims.Subject,
		Scope:     strings.Join(created.Claims.Roles, " "),
		Policy:    policyDigest(&created.Claims),
	})
}

// hashPassword costs as much as checking a password, and allocates nothing. Each round needs the one before it.
func hashPassword(rounds uint64) {
	var digest [sha256.Size]byte
	for ; rounds > 0; rounds-- {
		digest = sha256.Sum256(digest[:])
	}
}

// introspection is the answer to a verification, similar to RFC 7662, section 2.2.
type introspection struct {
	Active   bool   `json:"active"`
	Subject  string `json:"sub,omitempty"`
	Username string `json:"username,omitempty"`
	Scope    string `json:"scope,omitempty"`
	IssuedAt int64  `json:"iat,omitempty"`
	Expires  int64  `json:"exp,omitempty"`
	Policy   string `json:"policy"`
}

// verify says whether the session of the request's cookie is active. An inactive session is no error: the policy is
// then that of an anonymous user.
func (s *service) verify(w http.ResponseWriter, r *http.Request) {
	found := s.active(r)
	if found == nil {
		reply(w, introspection{Policy: policyDigest(&s.store.Anonymous)})
		return
	}
	reply(w, introspection{
		Active:   true,
		Subject:  found.Claims.Subject,
		Username: found.Claims.Username,
		Scope:    strings.Join(found.Claims.Roles, " "),
		IssuedAt: found.IssuedAt.Unix(),
		Expires:  found.ExpiresAt.Unix(),
		Policy:   policyDigest(&found.Claims),
	})
}

// logout revokes the session of the request's cookie. As in RFC 7009, section 2.2, an inactive session is no error,
// because its revocation is already achieved.
func (s *service) logout(w http.ResponseWriter, r *http.Request) {
	claims := &s.store.Anonymous
	if found := s.active(r); found != nil {
		claims = &found.Claims
		s.store.Revoke(found.ID)
	}
	reply(w, struct {
		Policy string `json:"policy"`
	}{policyDigest(claims)})
}

// active returns the active session of the request's cookie, or nil.
func (s *service) active(r *http.Request) *session.Session {
	cookie, err := r.Cookie(cookieName)
	if err != nil {
		return nil
	}
	id, ok := s.store.Signer.Open(cookie.Value)
	if !ok {
		return nil
	}
	return s.store.Lookup(id, time.Now())
}

func reply(w http.ResponseWriter, body any) {
	text, err := json.Marshal(body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.Write(append(text, '\n'))
}
