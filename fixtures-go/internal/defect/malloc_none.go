//go:build !(cgo && cgoleak)

package defect

import "errors"

func mallocAvailable() error {
	return errors.New("this executable cannot leak C memory; build it with CGO_ENABLED=1 and -tags cgoleak")
}

// mallocAndForget is never called, because mallocAvailable fails first.
func mallocAndForget(uint64) {}
