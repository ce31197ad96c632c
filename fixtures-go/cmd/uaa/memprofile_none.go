//go:build !memprofile

package main

import "net/http"

func serveMemProfile(w http.ResponseWriter, _ *http.Request) {
	http.Error(w, "this executable does not know its heap profile; build it with -tags memprofile", http.StatusNotImplemented)
}
