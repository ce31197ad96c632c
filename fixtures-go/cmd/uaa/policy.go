package main

import (
	"crypto/sha256"
	"encoding/hex"
	"strconv"

	"memgate.dev/fixtures/internal/session"
)

var (
	resources = []string{
		"accounts", "applications", "approvals", "certificates", "clients", "devices", "groups", "keys", "policies",
		"profiles", "sessions", "tenants",
	}
	actions = []string{"create", "read", "update", "delete"}
)

// entitlement says whether a role may do something.
type entitlement struct {
	resource, action, role string
	weight                 uint64
	allowed                bool
}

// policyDigest returns the digest of the policy that is in force for a user. Services that cache decisions under this
// digest drop them when it changes. The policy is evaluated and rendered anew for every request, which causes most of a
// request's allocations.
func policyDigest(claims *session.Claims) string {
	digest := sha256.Sum256(canonical(entitlements(claims)))
	return hex.EncodeToString(digest[:])
}

// entitlements evaluates what the user may do.
func entitlements(claims *session.Claims) []entitlement {
	granted := make([]entitlement, 0, len(resources)*len(actions))
	for i, resource := range resources {
		for j, action := range actions {
			role := claims.Roles[(i+j)%len(claims.Roles)]
			weight := uint64(len(role)*31 + i*7 + j)
			granted = append(granted, entitlement{resource, action, role, weight, weight%3 != 0})
		}
	}
	return granted
}

// canonical renders entitlements in the form that is digested. The form is written by hand, because its bytes must be
// the same in every release.
func canonical(granted []entitlement) []byte {
	var text []byte
	for i := range granted {
		entry := &granted[i]
		text = append(text, `{"resource":"`...)
		text = append(text, entry.resource...)
		text = append(text, `","action":"`...)
		text = append(text, entry.action...)
		text = append(text, `","weight":`...)
		text = strconv.AppendUint(text, entry.weight, 10)
		text = append(text, `,"allowed":`...)
		text = strconv.AppendBool(text, entry.allowed)
		text = append(text, "}\n"...)
	}
	return text
}
