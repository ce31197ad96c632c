package session

import (
	"encoding/hex"
	"strconv"
)

// Claims is what the service knows about the user of a session.
type Claims struct {
	Subject  string
	Username string
	Email    string
	Tenant   string
	Roles    []string
	Device   Device
	Profile  []Attribute
}

// Device is the device on which the user logged in.
type Device struct {
	ID        string
	Platform  string
	UserAgent string
	Address   string
	Trusted   bool
}

// Attribute is an entry of a user's profile.
type Attribute struct {
	Name      string
	Value     string
	UpdatedAt int64
}

const population = 10_000

var (
	tenants   = []string{"north", "south", "east", "west"}
	roles     = []string{"user", "editor", "auditor", "operator", "approver", "billing", "support", "admin"}
	platforms = []string{"linux/amd64", "linux/arm64", "linux/loong64", "android", "ios"}
	agents    = []string{
		"Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0",
		"Mozilla/5.0 (X11; Linux aarch64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/130.0.0.0 Safari/537.36",
		"Mozilla/5.0 (X11; Linux loongarch64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0.0.0 Safari/537.36",
	}
	attributes = []string{
		"given_name", "family_name", "locale", "zoneinfo", "phone_number", "department", "cost_centre",
		"manager", "office", "employee_number", "theme", "mfa_method",
	}
)

// random is a counter-based generator (splitmix64). The n-th login gets the same user in every run with the same seed,
// whatever the order of the goroutines is.
type random uint64

func (r *random) next() uint64 {
	*r += 0x9e3779b97f4a7c15
	z := uint64(*r)
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}

func (r *random) below(n int) int {
	return int(r.next() % uint64(n))
}

// pick returns one of the choices.
func (r *random) pick(choices []string) string {
	return choices[r.below(len(choices))]
}

// hex returns 2*bytes hexadecimal digits; bytes is at most 32.
func (r *random) hex(bytes int) string {
	var raw [32]byte
	for i := 0; i < bytes; i += 8 {
		word := r.next()
		for j := 0; j < 8; j++ {
			raw[i+j] = byte(word >> (8 * j))
		}
	}
	return hex.EncodeToString(raw[:bytes])
}

// newClaims makes the claims of one of the users. The user's data follow from the user's number alone, and the login's
// data from r. All users' claims take the same memory, within a few bytes.
func newClaims(r *random, seed uint64) Claims {
	number := r.below(population)
	user := random(seed ^ uint64(number)<<32)
	name := "user" + strconv.Itoa(10_000+number)
	claims := Claims{
		Subject:  user.hex(16),
		Username: name,
		Email:    name + "@identity.example",
		Tenant:   user.pick(tenants),
		Roles:    make([]string, 0, 4),
		Device: Device{
			ID:        r.hex(16),
			Platform:  r.pick(platforms),
			UserAgent: r.pick(agents),
			Address:   "10." + strconv.Itoa(100+r.below(100)) + "." + strconv.Itoa(100+r.below(100)) + ".17",
			Trusted:   r.below(4) != 0,
		},
		Profile: make([]Attribute, 0, len(attributes)),
	}
	first := user.below(len(roles))
	for i := 0; i < cap(claims.Roles); i++ {
		claims.Roles = append(claims.Roles, roles[(first+i)%len(roles)])
	}
	for _, attribute := range attributes {
		claims.Profile = append(claims.Profile, Attribute{
			Name:      attribute,
			Value:     user.hex(8),
			UpdatedAt: 1_700_000_000 + int64(user.below(50_000_000)),
		})
	}
	return claims
}

// anonymous is the user of requests without a session.
func anonymous(seed uint64) Claims {
	r := random(seed)
	claims := newClaims(&r, seed)
	claims.Username, claims.Email = "anonymous", ""
	claims.Roles = []string{"guest"}
	return claims
}
